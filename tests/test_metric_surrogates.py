"""Identities, bounds and limits of soft ranks and their losses; bugs of other libraries."""

import math

import families.metric_surrogates as reference
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rankbench.cards import find
from rankbench.losses import (
    approx_ap_loss,
    approx_mrr_loss,
    approx_ndcg_loss,
    approx_rank_mse_loss,
    bound_ndcg_loss,
    smooth_ap_loss,
)
from rankbench.losses.metric_surrogates import soft_top_k
from rankbench.losses.rank_surrogates import average_ranks
from rankbench.metrics import average_precision, hard_ranks, mrr, ndcg
from rankbench.pair_sums import hinge_ranks, soft_ranks

LOSSES = [approx_ndcg_loss, bound_ndcg_loss, approx_rank_mse_loss, approx_mrr_loss,
          approx_ap_loss, smooth_ap_loss]  # fmt: skip
OF_METRICS = [f for f in LOSSES if f is not approx_rank_mse_loss]
WITH_TEMPERATURE = [f for f in LOSSES if f is not bound_ndcg_loss]
OTHER = {"ids": lambda f: f.__name__}

temperatures = st.sampled_from([0.05, 0.3, 1.0, 4.0])


@st.composite
def lists(draw, grade=4):
    """Scores, which may tie, and labels of one list."""
    n = draw(st.integers(1, 7))
    scores = draw(st.lists(st.integers(-24, 24), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, grade - 1), min_size=n, max_size=n))
    return torch.tensor(scores).double() / 8, torch.tensor(labels).double()


def everything(scores):
    return torch.ones_like(scores, dtype=torch.bool)


def gradient(fn, scores):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(fn(scores), scores)[0]


def best_and_worst(metric, scores, labels, **settings):
    """The metric with ties broken in favour of the relevant items, and against them."""
    order = labels.argsort()
    values = [metric(scores[o], labels[o], **settings) for o in (order.flip(-1), order)]
    return values[0], values[1]


# Soft ranks --------------------------------------------------------------------------------------


@given(lists(), temperatures)
def test_soft_ranks_add_up_to_the_sum_of_ranks(data, temperature):
    scores, _ = data
    n = len(scores)
    total = soft_ranks(scores, everything(scores), temperature).sum()
    assert total.item() == pytest.approx(n * (n + 1) / 2)


@given(lists(), temperatures)
def test_no_set_of_soft_ranks_is_better_than_the_best_ranks(data, temperature):
    scores, _ = data
    ranks = soft_ranks(scores, everything(scores), temperature).sort().values
    least = torch.arange(1, len(scores) + 1).cumsum(0)
    assert (ranks.cumsum(0) >= least.double() - 1e-9).all()


@given(lists(), temperatures)
def test_soft_ranks_are_near_the_ranks_where_gaps_are_large(data, temperature):
    scores, _ = data
    assume(len(scores) > 1)
    gap = scores.sort().values.diff().min().item()
    assume(gap > 0)
    far = (soft_ranks(scores, everything(scores), temperature) - hard_ranks(scores)).abs()
    assert (far <= (len(scores) - 1) * math.exp(-gap / temperature) + 1e-9).all()


@given(lists())
def test_soft_ranks_of_ties_become_averages(data):
    scores, _ = data
    ranks = soft_ranks(scores, everything(scores), 1e-4)
    assert torch.allclose(ranks, average_ranks(scores, everything(scores)))


@given(lists())
def test_hinge_ranks_are_never_too_small(data):
    scores, _ = data
    not_below = (scores[None, :] >= scores[:, None]).sum(1)
    assert (hinge_ranks(scores, everything(scores)) >= not_below - 1e-12).all()


# Normalised discounted cumulative gain -----------------------------------------------------------


@given(lists(), temperatures, st.sampled_from([None, 1, 2, 3, 9]))
def test_a_soft_ranking_is_never_better_than_the_best_one(data, temperature, k):
    scores, labels = data
    value = approx_ndcg_loss(scores, labels, temperature=temperature, k=k)
    assert -1e-12 <= value <= 1


@given(lists(), st.sampled_from([1, 2, 3, 9]))
def test_with_a_cutoff_the_limit_is_the_metric_at_the_cutoff(data, k):
    scores, labels = data
    assume(len(set(scores.tolist())) == len(scores) and labels.any())
    value = approx_ndcg_loss(scores, labels, temperature=1e-3, k=k)
    assert value.item() == pytest.approx(1 - ndcg(scores, labels, k=k).item(), abs=1e-9)


@given(lists(), temperatures)
def test_a_cutoff_beyond_the_list_is_none(data, temperature):
    scores, labels = data
    for k in (len(scores), len(scores) + 3):
        value = approx_ndcg_loss(scores, labels, temperature=temperature, k=k)
        assert value == approx_ndcg_loss(scores, labels, temperature=temperature)


@given(lists(), temperatures, st.integers(1, 8))
def test_shares_of_the_top_are_at_most_k(data, temperature, k):
    scores, _ = data
    share = soft_top_k(scores, everything(scores), k, temperature)
    assert (share >= 0).all() and (share <= 1).all() and share.sum() <= k + 1e-9


@given(lists())
def test_tied_items_share_the_gradient_of_the_cutoff(data):
    scores, _ = data
    assume(len(scores) > 1)
    scores = torch.cat([scores, scores])
    slopes = gradient(lambda s: soft_top_k(s, everything(s), 3).square().sum(), scores)
    half = len(scores) // 2
    assert torch.allclose(slopes[:half], slopes[half:])


def test_ties_of_a_long_list_still_get_a_gradient_at_a_cutoff():
    labels = torch.zeros(1000, dtype=torch.float64)
    labels[7] = 1
    slopes = gradient(lambda s: approx_ndcg_loss(s, labels, k=10), torch.zeros_like(labels))
    assert slopes[7] < 0 and (slopes[8] > 0).all()


@given(lists(), temperatures)
def test_tied_scores_all_have_the_middle_rank(data, temperature):
    _, labels = data
    assume(labels.any())
    gains = labels.exp2() - 1
    discounts = 1 / (torch.arange(len(labels)).double() + 2).log2()
    ideal = (gains.sort(descending=True).values * discounts).sum()
    expected = 1 - gains.sum() / math.log2((len(labels) + 3) / 2) / ideal
    value = approx_ndcg_loss(torch.zeros_like(labels), labels, temperature=temperature)
    assert value.item() == pytest.approx(expected.item(), abs=1e-9)


@given(lists(), st.sampled_from([0.3, 1.0, 4.0]), st.sampled_from(["exp2", "linear"]))
def test_the_bounded_loss_bounds_every_order_of_ties(data, margin, gain):
    scores, labels = data
    assume(labels.any())
    _, worst = best_and_worst(ndcg, scores, labels, gain=gain)
    value = bound_ndcg_loss(scores, labels, margin=margin, gain=gain)
    assert 1 - worst - 1e-9 <= value < 1


def test_one_relevant_item_a_margin_ahead_costs_nothing():
    scores = torch.tensor([3.0, 1.0, 1.0, -2.0])
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert bound_ndcg_loss(scores, labels, margin=2.0) == 0
    assert bound_ndcg_loss(scores, labels, margin=2.1) > 0


def test_a_distant_wrong_pair_pulls_under_the_bound_only():
    scores, labels = torch.tensor([-30.0, 0.0]).double(), torch.tensor([1.0, 0.0])
    assert gradient(lambda s: bound_ndcg_loss(s, labels), scores)[0] < -1e-3
    assert gradient(lambda s: approx_ndcg_loss(s, labels), scores)[0].abs() < 1e-9


# Rank regression ---------------------------------------------------------------------------------


@given(lists(), temperatures)
def test_an_order_is_copied_whatever_the_labels(data, temperature):
    scores, labels = data
    value = approx_rank_mse_loss(scores, labels, temperature=temperature)
    again = approx_rank_mse_loss(scores, labels.exp() - 3, temperature=temperature)
    assert value == again


@given(lists(), temperatures)
def test_a_rank_error_is_at_most_the_length(data, temperature):
    scores, labels = data
    value = approx_rank_mse_loss(scores, labels, temperature=temperature, discount="none")
    assert value <= (len(scores) - 1) ** 2 + 1e-9


@given(lists())
def test_the_right_order_reaches_its_ranks_in_the_limit(data):
    _, labels = data
    assert approx_rank_mse_loss(labels, labels, temperature=1e-3).item() < 1e-12


def test_tied_labels_do_not_depend_on_the_order_of_documents():
    """Lightning IR ranks labels by position: 1.73 or 1.32 for one list."""
    scores = torch.tensor([0.3, 1.2, -0.5, 0.8]).double()
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    value = approx_rank_mse_loss(scores, labels, discount="none")
    for order in ([3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]):
        again = approx_rank_mse_loss(scores[order], labels[order], discount="none")
        assert again.item() == pytest.approx(value.item())
    targets = torch.tensor([3.5, 1.5, 1.5, 3.5])
    ranks = soft_ranks(scores, everything(scores))
    assert value.item() == pytest.approx((ranks - targets).square().mean().item())


# Reciprocal rank and average precision -----------------------------------------------------------


@given(lists(2), temperatures)
def test_the_reciprocal_rank_is_at_least_one_over_the_length(data, temperature):
    scores, labels = data
    for mode in ("max", "mean"):
        value = approx_mrr_loss(scores, labels, temperature=temperature, mode=mode)
        assert -1e-12 <= value <= 1 - 1 / len(scores) + 1e-12


@given(lists(2))
def test_the_maximum_becomes_the_reciprocal_rank(data):
    scores, labels = data
    assume(len(set(scores.tolist())) == len(scores) and labels.any())
    value = approx_mrr_loss(scores, labels, temperature=1e-3)
    assert value.item() == pytest.approx(1 - mrr(scores, labels).item(), abs=1e-9)


@given(lists(), temperatures, st.integers(0, 6))
def test_with_one_relevant_item_three_losses_are_one(data, temperature, at):
    scores, _ = data
    labels = torch.zeros_like(scores)
    labels[at % len(scores)] = 1
    value = approx_mrr_loss(scores, labels, temperature=temperature).item()
    mean = approx_mrr_loss(scores, labels, temperature=temperature, mode="mean").item()
    assert value == pytest.approx(mean, abs=1e-12)
    ap = approx_ap_loss(scores, labels, temperature=temperature).item()
    assert value == pytest.approx(ap, abs=1e-12)


def test_the_maximum_pushes_the_other_relevant_items_down():
    scores, labels = torch.tensor([0.5, 0.0, 1.5, -1.0]).double(), torch.tensor([1.0, 1, 0, 0])
    slopes = gradient(lambda s: approx_mrr_loss(s, labels), scores)
    assert slopes[0] < 0 < slopes[1]
    slopes = gradient(lambda s: approx_mrr_loss(s, labels, mode="mean"), scores)
    assert slopes[0] < 0 and slopes[1] < 0


@given(lists(), temperatures)
def test_in_the_mean_labels_are_weights(data, temperature):
    scores, labels = data
    ours = approx_mrr_loss(scores, labels, temperature=temperature, mode="mean").item()
    theirs = reference.approx_mrr(scores.tolist(), labels.tolist(), temperature, "mean")
    assert ours == pytest.approx(theirs or 0.0, abs=1e-12)


def test_the_mean_is_the_loss_of_tensorflow_ranking():
    scores, labels = torch.tensor([0.3, 1.2, -0.5, 0.8]), torch.tensor([0.0, 2.0, 1.0, 3.0])
    value = approx_mrr_loss(scores, labels, mode="mean", temperature=0.1)
    assert value.item() - 1 == pytest.approx(-0.620494, abs=1e-6)


@given(lists(2), temperatures)
def test_smooth_ap_is_approx_ap(data, temperature):
    scores, labels = data
    ours = smooth_ap_loss(scores, labels, temperature=temperature)
    assert torch.allclose(ours, approx_ap_loss(scores, labels, temperature=temperature))


@given(lists(2), temperatures)
def test_average_precision_is_at_least_one_over_all_irrelevant_and_one(data, temperature):
    scores, labels = data
    negatives = (labels == 0).sum().item()
    for loss in (approx_ap_loss, smooth_ap_loss):
        value = loss(scores, labels, temperature=temperature)
        assert -1e-12 <= value <= negatives / (1 + negatives) + 1e-12


@given(lists(2))
def test_smooth_precision_becomes_average_precision(data):
    scores, labels = data
    assume(len(set(scores.tolist())) == len(scores) and labels.any())
    expected = 1 - average_precision(scores, labels).item()
    for loss in (approx_ap_loss, smooth_ap_loss):
        value = loss(scores, labels, temperature=1e-3).item()
        assert value == pytest.approx(expected, abs=1e-9)


@given(lists(2), temperatures)
def test_where_all_items_are_relevant_precision_is_perfect(data, temperature):
    scores, _ = data
    ones = torch.ones_like(scores)
    assert approx_ap_loss(scores, ones, temperature=temperature).abs() < 1e-12
    with_other = approx_ap_loss(
        torch.stack([scores, scores]), torch.stack([ones, 1 - ones]), temperature=temperature
    )
    assert with_other.abs() < 1e-12


@given(lists(2))
def test_smooth_ap_goes_to_zero_as_a_perfect_order_spreads(data):
    _, labels = data
    assert smooth_ap_loss(labels, labels).abs() < 1e-12


def test_the_average_precision_of_rax_has_a_hard_numerator(golden):
    case = golden["rax.approx_ap.single"]
    scores, labels = case["inputs"]["scores"][0], case["inputs"]["labels"][0]
    ranks = [reference.soft_rank(scores, i, 1.0) for i in range(4)]
    relevant = [i for i in range(4) if labels[i] >= 1]
    ratios = [sum(ranks[j] <= ranks[i] for j in relevant) / ranks[i] for i in relevant]
    assert -sum(ratios) / 3 == pytest.approx(case["value"], abs=1e-6)
    ours = approx_ap_loss(torch.tensor(scores), torch.tensor(labels)).item()
    assert ours - 1 == pytest.approx(-0.821072, abs=1e-6) != pytest.approx(case["value"], abs=1e-3)


# What went wrong elsewhere -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", OF_METRICS, **OTHER)
def test_lists_without_relevant_items_are_not_counted(loss):
    """Lightning IR gives them a loss of 1."""
    scores = torch.tensor([[0.5, 1.5, -1.0], [0.2, 0.1, 0.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    value = loss(scores, labels)
    assert value == loss(scores[0], labels[0])
    assert loss(scores, labels, reduction="none")[1] == 0
    assert torch.autograd.grad(value, scores)[0][1].abs().sum() == 0


@pytest.mark.parametrize("loss", OF_METRICS, **OTHER)
def test_lists_of_labels_below_zero_are_not_counted(loss):
    value = loss(torch.tensor([0.5, 1.5, -1.0]), torch.tensor([-1.0, 0.0, -2.0]))
    assert value == 0


@pytest.mark.parametrize("loss", WITH_TEMPERATURE, **OTHER)
def test_the_temperature_divides(loss):
    """Lightning IR multiplies by it in one loss and divides in others."""
    scores, labels = (
        torch.tensor([0.5, 1.5, 1.0, -1.0]).double(),
        torch.tensor([2.0, 1.0, 0.0, 0.0]),
    )
    value = loss(scores, labels, temperature=0.5)
    assert value.item() == pytest.approx(loss(2 * scores, labels, temperature=1.0).item())
    assert value.item() == pytest.approx(loss(4 * scores, labels, temperature=2.0).item())


def test_the_temperature_divides_at_a_cutoff():
    scores, labels = (
        torch.tensor([0.5, 1.5, 1.0, -1.0]).double(),
        torch.tensor([2.0, 1.0, 0.0, 0.0]),
    )
    value = approx_ndcg_loss(scores, labels, temperature=0.5, k=2)
    assert value.item() == pytest.approx(approx_ndcg_loss(2 * scores, labels, k=2).item())


@pytest.mark.parametrize("loss", WITH_TEMPERATURE, **OTHER)
def test_the_temperature_may_be_a_tensor_with_a_gradient(loss):
    temperature = torch.tensor(0.5, requires_grad=True)
    scores = torch.tensor([[0.5, 1.5, 1.0], [0.1, 0.2, 0.0]])
    labels, where = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), torch.ones(2, 3).bool()
    where[1, 2] = False
    loss(scores, labels, where=where, temperature=temperature).backward()
    assert temperature.grad.isfinite() and temperature.grad != 0


def test_a_learned_temperature_survives_a_cutoff_of_short_lists():
    temperature = torch.tensor(0.5, requires_grad=True)
    where = torch.tensor([[True, True, True, True], [True, True, False, False]])
    scores, labels = torch.randn(2, 4), torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    approx_ndcg_loss(scores, labels, where=where, temperature=temperature, k=3).backward()
    assert temperature.grad.isfinite() and temperature.grad != 0


@pytest.mark.parametrize("loss", [approx_mrr_loss, approx_ap_loss, smooth_ap_loss], **OTHER)
def test_fractional_labels_are_relevant(loss):
    """Where relevance starts at 1, as in rax, such lists are lost."""
    scores, labels = torch.tensor([0.5, 1.5, -1.0]), torch.tensor([0.4, 0.0, 0.4])
    assert loss(scores, labels) == loss(scores, labels.ceil()) > 0


@pytest.mark.parametrize("k", [None, 2])
def test_padding_does_not_change_the_best_order(k):
    scores, labels = torch.tensor([0.5, 1.5, 1.0]), torch.tensor([2.0, 1.0, 0.0])
    value = approx_ndcg_loss(scores, labels, k=k)
    padded = torch.tensor([0.5, 1.5, 1.0, 9.0, 9.0]), torch.tensor([2.0, 1.0, 0.0, 7.0, 7.0])
    where = torch.tensor([True, True, True, False, False])
    assert approx_ndcg_loss(*padded, where=where, k=k) == value
    if k is None:
        assert bound_ndcg_loss(*padded, where=where) == bound_ndcg_loss(scores, labels)


def test_the_best_relevant_items_share_the_gradient_where_they_tie():
    scores, labels = torch.tensor([1.0, 2.0, 1.0]).double(), torch.tensor([1.0, 0.0, 1.0])
    slopes = gradient(lambda s: approx_mrr_loss(s, labels), scores)
    assert slopes[0] == slopes[2] < 0


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", WITH_TEMPERATURE, **OTHER)
def test_a_temperature_of_zero_is_refused(loss, without_shape_checks):
    with pytest.raises(ValueError, match="temperature is 0"):
        loss(torch.zeros(2), torch.ones(2), temperature=0)


def test_a_margin_of_zero_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="margin is 0"):
        bound_ndcg_loss(torch.zeros(2), torch.ones(2), margin=0)


def test_a_cutoff_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        approx_ndcg_loss(torch.zeros(2), torch.ones(2), k=0)
    with pytest.raises(ValueError, match="k is 0"):
        soft_top_k(torch.zeros(2), torch.ones(2).bool(), 0)


@pytest.mark.parametrize(
    ("loss", "settings", "closest"),
    [
        (approx_ndcg_loss, {"gain": "linaer"}, "linear"),
        (bound_ndcg_loss, {"gain": "exp"}, "exp2"),
        (approx_rank_mse_loss, {"discount": "log"}, "log2"),
        (approx_mrr_loss, {"mode": "men"}, "mean"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(loss, settings, closest, without_shape_checks):
    with pytest.raises(ValueError, match=closest):
        loss(torch.zeros(2), torch.ones(2), **settings)


def test_the_paper_name_of_the_rank_error_finds_it():
    assert find("adr-mse").fn is find("ADR_MSE").fn is approx_rank_mse_loss
