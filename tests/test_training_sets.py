"""What training sets hold and leave out, and which losses may learn from them."""

import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_collection

from rankbench.cards import Loss, cards
from rankbench.core import UnknownName
from rankbench.data.collections import (
    Collection,
    Document,
    Texts,
    positive_pairs,
    training_documents,
    with_training,
)
from rankbench.data.examples import TARGETS, Example, Examples
from rankbench.data.training_sets import (
    STRATEGIES,
    ClassSet,
    LabelledPairs,
    ListSet,
    PairSet,
    RunSet,
    TripleSet,
    check_targets,
    draw,
    labelled_lists,
    losses_for,
    parts_of,
    ranked,
    targets_for,
)
from rankbench.losses.combining import scheduled, select, weighted_sum
from rankbench.losses.nested import adaptive_layer, matryoshka

TINY = make_collection()
RUN = {q: {d: 1.0 / (1 + i) for i, d in enumerate(sorted(TINY.documents))} for q in TINY.queries}


ROWS = [("q0-2", "d0-2", "d1-1", "d2-2", "d3-3"), ("q1-3", "d1-3", "d4-1", "d5-1", "d6-1")]


def taught(strategy: str, targets: str, seed: int = 0) -> RunSet:
    options = {"depth": 20, "sample_size": 5, "targets": targets, "seed": seed}
    judged, asked = TINY.split("train"), dict(list(TINY.queries.items())[:9])
    return RunSet(RUN, asked, TINY.documents, judged, strategy=strategy, **options)


MAKERS = {
    "pairs": lambda seed: PairSet(TINY, negatives=3, run=RUN, seed=seed),
    "triples": lambda seed: TripleSet(
        ROWS, TINY.queries, TINY.documents, num_negatives=1, seed=seed
    ),
    "filled": lambda seed: ListSet(TINY, size=9, run=RUN, seed=seed),
    "lists": lambda seed: ListSet(TINY, size=3, targets="binary", seed=seed),
}
for _strategy in STRATEGIES:
    for _targets in ("score", "rank", "relevance"):
        _name = f"{_strategy}, {_targets}"
        MAKERS[_name] = lambda seed, s=_strategy, t=_targets: taught(s, t, seed)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_sample_depends_on_seed_epoch_and_index_only(make):
    one, two, other = make(3), make(3), make(4)
    some = range(min(len(one), 6))
    backwards = {i: two[i] for i in reversed(some)}
    assert [one[i] for i in some] == [backwards[i] for i in some]
    one.set_epoch(1)
    epoch = [one[i] for i in some]
    two.set_epoch(5)
    [two[i] for i in some]
    two.set_epoch(1)
    assert [two[i] for i in some] == epoch
    other.set_epoch(1)
    differs = epoch != [one_of(two, i, 0) for i in some] or epoch != [other[i] for i in some]
    assert differs == one.sampled


def one_of(training_set, index, epoch):
    training_set.set_epoch(epoch)
    return training_set[index]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_texts_labels_and_ids_belong_together(make):
    made = make(0)
    for i in range(min(len(made), 10)):
        e = made[i]
        assert e.query == TINY.queries[e.query_id]
        assert e.documents == tuple(TINY.documents[d].full for d in e.document_ids)
        assert len(set(e.document_ids)) == len(e.document_ids)
        assert (e.labels is None) == (made.targets == "none")
        if e.labels is None:
            judged = TINY.split("train").get(e.query_id, {e.document_ids[0]: 1})
            assert judged[e.document_ids[0]] > 0
    assert made[-1] == made[len(made) - 1]
    with pytest.raises(IndexError):
        made[len(made)]
    assert set(made.describe()) == {"set", "examples", "targets", "sampled", "notes"}


# --- pairs -----------------------------------------------------------------------------------


def test_pairs_are_those_of_the_collection():
    made = PairSet(TINY)
    assert [(e.query_id, e.document_ids[0]) for e in made] == positive_pairs(TINY)
    assert made[0].relevant == {d for d, g in TINY.split("train")["q0-2"].items() if g}


def test_hard_negatives_are_unjudged():
    made = PairSet(TINY, negatives=4, run=RUN)
    for e in made:
        assert len(e.documents) == 5
        assert not set(e.document_ids[1:]) & set(TINY.split("train")[e.query_id])


def test_a_copy_of_the_positive_is_no_negative():
    documents = {"a": Document("", "same"), "b": Document("", "same"), "c": Document("", "else")}
    twice = Collection("twice", documents, {"q": "x"}, {"train": {"q": {"a": 1}}})
    made = PairSet(twice, negatives=2, run={"q": {"b": 2.0, "c": 1.0}})
    assert made[0].document_ids == ("a", "c")


def test_negatives_without_a_run_are_refused():
    with pytest.raises(ValueError, match="negatives=2 needs a run"):
        PairSet(TINY, negatives=2)


def test_pairs_without_a_text_are_counted():
    broken = Collection(
        "b", {"d": Document("", "x")}, {"q": "y"}, {"train": {"q": {"d": 1, "e": 1}}}
    )
    made = PairSet(broken)
    assert len(made) == 1 and made.notes == (
        "1 pairs without a text or a grade above 0 were left out",
    )
    with pytest.raises(ValueError, match="there is no pair to train on: 1 pairs without a text"):
        PairSet(Collection("b", {}, {"q": "y"}, {"train": {"q": {"d": 1}}}))


def test_titles_that_are_queries_are_not_in_the_texts():
    documents = {f"d{i}": Document(f"title number {i}", f"text {i}") for i in range(120)}
    titled = with_training(Collection("t", documents, {"q": "x"}, {"test": {"q": {"d0": 1}}}))
    pairs, lists = PairSet(titled), ListSet(titled, size=2)
    assert pairs.documents == lists.documents == training_documents(titled)
    assert pairs.documents["d1"] == "text 1"
    assert PairSet(TINY).documents == training_documents(TINY)


class Counting(dict):
    """Documents that count how often one is read."""

    reads = 0

    def __getitem__(self, key):
        self.reads += 1
        return super().__getitem__(key)


def test_texts_are_read_when_asked_for(without_shape_checks):
    documents = Counting(TINY.documents)
    made = RunSet(RUN, TINY.queries, documents, depth=5, sample_size=2)
    assert documents.reads == 0
    assert len(made[0].documents) == 2 and documents.reads == 2
    assert Texts({"a": "plain"})["a"] == "plain" and len(Texts(documents)) == len(documents)


# --- triples ---------------------------------------------------------------------------------


def test_triples_of_texts():
    made = TripleSet([("q", "p", "n"), ("q", "p")])
    assert made[0] == Example("q", ("p", "n")) and made[1].documents == ("p",)
    assert made.targets == "none" and not made.sampled


def test_triples_from_an_iterator_with_scores():
    rows, scores = [("q", "p", "n", "m")], [[3, 1, 2]]
    made = TripleSet(iter(rows), num_negatives=1, scores=iter(scores))
    assert made.targets == "score"
    found = set()
    for epoch in range(10):
        made.set_epoch(epoch)
        found.add((made[0].documents, made[0].labels))
    assert found == {(("p", "n"), (3.0, 1.0)), (("p", "m"), (3.0, 2.0))}


@pytest.mark.parametrize(
    ("rows", "scores", "message"),
    [
        (["text"], None, "row 0 is 'text'; expected"),
        ([("q", "p"), ("q",)], None, "row 1 is"),
        ([("q", 3)], None, "row 0 is"),
        ([("q", "p", "n")], [[1.0]], "row 0 has 2 documents but 1 scores"),
        ([("q", "p", "n")], [], "row 0 has 2 documents but 0 scores"),
        ([("q", "p")], [[1.0], [2.0]], "1 rows but scores for 2"),
        ([], None, "no row to train on: none was given"),
    ],
)
def test_broken_rows_are_named(rows, scores, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        TripleSet(rows, scores=scores)


def test_unknown_ids_are_counted():
    rows = [("q0-2", "d0-2", "d1-1"), ("q0-2", "nowhere", "d1-1"), ("nobody", "d0-2", "d1-1")]
    made = TripleSet(rows, TINY.queries, TINY.documents)
    assert len(made) == 1 and made.notes == ("2 rows with an unknown id were left out",)
    assert made[0].document_ids == ("d0-2", "d1-1")
    with pytest.raises(ValueError, match="one of them is missing"):
        TripleSet(rows, TINY.queries)


# --- runs ------------------------------------------------------------------------------------


def test_ranked_breaks_ties_by_id():
    assert ranked({"b": 1.0, "a": 1.0, "c": 3.0}) == ["c", "a", "b"]
    assert ranked({"b": 1.0, "a": 1.0}, depth=1) == ["a"]
    with pytest.raises(ValueError, match="the score of document 'a' is nan"):
        ranked({"a": math.nan})


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from(list(STRATEGIES)))
def test_a_draw_has_no_place_twice(n, m, strategy):
    places = draw(strategy, np.random.default_rng(n), n, m)
    assert len(places) == min(n, m) and places == sorted(set(places))
    assert all(0 <= p < n for p in places)


def test_draws_follow_their_definitions():
    rng = np.random.default_rng(0)
    assert draw("top", rng, 9, 4) == [0, 1, 2, 3]
    both = [draw("top_and_random", rng, 9, 5) for _ in range(300)]
    assert all(p[:2] == [0, 1] for p in both)
    counts = np.bincount([x for p in both for x in p[2:]], minlength=9)[2:]
    assert abs(counts / 300 - 3 / 7).max() < 0.1
    single = np.bincount([draw("log_random", rng, 6, 1)[0] for _ in range(2000)], minlength=6)
    weights = np.array([1 / math.log(1 + r) for r in range(1, 7)])
    assert abs(single / 2000 - weights / weights.sum()).max() < 0.05
    even = np.bincount([draw("random", rng, 6, 1)[0] for _ in range(2000)], minlength=6)
    assert abs(even / 2000 - 1 / 6).max() < 0.05


def small_run(**options):
    run = {"q": {"a": 5.0, "b": 4.0, "c": 3.0, "gone": 9.0}, "r": {"a": 1.0}, "nobody": {"a": 1.0}}
    texts = {d: d.upper() for d in "abcde"}
    return RunSet(run, {"q": "Q", "r": "R"}, texts, **options)


def test_targets_of_a_run():
    judged = {"q": {"b": 2, "c": -1, "e": 1}, "r": {"a": 1}}
    assert small_run()[0].labels == (5, 4, 3)
    assert small_run(targets="rank")[0].labels == (3, 2, 1)
    assert small_run(targets="rank", depth=2)[0].labels == (2, 1)
    assert small_run(targets="relevance", judgments=judged)[0].labels == (0, 2, 0)
    assert small_run(judgments=judged)[0].relevant == {"b", "e"}


def test_what_a_run_loses_is_noted():
    made = small_run(sample_size=2, short="drop")
    assert len(made) == 1 and made.notes == (
        "1 results without a text were left out",
        "1 queries with fewer than 2 results were left out",
        "1 queries without a text were left out",
    )
    assert [len(e.documents) for e in small_run(sample_size=2)] == [2, 1]
    judged = {"q": {"b": 1}}
    made = small_run(targets="relevance", judgments=judged)
    assert "1 queries without judgments were left out" in made.notes
    with pytest.raises(ValueError, match="no query to train on: .*without a relevant document"):
        small_run(strategy="single_relevant", judgments={"q": {"e": 1}, "r": {}})


def test_single_relevant_changes_with_the_epoch_also_without_a_size():
    data = small_run(strategy="single_relevant", judgments={"q": {"a": 1, "b": 1}})
    found = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        found.add(data[0].document_ids[0])
    assert found == {"a", "b"} and data.sampled


def test_single_relevant_finds_answers_outside_of_the_run_if_grades_are_the_labels():
    judged = {"q": {"e": 2}}
    made = small_run(
        strategy="single_relevant", targets="relevance", judgments=judged, sample_size=3
    )
    assert made[0].labels == (2, 0, 0) and made[0].document_ids[0] == "e"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "relevance"}, "needs judgments; pass judgments=collection.split"),
        ({"strategy": "single_relevant"}, "needs judgments"),
        ({"strategy": "log-random"}, "did you mean log_random"),
        ({"targets": "scores"}, "did you mean score"),
        ({"short": "pad"}, "unknown way with short lists"),
        ({"depth": 4, "sample_size": 5}, "sample_size is 5 but depth cuts lists at 4"),
        ({"depth": 0}, "depth is 0"),
        ({"sample_size": -1}, "sample_size is -1"),
    ],
)
def test_options_of_a_run_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        small_run(**options)


def test_a_run_from_a_path(tmp_path):
    made = RunSet("x.run", {"q": "Q"}, {"a": "A"}, read=lambda path: {"q": {"a": 1}})
    assert made[0].labels == (1.0,)
    with pytest.raises(ValueError, match="run is the path 'x.run'; pass read="):
        RunSet("x.run", {"q": "Q"}, {"a": "A"})


# --- lists, pairs with labels, classes -------------------------------------------------------


def test_lists_keep_one_of_the_best_and_fill_up_from_a_run():
    for e in ListSet(TINY, size=9, run=RUN):
        judged = TINY.split("train")[e.query_id]
        assert (
            len(e.documents) == 9
            and e.labels[:6] == (2, 1, 1, 1, 1, 1)
            and set(e.labels[6:]) == {0}
        )
        assert not set(e.document_ids[6:]) & set(judged)
    for e in ListSet(TINY, size=2):
        assert e.labels == (2, 1)
    assert ListSet(TINY, targets="binary")[0].labels == (1,) * 6
    with pytest.raises(ValueError, match="fills lists up to a size"):
        ListSet(TINY, run=RUN)
    with pytest.raises(UnknownName):
        ListSet(TINY, targets="score")


def test_given_lists_become_examples():
    made = labelled_lists([("q", ["a", "b"], [1, 0])], "binary")
    assert made[0] == Example("q", ("a", "b"), (1.0, 0.0)) and made.targets == "binary"
    with pytest.raises(ValueError, match="list 0, query 'q', has no documents"):
        labelled_lists([("q", [], [])])


def test_labelled_pairs_tell_binary_from_graded(without_shape_checks):
    assert LabelledPairs([("a", "b", 1), ("a", "c", 0)]).targets == "binary"
    assert LabelledPairs([("a", "b", 0.5)]).targets == "relevance"
    assert LabelledPairs([("a", "b", 0.5)], targets="score").targets == "score"
    made = LabelledPairs([("q0-0", "d0-0", 1), ("q0-0", "no", 1)], TINY.queries, TINY.documents)
    assert made[0].query_id == "q0-0" and made.notes == ("1 rows with an unknown id were left out",)
    for row in [("a", "b"), ("a", "b", "c"), ("a", "b", math.nan)]:
        with pytest.raises(ValueError, match="row 0 is"):
            LabelledPairs([row])


def test_classes_are_numbered_in_order(without_shape_checks):
    made = ClassSet([("x", "b"), ("y", "a"), ("z", "b")])
    assert made.classes == ["a", "b"] and made.labels().tolist() == [1, 0, 1]
    assert made[0] == Example("x", (), (1.0,))
    assert made.notes == ("1 classes have a single text, which has no positive",)
    with pytest.raises(ValueError, match="row 0 is"):
        ClassSet([("x", 0.5)])


# --- which losses fit ------------------------------------------------------------------------


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_loss_has_an_answer_for_every_target(card):
    assert targets_for(card)
    for targets in TARGETS:
        if targets in targets_for(card):
            check_targets(card.name, targets)
            continue
        with pytest.raises(ValueError) as caught:
            check_targets(card.name, targets)
        message = str(caught.value)
        assert message.startswith(f"{card.name} needs ") and f"targets {targets!r}" in message
        assert f"With targets={targets_for(card)[0]!r}" in message
        named = message.rpartition(" fits ")[2].removesuffix(".").removesuffix(" and others")
        assert set(named.split(", ")) <= set(FITTING[targets])


FITTING = {targets: losses_for(targets) for targets in TARGETS}


def test_the_table_at_places_that_matter():
    judged = ("none", "binary", "relevance")
    everything = (*judged, "score", "rank")
    assert targets_for("kl") == targets_for("margin_mse") == ("score",)
    assert targets_for("ranknet") == targets_for("listmle") == everything
    assert targets_for("infonce") == targets_for("softmax") == targets_for("bce") == judged
    assert targets_for("mse") == targets_for("listnet") == (*judged, "score")
    assert targets_for("supcon") == ("class",)
    assert targets_for("flops") == tuple(TARGETS) == targets_for("embedding_distillation")
    assert losses_for("score")[:2] == ["ranknet", "dpo"] or "kl" in losses_for("score")[:4]
    with pytest.raises(UnknownName):
        check_targets("kl", "scores")


def test_losses_that_take_only_the_order_really_do(without_shape_checks):
    scores = torch.tensor([[0.3, -0.2, 0.9]])
    teacher, order = torch.tensor([[-3.0, 0.5, 2.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    for card in cards(signature="scores"):
        if "rank" in targets_for(card):
            torch.testing.assert_close(card.fn(scores, teacher), card.fn(scores, order))


def test_wrappers_are_looked_through():
    both = weighted_sum({"a": (1.0, "kl"), "b": (0.1, select("flops", 1))})
    assert [c.name for c in parts_of(both)] == ["kl", "flops"]
    assert [c.name for c in parts_of(matryoshka("infonce", (8, 4)))] == ["infonce"]
    assert [c.name for c in parts_of(adaptive_layer("infonce"))] == ["infonce"]
    assert [c.name for c in parts_of(scheduled("kl", teacher_temperature=lambda step: 1.0))] == [
        "kl"
    ]
    assert [c.name for c in parts_of(Loss("ranknet"))] == ["ranknet"]
    assert parts_of(lambda q, d: 0) == []
    check_targets(both, "score")
    with pytest.raises(ValueError, match="kl needs scores of a teacher"):
        check_targets(both, "binary")
    with pytest.raises(ValueError, match="infonce needs"):
        check_targets(matryoshka("infonce", (8, 4)), "score")


def test_the_message_names_the_set_and_both_ways_out():
    made = ListSet(TINY)
    with pytest.raises(ValueError) as caught:
        check_targets("kl", made)
    assert str(caught.value).startswith("kl needs scores of a teacher, but this ListSet gives")
    assert "With targets='score' kl fits; 'relevance' fits " in str(caught.value)


def test_losses_of_embeddings_want_something_relevant():
    wrong = Examples([Example("q", ("a", "b"), (0.0, 0.0))], "binary")
    with pytest.raises(ValueError, match="needs a relevant document for each query"):
        check_targets("infonce", wrong)
    check_targets("infonce", Examples([Example("q", ("a", "b"), (0.0, 1.0))], "binary"))
    check_targets("ranknet", wrong)


def test_probabilities_have_to_be_probabilities():
    check_targets("bixse", LabelledPairs([("a", "b", 0.7)]))
    with pytest.raises(ValueError, match="labels between 0 and 1, but this LabelledPairs has 3"):
        check_targets("bixse", LabelledPairs([("a", "b", 3)]))


def test_counts_of_the_table_do_not_shrink_unseen():
    """A new loss lands in the table by its card; its author should look at it once."""
    counts = collections.Counter(t for c in cards() for t in targets_for(c))
    assert counts["relevance"] == counts["binary"] == counts["none"]
    assert counts["rank"] < counts["score"] < counts["binary"] and counts["class"] >= 12
