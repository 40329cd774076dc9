"""Which examples meet in a batch: nothing twice, nothing lost, and every process agrees."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_collection
from torch.utils.data import DataLoader

from rankbench.core import UnknownName
from rankbench.data.batches import (
    GroupByLabelBatches,
    LengthBatches,
    MixedBatches,
    Mixture,
    NoDuplicateBatches,
    RandomBatches,
    pack,
    repeated,
    text_hash,
)
from rankbench.data.examples import Example, Examples
from rankbench.data.training_sets import ClassSet, ListSet, PairSet, check_targets

TINY = make_collection()
TEA = 10431608578837538234  # blake2b of 8 bytes, little-endian


def pairs(seed: int, count: int, texts: int) -> Examples:
    """Pairs whose texts come from a small stock, so that many are there twice."""
    rng = random.Random(seed)
    stock = [f"text {i}" for i in range(texts)]
    return Examples([Example(rng.choice(stock), (rng.choice(stock),)) for _ in range(count)])


def plain(count: int, name: str = "t") -> Examples:
    return Examples([Example(f"{name}{i}", (f"{name}-{i}",)) for i in range(count)])


def classes(counts) -> ClassSet:
    return ClassSet([(f"{c} {i}", c) for c, n in enumerate(counts) for i in range(n)])


def mixture() -> Mixture:
    return Mixture({"a": plain(50, "a"), "b": plain(23, "b"), "c": plain(9, "c")})


SAMPLERS = {
    "random": lambda size, **k: RandomBatches(plain(53), size, **k),
    "no duplicates": lambda size, **k: NoDuplicateBatches(pairs(0, 53, 40), size, **k),
    "by length": lambda size, **k: LengthBatches(pairs(1, 53, 30), size, stretch=2, **k),
    "by label": lambda size, **k: GroupByLabelBatches(classes([20, 15, 10, 8]), size, **k),
    "mixed": lambda size, **k: MixedBatches(mixture(), size, **k),
    "mixed in turn": lambda size, **k: MixedBatches(mixture(), size, "round_robin", "repeat", **k),
    "mixed at random": lambda size, **k: MixedBatches(mixture(), size, 3.0, "repeat", **k),
}
each = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def texts_of(example: Example) -> set[str]:
    return {example.query, *example.documents}


# --- all samplers ----------------------------------------------------------------------------


@each
def test_a_plan_depends_on_seed_and_epoch_only(make):
    one, two, other = make(4, seed=1), make(4, seed=1), make(4, seed=2)
    two.set_epoch(3)
    list(two)
    for sampler in (one, two, other):
        sampler.set_epoch(2)
    assert list(one) == list(two) == list(one) != list(other)
    epoch = list(one)
    one.set_epoch(4)
    assert list(one) != epoch


@each
def test_length_is_what_is_handed_out(make):
    for drop_last in (False, True):
        sampler = make(4, drop_last=drop_last)
        found = list(sampler)
        assert len(found) == len(sampler) == sampler.describe()["batches"]
        assert sampler.describe()["examples"] == sum(map(len, found))
        assert all(len(b) == 4 for b in found) or not drop_last


@each
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_resuming_is_going_on(make, stop):
    whole = make(4, seed=5)
    whole.set_epoch(2)
    expected = list(whole)
    cut, fresh = make(4, seed=5), make(4, seed=5)
    cut.set_epoch(2)
    iteration = iter(cut)
    seen = [next(iteration) for _ in range(stop)]
    fresh.load_state_dict(cut.state_dict())
    fresh.set_epoch(2)  # trainers say it once more
    assert seen + list(fresh) == expected
    assert list(fresh) == expected  # the next iteration starts at the beginning
    fresh.load_state_dict(whole.state_dict(done=1))
    fresh.set_epoch(3)
    assert len(list(fresh)) == len(fresh)  # a position holds for its own epoch


@each
@pytest.mark.parametrize("world", [2, 3])
def test_shards_partition_the_batch(make, world):
    whole = make(4 * world)
    shards = [make(4).shard(rank, world) for rank in range(world)]
    parts = [list(s) for s in shards]
    joined = [sum(batch, []) for batch in zip(*parts, strict=True)]
    expected = [b for b in whole if len(b) >= world]
    assert joined == expected and len(shards[0]) == len(expected)
    assert all(
        abs(len(a) - len(b)) <= 1
        for batch in zip(*parts, strict=True)
        for a in batch
        for b in batch
    )


@pytest.mark.parametrize("name", ["random", "no duplicates", "by length", "mixed"])
def test_every_example_once_per_epoch(name):
    sampler = SAMPLERS[name](4)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seen = [i for b in sampler for i in b]
        assert sorted(seen) == list(range(len(sampler.training_set)))


def test_a_state_of_other_data_is_refused():
    sampler = RandomBatches(plain(20), 4)
    for other in (RandomBatches(plain(21), 4), RandomBatches(plain(20), 5)):
        with pytest.raises(ValueError, match="resume with the same data, seed and number"):
            sampler.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="the saved sampler has seed 1, this one 0"):
        sampler.load_state_dict(RandomBatches(plain(20), 4, seed=1).state_dict())
    halves = RandomBatches(plain(20), 2).shard(1, 2)
    halves.load_state_dict(sampler.state_dict(done=3))  # two processes take over from one
    assert len(list(halves)) == 2


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="expected both above 0"):
        RandomBatches(plain(3), 0)
    with pytest.raises(ValueError, match="expected both above 0"):
        RandomBatches(Examples([]), 2)
    with pytest.raises(ValueError, match="rank is 2 of 2 processes"):
        RandomBatches(plain(3), 1).shard(2, 2)


def test_a_loader_takes_them():
    sampler = RandomBatches(plain(10), 4)
    loader = DataLoader(plain(10), batch_sampler=sampler, collate_fn=list)
    assert [[e.query for e in b] for b in loader] == [[f"t{i}" for i in b] for b in sampler]


def test_the_set_hears_of_the_epoch():
    negatives = PairSet(
        TINY, negatives=1, run={q: {d: 1.0 for d in TINY.documents} for q in TINY.queries}
    )
    sampler = RandomBatches(negatives, 4)
    sampler.set_epoch(7)
    assert negatives.epoch == 7


# --- no duplicates ---------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 60), st.integers(1, 9))
def test_no_text_is_twice_in_a_batch(seed, count, texts, size):
    data = pairs(seed, count, texts)
    found = list(NoDuplicateBatches(data, size, seed=seed))
    assert sorted(i for b in found for i in b) == list(range(count))
    for batch in found:
        assert 0 < len(batch) <= size
        counts = Counter(t for i in batch for t in texts_of(data[i]))
        assert max(counts.values()) == 1


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 12), st.integers(2, 6))
def test_no_answer_to_another_query_is_in_a_batch(seed, count, stock, size):
    rng = random.Random(seed)
    made = []
    for i in range(count):
        relevant = frozenset(f"d{rng.randrange(stock)}" for _ in range(3))
        shown = (rng.choice(sorted(relevant)), f"d{rng.randrange(stock)}")
        shown = tuple(dict.fromkeys(shown))
        texts = tuple(f"text {d}" for d in shown)
        made.append(Example(f"q{i}", texts, None, f"q{i}", shown, relevant))
    data = Examples(made)
    found = list(NoDuplicateBatches(data, size, seed=seed, avoid_relevant=True))
    assert sorted(i for b in found for i in b) == list(range(count))
    for batch in found:
        for i in batch:
            others = {d for j in batch if j != i for d in data[j].document_ids}
            assert not others & (data[i].relevant | set(data[i].document_ids))


def test_batches_are_full_where_they_can_be():
    sampler = NoDuplicateBatches(pairs(0, 3000, 2500), 32)
    assert len(sampler) <= 3000 // 32 + 3


def test_a_text_of_half_the_examples_ends_in_small_batches_and_no_loop():
    crowd = Examples([Example("same" if i % 2 else f"q{i}", (f"d{i}",)) for i in range(2000)])
    held = NoDuplicateBatches(crowd, 100).describe()
    assert held["batches"] == 1000 and held["left out"] == 0
    full = NoDuplicateBatches(crowd, 100, drop_last=True).describe()
    assert full["not full"] == 0 and full["left out"] == 2000 - 100 * full["batches"] > 0


def test_the_order_of_a_hot_text_is_spread_over_the_epoch():
    crowd = Examples([Example("hot" if i < 20 else f"q{i}", (f"d{i}",)) for i in range(1000)])
    places = [n for n, b in enumerate(NoDuplicateBatches(crowd, 10)) if any(i < 20 for i in b)]
    assert len(places) == 20 and max(places) > 70 and min(places) < 30


def test_pairs_of_one_query_are_apart_on_a_real_collection():
    listed = {q: {d: 1 for d, g in grades.items()} for q, grades in TINY.split("train").items()}
    many = PairSet(type(TINY)("many", TINY.documents, TINY.queries, {"train": listed}))
    for batch in NoDuplicateBatches(many, 8, avoid_relevant=True):
        topics = [many[i].query_id.split("-")[0] for i in batch]
        assert len(set(topics)) == len(topics)


def test_documents_that_change_are_read_again():
    run = {q: {d: 1.0 for d in TINY.documents} for q in TINY.queries}
    drawn, fixed = PairSet(TINY, negatives=2, run=run), PairSet(TINY)
    for data, changes in ((drawn, True), (fixed, False)):
        sampler = NoDuplicateBatches(data, 6)
        before = sampler.keys(0)
        assert (sampler.keys(1) is not before and sampler.keys(1)[0] is before[0]) != changes
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            for batch in sampler:
                counts = Counter(t for i in batch for t in texts_of(data[i]))
                assert max(counts.values()) == 1


def test_relevant_documents_have_to_be_known():
    with pytest.raises(ValueError, match="avoid_relevant=True needs examples that name"):
        list(NoDuplicateBatches(plain(4), 2, avoid_relevant=True))


def test_hashes_are_the_same_everywhere():
    assert text_hash("tea") == TEA and text_hash("\ud800") != text_hash("\ud801")


def test_keys_of_one_example_only_are_dropped():
    assert repeated([(7, 9), (), (9, 5), (5,)]) == [[2], [], [2, 0], [0]]
    assert repeated([(), ()]) == [[], []]


def test_packing_by_hand():
    assert pack([0, 1, 2], 2, [[], [], []]) == [[0, 1], [2]]
    assert pack([2, 1, 0], 3, [[1], [1], []]) == [[2, 1], [0]]
    # 1 shows what 0 shuns; 2 meets neither
    assert pack([0, 1, 2], 3, [[1], [2], [3]], [[2], [], []]) == [[0, 2], [1]]
    assert pack([1, 0, 2], 3, [[1], [2], [3]], [[2], [], []]) == [[1, 2], [0]]


# --- classes ---------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 15), min_size=2, max_size=6), st.integers(2, 3), st.integers(2, 4))
def test_every_class_in_a_batch_has_a_positive_and_a_negative(counts, per_class, factor):
    if sum(n >= per_class for n in counts) < 2:
        return
    data = classes(counts)
    sampler = GroupByLabelBatches(data, per_class * factor, per_class=per_class)
    found = list(sampler)
    seen = [i for b in found for i in b]
    assert len(seen) == len(set(seen)) == len(data) - sampler.describe()["left out"]
    for batch in found:
        here = Counter(data.labels()[batch].tolist())
        assert len(here) > 1 and all(n % per_class == 0 for n in here.values())


def test_shards_keep_groups_whole():
    data = classes([30, 30, 30])
    for rank in (0, 1):
        for batch in GroupByLabelBatches(data, 8, drop_last=True).shard(rank, 2):
            assert all(n % 2 == 0 for n in Counter(data.labels()[batch].tolist()).values())


def test_left_over_texts_change_with_the_epoch():
    data = classes([5, 5, 5])
    sampler, left = GroupByLabelBatches(data, 4), set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        left |= set(range(15)) - {i for b in sampler for i in b}
    assert left == set(range(15))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([4, 4], {"batch_size": 3}, "do not go together"),
        ([4, 4], {"batch_size": 2}, "do not go together"),
        ([4, 4], {"batch_size": 4, "per_class": 1}, "do not go together"),
        ([4, 1, 1], {"batch_size": 4}, "1 classes have 2 texts or more; expected two"),
    ],
)
def test_classes_that_cannot_be_grouped(counts, options, message):
    with pytest.raises(ValueError, match=message):
        GroupByLabelBatches(classes(counts), **options)


def test_grouping_needs_classes():
    with pytest.raises(ValueError, match="needs a class for each example; use a ClassSet"):
        GroupByLabelBatches(plain(8), 4)


# --- mixtures --------------------------------------------------------------------------------


def test_a_mixture_is_its_sets_in_a_row():
    mixed = mixture()
    assert len(mixed) == 82 and mixed.targets == "none"
    assert [mixed[i].source for i in (0, 49, 50, 72, 73, 81, -1)] == list("aabbccc")
    assert mixed[50].query == "b0"
    with pytest.raises(IndexError):
        mixed[82]
    with pytest.raises(ValueError, match="needs sets with examples"):
        Mixture({"a": Examples([])})


@pytest.mark.parametrize("strategy", ["proportional", "round_robin", 1.0, 50])
@pytest.mark.parametrize("exhausted", ["stop", "repeat"])
def test_a_batch_comes_from_one_set(strategy, exhausted):
    mixed = mixture()
    sampler = MixedBatches(mixed, 4, strategy, exhausted)
    seen = Counter()
    for batch in sampler:
        assert len({mixed[i].source for i in batch}) == 1
        seen.update(batch)
    if exhausted == "stop" or strategy == "proportional":
        assert max(seen.values()) == 1
    if strategy == "round_robin":
        names = [mixed[b[0]].source for b in sampler]
        rounds = 3 if exhausted == "stop" else 13
        assert names == list("abc") * rounds


def test_a_set_that_starts_again_is_shuffled_anew():
    found = [b for b in MixedBatches(mixture(), 3, "round_robin", "repeat") if b[0] >= 73]
    first, second = found[:3], found[3:6]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) and first != second


def test_a_temperature_evens_out():
    sets = Mixture({"large": plain(2000, "l"), "small": plain(20, "s")})
    share = {}
    for temperature in (1.0, 2.0, 1000.0):
        names = [sets[b[0]].source for b in MixedBatches(sets, 4, temperature, "repeat")]
        share[temperature] = names.count("small") / len(names)
    expected = {1.0: 20 / 2020, 2.0: 20**0.5 / (2000**0.5 + 20**0.5), 1000.0: 0.5}
    assert all(abs(share[t] - expected[t]) < 0.07 for t in share)


def test_sets_have_samplers_and_losses_of_their_own():
    sets = Mixture({"search": pairs(0, 40, 30), "kinds": classes([10, 10])})
    own = {
        "search": NoDuplicateBatches(sets.sets["search"], 8),
        "kinds": GroupByLabelBatches(sets.sets["kinds"], 4),
    }
    mixed = MixedBatches(sets, 8, samplers=own)
    sizes = {sets[b[0]].source: len(b) for b in mixed if len(b) > 1}
    assert sizes["kinds"] == 4 and len(mixed) == len(own["search"]) + len(own["kinds"])
    check_targets({"search": "infonce", "kinds": "supcon"}, sets)
    with pytest.raises(ValueError, match="the set 'kinds' has no loss"):
        check_targets({"search": "infonce"}, sets)
    with pytest.raises(ValueError, match="infonce needs"):
        check_targets("infonce", sets)


def test_texts_of_a_mixture_are_read_once():
    class Counted(Examples):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    data = Counted(pairs(0, 20, 15).examples)
    data.sampled = False
    sampler = MixedBatches(Mixture({"a": data}), 4, samplers={"a": NoDuplicateBatches(data, 4)})
    for epoch in range(3):
        sampler.set_epoch(epoch)
        list(sampler)
    assert data.reads == 20


def test_options_of_a_mixture_are_checked():
    sets = mixture()
    with pytest.raises(UnknownName, match="did you mean round_robin"):
        MixedBatches(sets, 4, "round-robin")
    with pytest.raises(UnknownName):
        MixedBatches(sets, 4, exhausted="again")
    with pytest.raises(UnknownName, match="set of the mixture"):
        MixedBatches(sets, 4, samplers={"d": RandomBatches(plain(4), 2)})
    with pytest.raises(ValueError, match="sampler of 'a' is of another set than the mixture"):
        MixedBatches(sets, 4, samplers={"a": RandomBatches(plain(82), 4)})
    with pytest.raises(ValueError, match="temperature of a mixture is 0"):
        MixedBatches(sets, 4, 0.0)
    with pytest.raises(ValueError, match="the set 'c' has no full batch"):
        len(MixedBatches(sets, 16, drop_last=True))


def test_a_stretch_has_batches():
    with pytest.raises(ValueError, match="stretch is 0; expected a number of batches above 0"):
        LengthBatches(plain(4), 2, stretch=0)


def test_lists_of_one_length_meet():
    words = Examples([Example("w" * (1 + i % 40)) for i in range(400)])
    spread = [np.ptp([len(words[i].query) for i in b]) for b in LengthBatches(words, 8)]
    assert np.mean(spread) < 3
    assert len(list(LengthBatches(ListSet(TINY), 4))) == 12
