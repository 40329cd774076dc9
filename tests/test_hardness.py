"""Hardness weighting: which negatives are weighed, and that no gradient passes through a weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import bidirectional_infonce_loss, infonce_loss, symmetric_infonce_loss

KINDS = ("in_batch", "hard", "all")
seeds, kinds = st.integers(0, 10_000), st.sampled_from(KINDS)
strengths, temperatures = st.floats(0, 12), st.floats(0.05, 2)


def table(seed, count=3, k=2):
    """Similarities of queries to documents and mined negatives, and which of those are whose."""
    g = torch.Generator().manual_seed(seed)
    sims = 2 * torch.rand(count, count * (1 + k), generator=g, dtype=torch.float64) - 1
    own = torch.zeros(count, count * (1 + k), dtype=torch.bool)
    own[:, count:] = torch.eye(count).repeat_interleave(k, 1).bool()
    positive = torch.eye(count, count * (1 + k)).bool()
    chosen = {"in_batch": ~own & ~positive, "hard": own, "all": ~positive}
    return sims, positive, chosen


def loss_of(sims, fn=infonce_loss, **settings):
    """The loss with any similarities: dot products with the axes."""
    count = len(sims)
    axes = torch.eye(sims.shape[1], dtype=sims.dtype)
    negatives = axes[count:].view(count, -1, sims.shape[1])
    return fn(sims, axes[:count], negatives=negatives, similarity="dot", **settings)


def slope(fn, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(fn(x).sum(), x)[0]


@given(seeds, kinds, strengths, temperatures)
def test_no_gradient_passes_through_the_weight(seed, kind, strength, temperature):
    sims, positive, chosen = table(seed)
    setting = {"hardness": kind, "hardness_strength": strength, "temperature": temperature}
    share = (sims / temperature + strength * sims * chosen[kind]).softmax(-1)
    by_hand = (share - positive.double()) / temperature / len(sims)
    torch.testing.assert_close(slope(lambda s: loss_of(s, **setting), sims), by_hand)
    assert by_hand.sum(-1).abs().max() < 1e-9


@given(seeds, kinds, strengths, temperatures)
def test_the_value_is_that_of_frozen_weights(seed, kind, strength, temperature):
    sims, positive, chosen = table(seed)
    setting = {"hardness": kind, "hardness_strength": strength, "temperature": temperature}
    raised = sims / temperature + strength * sims * chosen[kind]
    expected = raised.logsumexp(-1) - (sims * positive).sum(-1) / temperature
    torch.testing.assert_close(loss_of(sims, reduction="none", **setting), expected)
    assert (expected >= -1e-12).all()


@given(seeds, kinds, temperatures)
def test_strength_zero_is_infonce(seed, kind, temperature):
    sims, _, _ = table(seed)
    plain = slope(lambda s: loss_of(s, temperature=temperature), sims)
    zero = slope(lambda s: loss_of(s, temperature=temperature, hardness=kind), sims)
    torch.testing.assert_close(zero, plain)


@given(seeds, strengths, temperatures)
def test_mined_negatives_of_others_are_in_batch(seed, strength, temperature):
    sims, _, chosen = table(seed)
    setting = {"hardness_strength": strength, "temperature": temperature, "reduction": "none"}
    only = {k: loss_of(sims, hardness=k, **setting)[0] for k in KINDS}
    other = sims.clone()
    other[0] += torch.where(chosen["in_batch"][0], 0.0, strength * temperature * sims[0])
    other[0, 0] = sims[0, 0]  # the own ones weighed by hand, the rest by the loss
    raised = loss_of(other, hardness="in_batch", **setting)[0]
    torch.testing.assert_close(raised, only["all"])


@given(seeds, strengths)
def test_positive_similarities_are_raised_and_negative_ones_lowered(seed, strength):
    sims, _, _ = table(seed)
    for sign in (1.0, -1.0):
        side = sign * sims.abs()
        setting = {"hardness": "all", "hardness_strength": strength, "temperature": 0.5}
        gap = loss_of(side, **setting) - loss_of(side, temperature=0.5)
        assert sign * gap >= -1e-12


@given(seeds, kinds, strengths)
def test_the_relative_shares_are_those_of_a_lower_temperature(seed, kind, strength):
    sims, _, chosen = table(seed)
    setting = {"hardness": kind, "hardness_strength": strength, "temperature": 0.5}
    cooler = {"temperature": 1 / (1 / 0.5 + strength)}
    for a, b, which in zip(
        slope(lambda s: loss_of(s, **setting), sims),
        slope(lambda s: loss_of(s, **cooler), sims),
        chosen[kind],
        strict=True,
    ):
        torch.testing.assert_close(a[which] / a[which].sum(), b[which] / b[which].sum())


def test_endless_strength_pushes_the_hardest_negative_alone():
    sims, positive, chosen = table(3)
    top = sims.masked_fill(positive, -torch.inf).argmax(-1)
    assert (sims.gather(1, top[:, None]) > 0).all()
    setting = {"hardness": "all", "hardness_strength": 1e6, "reduction": "sum"}
    gradient = slope(lambda s: loss_of(s, temperature=0.5, **setting), sims)
    expected = torch.zeros_like(sims).scatter(1, top[:, None], 2.0) - 2.0 * positive.double()
    torch.testing.assert_close(gradient, expected)


def test_a_collapsed_batch_costs_more_than_the_logarithm_of_its_candidates():
    alike = torch.ones(4, 3, dtype=torch.float64)
    value = infonce_loss(alike, alike, hardness="all", hardness_strength=9.0)
    expected = torch.tensor(3.0, dtype=torch.float64).log() + 9 + torch.tensor(1 / 3 / 8103.0839)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)


@given(seeds, strengths)
def test_a_learned_temperature_is_a_constant_in_the_weight(seed, strength):
    sims, positive, chosen = table(seed)
    tau = torch.tensor(0.5, dtype=torch.float64)
    setting = {"hardness": "all", "hardness_strength": strength, "reduction": "sum"}
    gradient = slope(lambda t: loss_of(sims, temperature=t, **setting), tau)
    share = (sims / 0.5 + strength * sims * chosen["all"]).softmax(-1)
    torch.testing.assert_close(gradient, -((share - positive.double()) * sims).sum() / 0.5**2)


@pytest.mark.parametrize("kind", KINDS)
def test_only_queries_looking_at_documents_are_weighed(kind):
    g = torch.Generator().manual_seed(0)
    q, d = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    hard = torch.randn(4, 2, 3, generator=g, dtype=torch.float64)
    weigh = {"hardness": kind, "hardness_strength": 5.0}
    for direction in ("query_to_query", "doc_to_query", "doc_to_doc"):
        one = {"directions": (direction,), "negatives": hard}
        weighed = bidirectional_infonce_loss(q, d, **one, **weigh)
        torch.testing.assert_close(weighed, bidirectional_infonce_loss(q, d, **one))
    forth = infonce_loss(q, d, negatives=hard, **weigh)
    both = symmetric_infonce_loss(q, d, negatives=hard, **weigh)
    torch.testing.assert_close(both, (forth + infonce_loss(d, q)) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_weigh_like_the_whole(kind):
    sims, _, _ = table(1, count=5)
    setting = {"hardness": kind, "hardness_strength": 5.0, "temperature": 0.3}
    whole = slope(lambda s: loss_of(s, chunk_size=None, **setting), sims)
    torch.testing.assert_close(slope(lambda s: loss_of(s, chunk_size=2, **setting), sims), whole)


@pytest.mark.parametrize("loss", [infonce_loss, bidirectional_infonce_loss])
@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_a_strength_below_zero_is_refused(loss, strength):
    with pytest.raises(ValueError) as error:
        loss(torch.eye(2), torch.eye(2), hardness="all", hardness_strength=strength)
    assert str(error.value) == (
        f"hardness_strength is {strength}; expected 0 or more, such as 5.0."
    )


@pytest.mark.parametrize("loss", [infonce_loss, bidirectional_infonce_loss])
def test_a_strength_that_nothing_uses_is_refused(loss):
    with pytest.raises(ValueError) as error:
        loss(torch.eye(2), torch.eye(2), hardness_strength=5.0)
    assert "but hardness is None; say which negatives it is for: in_batch, hard, all." in str(
        error.value
    )
