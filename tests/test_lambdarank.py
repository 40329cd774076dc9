"""LambdaLoss: identities, bounds, weights by swapping, memory, and bugs of other libraries."""

import math
from typing import get_args

import pytest
import torch
from families.lambdarank import lambda_, swapped
from hypothesis import given
from hypothesis import strategies as st
from test_mutants import mutated
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rankbench import lambda_sums
from rankbench.lambda_sums import (
    by_rank,
    dense_rank_pair_sum,
    list_groups,
    rank_pair_sum,
    row_blocks,
)
from rankbench.losses import lambda_loss, lambdarank, ranknet_loss
from rankbench.losses.lambdarank import Weighting
from rankbench.metrics import hard_ranks, mrr, ndcg, precision

LN2 = math.log(2)
WEIGHTINGS = get_args(Weighting)
SWAPS = ("lambdarank", "ndcg2", "ndcg2pp", "dcg")  # of the sum over ranks


def settings_of(weighting):
    return {"weighting": weighting, **({"k": 2} if weighting == "precision" else {})}


@st.composite
def lists(draw, ties=True, best=3):
    """Scores and labels of one list; coarse scores, so that ties are common."""
    n = draw(st.integers(2, 7))
    score = st.integers(-8, 8).map(lambda x: x / 4)
    scores = draw(st.lists(score, min_size=n, max_size=n, unique=not ties))
    labels = draw(st.lists(st.integers(0, best), min_size=n, max_size=n))
    return torch.tensor(scores).double(), torch.tensor(labels).double()


def gradient(scores, labels, **settings):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(lambda_loss(scores, labels, **settings).sum(), scores)[0]


def weights_of(scores, labels, **settings):
    """wᵢⱼ + wⱼᵢ, read off the second derivatives: ∂²ℓ/∂sᵢ∂sⱼ = -w p (1 - p)."""
    fn = lambda s: lambda_loss(s, labels, **settings)  # noqa: E731
    hessian = torch.autograd.functional.hessian(fn, scores)
    p = torch.sigmoid(scores[:, None] - scores[None, :])
    return -(hessian / (p * (1 - p))).fill_diagonal_(0)


# Identities -------------------------------------------------------------------------------------


@given(lists(), st.floats(0, 20))
def test_ndcg2pp_is_lambdarank_plus_mu_ndcg2(data, mu):
    for what in (lambda_loss, gradient):
        both = what(*data, weighting="lambdarank") + mu * what(*data, weighting="ndcg2")
        torch.testing.assert_close(what(*data, weighting="ndcg2pp", mu=mu), both)


@given(lists())
def test_none_is_ranknet_times_the_number_of_pairs(data):
    scores, labels = data
    pairs = (labels[:, None] > labels).sum()
    for sigma in (1.0, 3.0):
        ours = lambda_loss(scores, labels, weighting="none", sigma=sigma)
        torch.testing.assert_close(ours, pairs * ranknet_loss(scores, labels, sigma=sigma))


@given(lists(), st.sampled_from(["exp2", "linear"]))
def test_dcg_is_lambdarank_times_the_best_dcg(data, gain):
    scores, labels = data
    gains = labels.exp2() - 1 if gain == "exp2" else labels
    ranks = torch.arange(1, len(labels) + 1)
    best = (gains.sort(descending=True).values / (1 + ranks).log2()).sum()
    ours = lambda_loss(scores, labels, weighting="dcg", gain=gain)
    relative = lambda_loss(scores, labels, weighting="lambdarank", gain=gain)
    torch.testing.assert_close(ours, relative * best)


@given(lists(ties=False))
def test_arp_losses_do_not_look_at_ranks(data):
    scores, labels = data
    for weighting in ("none", "arp1", "arp2"):
        near = lambda_loss(scores, labels, weighting=weighting, k=len(scores))
        torch.testing.assert_close(near, lambda_loss(scores, labels, weighting=weighting))


@pytest.mark.parametrize("weighting", ["none", "arp1", "arp2"])
def test_weights_without_ranks_are_convex(weighting):
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b, y = torch.randn(3, 6, generator=g).double()
        y = (2 * y).round().clamp(min=0)
        ends = [lambda_loss(s, y, weighting=weighting) for s in (3 * a, 3 * b)]
        assert lambda_loss(1.5 * (a + b), y, weighting=weighting) <= sum(ends) / 2 + 1e-12


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_cutoff_beyond_the_list_changes_nothing(weighting):
    data = torch.tensor([0.5, 1.0, -1.0]).double(), torch.tensor([2.0, 0.0, 1.0]).double()
    if weighting == "precision":
        assert lambda_loss(*data, weighting=weighting, k=5) == 0
    else:
        whole = lambda_loss(*data, weighting=weighting)
        torch.testing.assert_close(lambda_loss(*data, weighting=weighting, k=5), whole)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(data=lists())
def test_gradients_of_a_list_sum_to_zero(weighting, data):
    assert gradient(*data, **settings_of(weighting)).sum().abs() < 1e-10


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(data=lists())
def test_all_scores_equal_cost_log_2_per_weight(weighting, data):
    _, labels = data
    even = torch.zeros_like(labels)
    ours = lambda_loss(even, labels, **settings_of(weighting))
    steep = lambda_loss(even, labels, sigma=7.0, **settings_of(weighting))
    assert ours == steep  # every pair costs log 2, whatever the steepness


# Bounds -----------------------------------------------------------------------------------------


def ranks_of(scores):
    return hard_ranks(scores).double()


@given(lists())
def test_arp1_bounds_the_average_relevance_position(data):
    scores, labels = data
    arp = (labels * ranks_of(scores)).sum()
    assert lambda_loss(scores, labels, weighting="arp1") / LN2 >= arp - 1e-9


@given(lists())
def test_arp_regret_is_the_label_difference_of_inverted_pairs(data):
    scores, labels = data
    r = ranks_of(scores)
    gaps = labels[:, None] - labels
    inverted = (gaps * ((gaps > 0) & (r < r[:, None]))).sum()
    smaller = torch.minimum(labels[:, None], labels).triu(1).sum()
    assert (labels * r).sum() == labels.sum() + smaller + inverted
    ideal = (labels.sort(descending=True).values * torch.arange(1, len(r) + 1)).sum()
    assert (labels * r).sum() - ideal == inverted
    assert lambda_loss(scores, labels, weighting="arp2") / LN2 >= inverted - 1e-9


@given(lists(), st.sampled_from(["exp2", "linear"]))
def test_what_ndcg_loses_telescopes(data, gain):
    scores, labels = data
    gains = labels.exp2() - 1 if gain == "exp2" else labels
    r = ranks_of(scores)
    best = (gains.sort(descending=True).values / (1 + torch.arange(1.0, len(r) + 1)).log2()).sum()
    G = gains / best if best > 0 else gains
    apart = (r[:, None] - r).abs()
    delta = (1 / (1 + apart.clamp(min=1)).log2() - 1 / (2 + apart).log2()).fill_diagonal_(0)
    gaps = (G[:, None] - G) * delta
    inverted = (gaps * ((gaps > 0) & (r < r[:, None]))).sum()
    constant = (torch.minimum(G[:, None], G) * delta).triu(1).sum()
    lost = G.sum() - ndcg(scores, labels, gain=gain)
    torch.testing.assert_close(lost, inverted + constant)
    ours = lambda_loss(scores, labels, weighting="ndcg2", gain=gain)
    assert ours / LN2 + constant >= lost - 1e-9


@given(lists())
def test_ndcg1_bounds_discounted_gains_times_ranks(data):
    scores, labels = data
    r = ranks_of(scores)
    gains = labels.exp2() - 1
    best = (gains.sort(descending=True).values / (1 + torch.arange(1.0, len(r) + 1)).log2()).sum()
    sum_ = (gains / best.clamp(min=1e-9) / (1 + r).log2() * r).sum()
    assert lambda_loss(scores, labels, weighting="ndcg1") / LN2 >= sum_ - 1e-9


@pytest.mark.parametrize("weighting", ["lambdarank", "ndcg2"])
@given(data=lists(), gain=st.sampled_from(["exp2", "linear"]))
def test_the_loss_bounds_what_ndcg_loses(weighting, data, gain):
    scores, labels = data
    lost = 1 - ndcg(scores, labels, gain=gain)
    ours = lambda_loss(scores, labels, weighting=weighting, gain=gain)
    assert not labels.any() or ours / LN2 >= lost - 1e-9


def test_the_bound_on_ndcg_holds_for_every_order_of_ties():
    for n in (2, 3, 4, 5, 6):
        scores, labels = torch.zeros(2**n - 2, n).double(), torch.arange(1, 2**n - 1)
        labels = (labels[:, None] >> torch.arange(n)) % 2
        worst = ndcg(-labels.double(), labels)
        for weighting in ("lambdarank", "ndcg2pp"):
            ours = lambda_loss(scores, labels, weighting=weighting, reduction="none")
            assert (ours / LN2 >= 1 - worst - 1e-9).all()


@pytest.mark.parametrize("weighting", sorted(set(WEIGHTINGS) - {"arp1", "ndcg1"}))
def test_a_perfect_order_costs_nothing_in_the_limit(weighting):
    scores, labels = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert lambda_loss(scores, labels, sigma=1e3, **settings_of(weighting)) == 0


# Weights, by actually swapping -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weighting", "metric", "settings"),
    [
        ("lambdarank", lambda s, y: ndcg(s, y), {}),
        ("lambdarank", lambda s, y: ndcg(s, y, gain="linear"), {"gain": "linear"}),
        ("precision", lambda s, y: precision(s, (y >= 1).double(), k=2), {"k": 2}),
        ("mrr", lambda s, y: mrr(s, (y >= 1).double()), {}),
    ],
)
@given(data=lists(ties=False))
def test_a_weight_is_what_a_swap_changes(weighting, metric, settings, data):
    scores, labels = data
    found = weights_of(scores, labels, weighting=weighting, **settings)
    for i in range(len(scores)):
        for j in range(i):
            after = torch.tensor(swapped(scores.tolist(), i, j)).double()
            change = (metric(after, labels) - metric(scores, labels)).abs()
            torch.testing.assert_close(found[i, j], change, rtol=1e-6, atol=1e-9)


# The border between tiles and one matrix ---------------------------------------------------------


def ragged(n, lists=5, seed=0, ties=False):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(lists, n, generator=g, dtype=torch.float64)
    scores = (3 * scores).round() / 3 if ties else scores
    labels = torch.randint(0, 4, (lists, n), generator=g).double()
    where = torch.rand(lists, n, generator=g) < torch.linspace(0, 1, lists)[:, None]
    return scores, labels, where


@pytest.mark.parametrize("size", [1, 100, 2000])
@pytest.mark.parametrize("k", [None, 1, 10, 40, 1000])
@pytest.mark.parametrize("alike", [False, True])
def test_tiles_equal_one_matrix(size, k, alike, monkeypatch):
    monkeypatch.setitem(lambda_sums.SIZES, "cpu", size)
    for seed in range(3):
        scores, labels, where = by_rank(*ragged(60, seed=seed, ties=seed == 2))
        scores.requires_grad_()
        numbers = {"swap": 1.0, "distance": 10.0, "constant": 0.5}
        rows = 60 if k is None else min(k, 60)
        tiled = rank_pair_sum(scores, labels, where, alike=alike, k=k, **numbers)
        dense = dense_rank_pair_sum(scores, labels, where, rows, alike, *numbers.values())
        upstream = torch.arange(1.0, 6).double()
        gradients = [torch.autograd.grad(x @ upstream, scores)[0] for x in (tiled, dense)]
        torch.testing.assert_close(tiled, dense, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("k", [3, None])
def test_long_lists_equal_the_loops(weighting, k, monkeypatch):
    if weighting == "precision" and k is None:
        pytest.skip("needs k")
    monkeypatch.setitem(lambda_sums.SIZES, "cpu", 64)
    scores, labels, where = ragged(40, lists=3, ties=True)
    ours = lambda_loss(scores, labels, where=where, weighting=weighting, k=k, reduction="none")
    for q in range(1, 3):
        real = where[q]
        s, y = scores[q, real].tolist(), labels[q, real].tolist()
        assert ours[q].item() == pytest.approx(lambda_(s, y, weighting=weighting, k=k), rel=1e-10)


def test_every_pair_is_in_one_tile():
    for lengths in ([9], [40, 30, 8, 7], [33, 33, 2, 1, 0]):
        for rows in (1, 5, 40):
            for size in (1, 50, 600, 10**6):
                seen = [
                    (q, i, j)
                    for top, bottom in row_blocks(lengths[0], rows, size)
                    for first, last, width in list_groups(lengths, top, bottom, size)
                    for q in range(first, last)
                    for i in range(top, min(bottom, width))
                    for j in range(i + 1, width)
                ]
                wanted = {
                    (q, i, j) for q, n in enumerate(lengths)
                    for i in range(min(n, rows)) for j in range(i + 1, n)
                }  # fmt: skip
                assert len(seen) == len(set(seen)) and wanted <= set(seen)


class Largest(TorchDispatchMode):
    """Notes the number of entries of the largest result."""

    entries = 0

    def __torch_dispatch__(self, fn, types, args=(), kwargs=None):
        result = fn(*args, **(kwargs or {}))
        found = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *found])
        return result


@pytest.mark.parametrize("k", [None, 10])
@pytest.mark.parametrize("weighting", SWAPS)
def test_no_matrix_of_all_pairs_is_made(weighting, k):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4000, generator=g, requires_grad=True)
    labels = torch.randint(0, 4, (2, 4000), generator=g)
    with Largest() as seen:
        lambda_loss(scores, labels, weighting=weighting, k=k).backward()
    assert seen.entries <= 2 * 2**16


def test_only_vectors_are_kept_for_the_backward_pass():
    kept = []
    scores, labels, where = by_rank(*ragged(300))
    scores.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        rank_pair_sum(scores, labels, where, swap=1.0)
    assert kept and max(kept) <= scores.numel()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_second_derivatives_are_right(weighting):
    scores, labels, where = ragged(6, lists=3)
    fn = lambda s: lambda_loss(s, labels, where=where, **settings_of(weighting))  # noqa: E731
    assert torch.autograd.gradgradcheck(fn, scores.requires_grad_())


# Cutoff -----------------------------------------------------------------------------------------


def test_the_item_below_the_cutoff_is_still_pulled_up():
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]).double()
    labels = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]).double()
    for weighting in set(WEIGHTINGS) - {"precision"}:
        pull = gradient(scores, labels, weighting=weighting, k=3)
        assert pull[3] < -1e-3, weighting
        assert pull[:3].max() > 1e-4, weighting
    assert lambda_(scores.tolist(), labels.tolist(), k=3, both=True) == 0  # allRank: no pair left


def test_union_and_intersection_are_the_values_that_others_returned():
    """Sentence-transformers 1.037 (mean of five pairs), allRank 2.405 (sum)."""
    scores, labels = torch.tensor([0.3, 1.2, -0.5, 0.8]), torch.tensor([0.0, 2.0, 1.0, 3.0])
    both = lambda_(scores.tolist(), labels.tolist(), k=2, both=True)
    assert both / LN2 == pytest.approx(2.405, abs=5e-4)
    assert lambda_loss(scores, labels, k=2).item() / LN2 / 5 == pytest.approx(1.037, abs=5e-4)


LATE = [3.0, 2.0, 1.0, 0.0, -1.0, -2.0], [0.0, 0.0, 0.0, 1.0, 0.0, 2.0]  # relevant from rank 4 on


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_the_cutoff_of_mrr_equals_the_loops(k):
    ours = lambda_loss(*(torch.tensor(x).double() for x in LATE), weighting="mrr", k=k)
    assert ours.item() == pytest.approx(lambda_(*LATE, weighting="mrr", k=k), rel=1e-10)


@pytest.mark.parametrize(
    "change", [("(first * top)", "(first)"), ("other * top * (", "other * (")], ids=str
)
def test_a_forgotten_cutoff_of_mrr_is_noticed(change, monkeypatch):
    monkeypatch.setattr(lambdarank, "mrr_pairs", mutated(lambdarank.mrr_pairs, *change))
    with pytest.raises(AssertionError):
        test_the_cutoff_of_mrr_equals_the_loops(2)


# Bugs of other libraries -------------------------------------------------------------------------


def test_a_badly_inverted_pair_keeps_its_value_and_its_gradient():
    """allRank's clamp caps the value at 33.2 = -log2(1e-10) and loses the gradient."""
    scores = torch.tensor([-30.0, 0.0], requires_grad=True)
    value = lambda_loss(scores, torch.tensor([1.0, 0.0]), weighting="none")
    value.backward()
    assert value.item() == pytest.approx(30.0) and value.item() / LN2 == pytest.approx(
        43.28, abs=0.01
    )
    torch.testing.assert_close(scores.grad, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_cutoff_of_one_is_finite(weighting):
    """allRank averages over no pair and returns NaN."""
    scores, labels = torch.tensor([[0.5, 1.0, -1.0]] * 2), torch.tensor([[2, 0, 1], [1, 1, 1]])
    value = lambda_loss(scores, labels, weighting=weighting, k=1)
    assert value.isfinite() and gradient(scores, labels, weighting=weighting, k=1).isfinite().all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_lead_of_minus_200_does_not_overflow(weighting):
    """pytorchltr takes log2(1 + exp(200)) = inf in float32, and its gradient is NaN."""
    scores, labels = torch.tensor([-200.0, 0.0]), torch.tensor([1.0, 0.0])
    settings = {"weighting": weighting, "k": 1}
    value = lambda_loss(scores, labels, **settings)
    expected = lambda_(scores.tolist(), labels.tolist(), **settings)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert gradient(scores, labels, **settings)[0] < 0


def test_long_lists_do_not_dominate_the_batch():
    """A mean over all pairs of the batch, as in sentence-transformers, weighs lists by n²."""
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 100, generator=g), torch.randint(0, 4, (2, 100), generator=g)
    where = torch.stack([torch.ones(100), torch.arange(100) < 4]).bool()
    alone = [lambda_loss(s[w], y[w]) for s, y, w in zip(scores, labels, where, strict=True)]
    together = lambda_loss(scores, labels, where=where)
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_padding_equals_cutting_off(weighting):
    scores, labels, where = ragged(9, lists=4, ties=True)
    scores, labels = scores.masked_fill(~where, torch.nan), labels.masked_fill(~where, torch.inf)
    for k in (1, 2, 5):
        settings = {"weighting": weighting, "k": k}
        padded = lambda_loss(scores, labels, where=where, reduction="none", **settings)
        short = [lambda_loss(s[w], y[w], **settings)
                 for s, y, w in zip(scores, labels, where, strict=True)]  # fmt: skip
        torch.testing.assert_close(padded, torch.stack(short))


def test_a_distance_of_one_is_the_first_distance():
    """pytorchltr's δ begins with the distance 2: 0.192286 where the paper's sum is 0.514770."""
    scores, labels = torch.tensor([0.3, 1.2, -0.5, 0.8]), torch.tensor([0.0, 2.0, 1.0, 3.0])
    ours = lambda_loss(scores, labels, weighting="ndcg2").item() / LN2
    assert ours == pytest.approx(0.514770, abs=1e-6)
    two = lambda_loss(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), weighting="ndcg2")
    assert two.item() == pytest.approx((1 - 1 / math.log2(3)) * math.log1p(math.exp(-1)))


def test_large_grades_do_not_overflow_in_half_precision():
    scores, labels = torch.tensor([0.5, 1.0]).half(), torch.tensor([20.0, 0.0]).half()
    expected = lambda_loss(scores.double(), labels.double()).item()
    assert lambda_loss(scores, labels).item() == pytest.approx(expected, rel=1e-5)


# What counts, and what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_list_without_relevance_does_not_count(weighting):
    scores = torch.tensor([[0.5, 1.0, -1.0], [0.1, 0.3, 0.2]])
    labels = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    settings = settings_of(weighting)
    one = lambda_loss(scores[1], labels[1], **settings)
    torch.testing.assert_close(lambda_loss(scores, labels, **settings), one)


@pytest.mark.parametrize("weighting", ["arp1", "ndcg1"])
def test_one_relevant_document_alone_is_a_counted_constant(weighting):
    scores = torch.tensor([0.7], requires_grad=True)
    value = lambda_loss(scores, torch.tensor([1.0]), weighting=weighting)
    value.backward()
    assert value.item() == pytest.approx(LN2) and scores.grad.item() == 0


def test_unknown_names_and_bad_numbers_are_refused(without_shape_checks):
    data = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="unknown weighting 'ndcg3'; did you mean"):
        lambda_loss(*data, weighting="ndcg3")
    with pytest.raises(ValueError, match="unknown gain 'exp'"):
        lambda_loss(*data, gain="exp")
    with pytest.raises(ValueError, match="needs the k of P@k"):
        lambda_loss(*data, weighting="precision")
    with pytest.raises(ValueError, match="k is 0"):
        lambda_loss(*data, k=0)
    with pytest.raises(ValueError, match="sigma is -1"):
        lambda_loss(*data, sigma=-1.0)


@pytest.mark.parametrize("mu", [-1.0, math.nan])
def test_a_negative_share_is_refused(mu):
    with pytest.raises(ValueError, match="mu is .*; expected 0 or more"):
        lambda_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), mu=mu)
