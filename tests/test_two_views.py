"""Identities, bounds and limits of symmetric InfoNCE, NT-Xent and N-pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.candidates import duplicate_mask
from rankbench.losses import (
    bidirectional_infonce_loss,
    infonce_loss,
    npairs_loss,
    ntxent_loss,
    ranknet_loss,
    softmax_loss,
    symmetric_infonce_loss,
)

seeds, sizes = st.integers(0, 10_000), st.integers(1, 6)
temperatures = st.sampled_from([0.05, 0.07, 0.5, 2.0])
NONE = {"reduction": "none"}


def batch(seed, count=4, k=None):
    """Queries, documents and, with `k`, hard negatives."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, 3, generator=g, dtype=torch.float64)  # noqa: E731
    return (draw(count), draw(count)) if k is None else (draw(count), draw(count), draw(count, k))


def gradients(fn, *leaves):
    leaves = [x.clone().requires_grad_() for x in leaves]
    return torch.autograd.grad(fn(*leaves).sum(), leaves)


same = torch.testing.assert_close


# Symmetric InfoNCE -------------------------------------------------------------------------------


@given(seeds, sizes, temperatures)
def test_the_symmetric_loss_is_the_mean_of_both_sides(seed, count, temperature):
    q, d, n = batch(seed, count, 2)
    t = {"temperature": temperature, **NONE}
    there, back = infonce_loss(q, d, negatives=n, **t), infonce_loss(d, q, **t)
    same(symmetric_infonce_loss(q, d, negatives=n, **t), (there + back) / 2)


@given(seeds, sizes, temperatures, st.sampled_from([symmetric_infonce_loss, ntxent_loss]))
def test_exchanging_the_sides_changes_nothing(seed, count, temperature, fn):
    q, d = batch(seed, count)
    t = {"temperature": temperature, **NONE}
    same(fn(q, d, **t), fn(d, q, **t))
    there, back = gradients(lambda *x: fn(*x, **t), q, d), gradients(lambda *x: fn(*x, **t), d, q)
    same(there, back[::-1])


@given(seeds, temperatures)
def test_the_gradient_is_half_of_rows_and_half_of_columns(seed, temperature):
    scores = batch(seed, 3)[0]
    eye = torch.eye(3, dtype=torch.float64)
    t = {"similarity": "dot", "temperature": temperature, "reduction": "sum"}
    (ours,) = gradients(lambda s: symmetric_infonce_loss(s, eye, **t), scores)
    s = scores / temperature
    same(ours, ((s.softmax(0) + s.softmax(1)) / 2 - eye) / temperature)


@given(seeds, sizes, temperatures)
def test_one_partition_is_at_least_log_two_above(seed, count, temperature):
    q, d = batch(seed, count)
    t = {"temperature": temperature, **NONE}
    two = {"directions": ("query_to_doc", "doc_to_query"), **t}
    gap = bidirectional_infonce_loss(q, d, **two) - symmetric_infonce_loss(q, d, **t)
    assert (gap >= math.log(2) - 1e-9).all()
    level = bidirectional_infonce_loss(q, q, **two) - symmetric_infonce_loss(q, q, **t)
    same(level, torch.full_like(level, math.log(2)))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_collapsed_batch_counts_the_candidates_of_each_side(k):
    alike, n = torch.ones(5, 2, dtype=torch.float64), torch.ones(5, k, 2, dtype=torch.float64)
    ours = symmetric_infonce_loss(alike, alike, negatives=n).item()
    assert ours == pytest.approx((math.log(5 * (1 + k)) + math.log(5)) / 2)


@given(seeds, sizes)
def test_cold_it_is_the_mean_lead_of_the_best_over_the_right_one(seed, count):
    q, d = batch(seed, count)
    cosines = torch.nn.functional.cosine_similarity(q[:, None], d, dim=-1)
    lead = (cosines.amax(0) + cosines.amax(1)) / 2 - cosines.diagonal()
    ours = 1e-7 * symmetric_infonce_loss(q, d, temperature=1e-7, **NONE)
    same(ours, lead, rtol=1e-5, atol=1e-5)


def test_hard_negatives_ask_no_questions_of_their_own():
    q, d, n = batch(0, 4, 2)
    t = {"temperature": 0.5, **NONE}
    shift = symmetric_infonce_loss(q, d, negatives=n, **t) - symmetric_infonce_loss(q, d, **t)
    rows = infonce_loss(q, d, negatives=n, **t) - infonce_loss(q, d, **t)
    same(shift, rows / 2)


# NT-Xent -----------------------------------------------------------------------------------------


@given(seeds, sizes, temperatures)
def test_ntxent_is_a_softmax_loss_over_all_other_views(seed, count, temperature):
    q, d = batch(seed, count)
    views = torch.nn.functional.normalize(torch.cat([q, d]), dim=-1)
    labels = torch.eye(2 * count, dtype=torch.float64).roll(count, 0)
    where = ~torch.eye(2 * count, dtype=torch.bool)
    stacked = softmax_loss(views @ views.T / temperature, labels, where=where, **NONE)
    ours = ntxent_loss(q, d, temperature=temperature, **NONE)
    same(ours, (stacked[:count] + stacked[count:]) / 2)


@given(seeds, sizes)
def test_turning_one_pair_around_changes_nothing(seed, count):
    q, d = batch(seed, count)
    turned = q.clone(), d.clone()
    turned[0][0], turned[1][0] = d[0], q[0]
    same(ntxent_loss(*turned, **NONE), ntxent_loss(q, d, **NONE))


@given(seeds, sizes, temperatures)
def test_the_joint_loss_of_gte_is_at_least_log_two_above_ntxent(seed, count, temperature):
    q, d = batch(seed, count)
    t = {"temperature": temperature, **NONE}
    gap = bidirectional_infonce_loss(q, d, **t) - ntxent_loss(q, d, **t)
    assert (gap >= math.log(2) - 1e-9).all()
    level = bidirectional_infonce_loss(q, q, **t) - ntxent_loss(q, q, **t)
    same(level, torch.full_like(level, math.log(2)))


@given(seeds, sizes, temperatures)
def test_ntxent_is_never_below_the_symmetric_loss(seed, count, temperature):
    q, d = batch(seed, count)
    t = {"temperature": temperature, **NONE}
    assert (ntxent_loss(q, d, **t) >= symmetric_infonce_loss(q, d, **t) - 1e-9).all()


@given(seeds, temperatures)
def test_the_gradient_of_ntxent_is_the_boxed_one(seed, temperature):
    q, d = batch(seed, 3)
    off = 1 - torch.eye(3, dtype=torch.float64)
    a, b, e = (
        x.exp() for x in (q @ d.T / temperature, q @ q.T / temperature, d @ d.T / temperature)
    )
    b, e = b * off, e * off
    alpha, gamma = 1 / (a.sum(1) + b.sum(1)), 1 / (a.sum(0) + e.sum(1))
    first = a * (alpha[:, None] + gamma) / 2 - torch.eye(3, dtype=torch.float64)
    second, third = b * (alpha[:, None] + alpha) / 2, e * (gamma[:, None] + gamma) / 2
    t = {"similarity": "dot", "temperature": temperature, "reduction": "sum"}
    ours = gradients(lambda *x: ntxent_loss(*x, **t), q, d)
    by_hand = (first @ d + second @ q) / temperature, (first.T @ q + third @ d) / temperature
    same(ours, by_hand, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_collapsed_pot_counts_all_views_but_one(count):
    alike = torch.ones(count, 2, dtype=torch.float64)
    assert ntxent_loss(alike, alike).item() == pytest.approx(math.log(2 * count - 1))


@given(seeds, sizes)
def test_excluding_everything_else_leaves_nothing_to_learn(seed, count):
    q, d = batch(seed, count)
    everything = torch.ones(count, count, dtype=torch.bool)
    for fn in (symmetric_infonce_loss, ntxent_loss, npairs_loss):
        value = fn(q, d, exclude=everything, **NONE)
        same(value, torch.zeros_like(value))


@pytest.mark.parametrize("fn", [symmetric_infonce_loss, ntxent_loss, npairs_loss])
def test_a_duplicate_that_is_excluded_costs_nothing(fn):
    pair = 5 * torch.eye(2, dtype=torch.float64)[[0, 0, 1]]
    mask = duplicate_mask(torch.tensor([7, 7, 8]))
    assert fn(pair, pair).item() > 0.4
    assert fn(pair, pair, exclude=mask).item() < 1e-5
    same(fn(pair, pair, exclude=mask), fn(pair, pair, exclude=torch.tensor([7, 7, 8])))


# N-pairs -----------------------------------------------------------------------------------------


@given(seeds, sizes, st.sampled_from(["mean", "sum", "none"]))
def test_npairs_is_infonce_of_dot_products_plus_the_price(seed, count, reduction):
    q, d, n = batch(seed, count, 2)
    w = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    plain = infonce_loss(
        q, d, negatives=n, similarity="dot", temperature=1.0, weights=w, reduction=reduction
    )
    price = q.square().sum(-1) + d.square().sum(-1)
    price = {"mean": (w * price).sum() / w.sum(), "sum": (w * price).sum(), "none": price}[
        reduction
    ]
    ours = npairs_loss(q, d, negatives=n, l2_weight=0.3, weights=w, reduction=reduction)
    same(ours, plain + 0.3 * price)


@given(seeds)
def test_two_pairs_are_compared_by_the_logistic_loss(seed):
    q, d = batch(seed, 2)
    scores = q @ d.T
    leads = torch.stack([scores[0, 0] - scores[0, 1], scores[1, 1] - scores[1, 0]])
    same(npairs_loss(q, d, **NONE), -torch.nn.functional.logsigmoid(leads))
    same(npairs_loss(q, d), ranknet_loss(scores, torch.eye(2, dtype=torch.float64)))


@given(seeds, sizes)
def test_the_gradient_of_npairs_is_the_boxed_one(seed, count):
    q, d = batch(seed, count)
    p = (q @ d.T).softmax(1)
    ours = gradients(lambda *x: npairs_loss(*x, l2_weight=0.1, reduction="sum"), q, d)
    same(ours, (p @ d - d + 0.2 * q, p.T @ q - q + 0.2 * d))


@given(seeds, sizes, st.sampled_from([0.5, 2.0, 3.0]))
def test_length_is_a_temperature(seed, count, scale):
    q, d = batch(seed, count)
    colder = infonce_loss(q, d, similarity="dot", temperature=scale**-2)
    same(npairs_loss(scale * q, scale * d), colder)


@given(seeds, sizes)
def test_unit_vectors_cannot_cost_less_than_opposites(seed, count):
    q, d = (torch.nn.functional.normalize(x, dim=-1) for x in batch(seed, count))
    floor = math.log1p((count - 1) * math.exp(-2))
    assert (npairs_loss(q, d, **NONE) >= floor - 1e-9).all()


@pytest.mark.parametrize("price", [-0.1, float("nan")])
def test_a_price_below_zero_is_refused(price):
    with pytest.raises(ValueError, match="l2_weight is"):
        npairs_loss(torch.eye(2), torch.eye(2), l2_weight=price)


def test_one_pair_alone_pays_for_its_length_only():
    q, d = batch(0, 1)
    assert npairs_loss(q, d).item() == 0
    price = 0.5 * (q.square().sum() + d.square().sum())
    same(npairs_loss(q, d, l2_weight=0.5), price)


def test_a_collapsed_batch_of_npairs_costs_its_logarithm_and_its_length():
    alike = torch.ones(5, 3, dtype=torch.float64)
    assert npairs_loss(alike, alike, l2_weight=0.1).item() == pytest.approx(math.log(5) + 0.6)


def test_a_price_has_a_best_length():
    best = math.log(3 * (1 - 0.04) / 0.04)
    u = torch.tensor(best, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    (slope,) = gradients(lambda x: npairs_loss(x.sqrt() * eye, x.sqrt() * eye, l2_weight=0.02), u)
    assert abs(slope.item()) < 1e-12
