from functools import partial

import pytest
import torch
from batches import NEGATIVES_NEEDED
from tiny import make_collection

from rankbench.cards import cards
from rankbench.losses import flops_regularizer, infonce_loss
from rankbench.losses.combining import scheduled, select, weighted_sum
from rankbench.losses.nested import matryoshka
from rankbench.models.static_encoder import StaticEncoder
from rankbench.scaling.schedules import Schedule
from rankbench.training.evaluation import evaluate
from rankbench.training.objective import Objective
from rankbench.training.pairs import PairCollator, PairData, check_trainable, train

TINY = make_collection()
TEXTS = [d.full for d in TINY.documents.values()]
TRAINABLE = [c.name for c in cards() if c.signature == "embeddings" or
             (c.signature == "scores" and c.labels in ("binary", "graded"))]  # fmt: skip

# Cosines over 0.05 are twenty times as large as labels; losses that copy labels want them smaller.
COPIES = ("mse", "pairwise_mse", "constant_margin_mse", "supervised_margin_mse", "wasserstein")


def make_encoder(seed=0):
    return StaticEncoder.from_texts(TEXTS, size=300, dim=32, seed=seed)


def dev_value(encoder, data):
    values = evaluate(data.rank(encoder, "dev"), TINY.split("dev"), ["nDCG@10"])["nDCG@10"]
    return sum(values.values()) / len(values)


@pytest.mark.parametrize("hard_negatives", [0, 2])
@pytest.mark.parametrize("name", TRAINABLE)
def test_every_trainable_loss_improves_the_ranking(name, hard_negatives):
    if name in NEGATIVES_NEEDED and not hard_negatives:
        pytest.skip("it has no triplet without hard negatives, and refuses")
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize, hard_negatives)
    before = dev_value(encoder, data)
    curve = train(encoder, data, name, steps=25, batch_size=24, rate=0.02, evaluations=1,
                  temperature=0.5 if name in COPIES else 0.05)  # fmt: skip
    assert curve.dev == [(25, dev_value(encoder, data))]
    assert curve.dev[0][1] > before + 0.02
    assert len(curve.losses) == 25


def test_the_same_seed_repeats_a_run_to_the_bit():
    runs = []
    for seed in (1, 1, 2):
        encoder = make_encoder()
        curve = train(encoder, PairData(TINY, encoder.tokenize), "infonce", steps=5,
                      batch_size=16, seed=seed)  # fmt: skip
        runs.append((curve.losses, encoder.vectors.weight.detach().clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


@pytest.mark.parametrize("name", [c.name for c in cards() if c.name not in TRAINABLE])
def test_losses_without_a_target_are_refused(name):
    with pytest.raises(ValueError, match="losses that fit: .*ranknet"):
        check_trainable(name)


def test_the_collator_looks_up_every_judgment():
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize)
    pairs = [("q0-2", "d0-2"), ("q0-3", "d0-3"), ("q1-2", "d1-2")]
    batch = PairCollator(data, encoder.batch)(pairs)
    assert batch["grades"].tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 2]]


def test_hard_negatives_are_never_judged():
    data = PairData(TINY, make_encoder().tokenize, hard_negatives=3)
    judged = TINY.split("train")
    assert all(not set(found) & judged[q].keys() for q, found in data.negatives.items())
    assert any(data.negatives.values())


def test_missing_hard_negatives_are_padding():
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize, hard_negatives=2)
    data.negatives["q0-2"] = data.negatives["q0-2"][:1]
    batch = PairCollator(data, encoder.batch)([("q0-2", "d0-2"), ("q1-2", "d1-2")])
    assert batch["where"].tolist() == [[True, True, False], [True, True, True]]
    loss = Objective(encoder, "infonce")(**batch)["loss"]
    loss.backward()
    assert loss.isfinite() and encoder.vectors.weight.grad.isfinite().all()


def test_a_relevant_document_of_the_batch_is_no_negative():
    encoder = make_encoder()
    collator = PairCollator(PairData(TINY, encoder.tokenize), encoder.batch)
    together = collator([("q0-2", "d0-2"), ("q0-3", "d0-3")])
    loss = Objective(encoder, "infonce")(**together)["loss"]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)  # each is judged for the other's query


def test_a_batch_larger_than_the_data_is_refused():
    encoder = make_encoder()
    with pytest.raises(ValueError, match="batch_size is 999 but there are 48 training pairs"):
        train(encoder, PairData(TINY, encoder.tokenize), "infonce", batch_size=999)


# Several losses ---------------------------------------------------------------------------------


def tiny_batch():
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize, hard_negatives=2)
    return encoder, PairCollator(data, encoder.batch)([("q0-2", "d0-2"), ("q1-2", "d1-2")])


def test_a_sum_trains_as_its_parts_do():
    encoder, batch = tiny_batch()
    loss = weighted_sum(
        {"a": (2.0, "infonce"), "b": (0.5, "ranknet"), "c": (1.0, select("flops", 1))}
    )
    values = Objective(encoder, loss, temperature=0.3)(**batch, step=0)
    for name, part in (("a", "infonce"), ("b", "ranknet")):
        alone = Objective(encoder, part, temperature=0.3)(**batch)["loss"]
        torch.testing.assert_close(values[name], alone.detach())
    flops = flops_regularizer(encoder(**batch["documents"]))
    torch.testing.assert_close(values["c"], flops.detach())
    expected = 2 * values["a"] + 0.5 * values["b"] + values["c"]
    torch.testing.assert_close(values["loss"].detach(), expected)


def test_settings_of_a_wrapper_beat_the_temperature_of_the_run():
    encoder, batch = tiny_batch()
    own = Objective(encoder, partial(infonce_loss, temperature=0.7), temperature=0.05)(**batch)
    cooling = scheduled("infonce", temperature=Schedule(0.3, start=0.7, warmup=10))
    moving = Objective(encoder, cooling, temperature=0.05)(**batch, step=0)
    torch.testing.assert_close(own["loss"], moving["loss"])
    named = Objective(encoder, "infonce", temperature=0.7)(**batch)
    torch.testing.assert_close(own["loss"], named["loss"])


def test_a_function_of_ones_own_trains():
    encoder, batch = tiny_batch()
    values = Objective(encoder, lambda q, d: ((q - d) ** 2).mean())(**batch)
    assert set(values) == {"loss"} and values["loss"] > 0


def test_prefixes_train_with_hard_negatives():
    encoder, batch = tiny_batch()
    values = Objective(encoder, matryoshka("infonce", (4, 8)))(**batch)
    assert {"loss@4", "loss@8"} < set(values)
    data = PairData(TINY, encoder.tokenize)
    without = PairCollator(data, encoder.batch)([("q0-2", "d0-2"), ("q1-2", "d1-2")])
    assert Objective(encoder, matryoshka("infonce", (4, 8)))(**without)["loss"] < values["loss"]


def test_parts_and_norms_of_every_step_are_kept():
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize)
    loss = weighted_sum({"infonce": (1.0, "infonce"),
                         "flops": (Schedule(0.1, delay=2), select("flops", 1))})  # fmt: skip
    curve = train(encoder, data, loss, steps=4, batch_size=8, norms=True)
    assert [("flops" in parts) for parts in curve.parts] == [False, False, True, True]
    for value, parts in zip(curve.losses, curve.parts, strict=True):
        expected = parts["infonce"] + 0.1 * parts.get("flops", 0.0)
        assert value == pytest.approx(expected, rel=1e-5) and parts["norm of infonce"] > 0


def test_a_plain_loss_has_no_parts():
    encoder = make_encoder()
    curve = train(encoder, PairData(TINY, encoder.tokenize), "infonce", steps=2, batch_size=8)
    assert curve.parts == [{}, {}]


def test_a_part_that_turns_into_nan_is_named_in_training():
    encoder = make_encoder()
    loss = weighted_sum(
        {"infonce": (1.0, "infonce"), "bad": (1.0, lambda q, d: q.sum() * torch.nan)}
    )
    with pytest.raises(FloatingPointError, match="'bad' is nan at step 0; infonce ="):
        train(encoder, PairData(TINY, encoder.tokenize), loss, steps=2, batch_size=8)


def test_a_part_that_cannot_be_trained_is_refused():
    encoder = make_encoder()
    loss = weighted_sum({"infonce": (1.0, "infonce"), "kl": (1.0, "kl")})
    with pytest.raises(ValueError, match="kl needs teacher scores"):
        train(encoder, PairData(TINY, encoder.tokenize), loss)


def test_regularizers_of_both_sides_join_a_sum_and_train_nothing_alone():
    encoder = make_encoder()
    data = PairData(TINY, encoder.tokenize)
    both = weighted_sum({"rank": (1.0, "infonce"), "cost": (0.1, "joint_flops")})
    curve = train(encoder, data, both, steps=2, batch_size=8)
    assert {"rank", "cost"} <= curve.parts[0].keys()
    with pytest.raises(ValueError, match="needs a ranking loss beside it"):
        train(encoder, data, "joint_flops", steps=2, batch_size=8)
