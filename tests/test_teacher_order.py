"""What is special about losses on a teacher's order: weights, ties, forms, and faults elsewhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.losses import (
    approx_rank_mse_loss,
    importance_aware_loss,
    listmle_loss,
    plistmle_loss,
    ranknet_loss,
    weighted_ranknet_loss,
)
from rankbench.losses.written_order import importance_weighted_lm_loss, importance_weights

number = st.integers(-40, 40).map(lambda x: x / 8)
grade = st.integers(-3, 3).map(float)
sizes = st.integers(2, 7)
graded = sizes.flatmap(
    lambda n: st.tuples(
        st.lists(number, min_size=n, max_size=n), st.lists(grade, min_size=n, max_size=n)
    )
)
ordered = sizes.flatmap(
    lambda n: st.tuples(st.lists(number, min_size=n, max_size=n), st.permutations(range(1, n + 1)))
)
BOTH = pytest.mark.parametrize("fn", [weighted_ranknet_loss, importance_aware_loss])


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def gradient(fn, scores, *data, **settings):
    scores = scores.clone().requires_grad_()
    (g,) = torch.autograd.grad(fn(scores, *data, **settings).sum(), scores)
    return g


def close(a, b, **tolerance):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), **tolerance)


# Weighted RankNet --------------------------------------------------------------------------------


@given(graded, st.sampled_from(["pairs", "weights"]), st.sampled_from([0.5, 1.0, 2.0]))
def test_without_weights_it_is_ranknet(data, normalize, sigma):
    scores, labels = map(double, data)
    settings = {"weighting": "none", "normalize": normalize, "sigma": sigma}
    close(weighted_ranknet_loss(scores, labels, **settings),
          ranknet_loss(scores, labels, sigma=sigma))  # fmt: skip


def test_the_first_pair_weighs_a_third_and_the_last_least():
    for n in range(2, 12):
        labels = -torch.arange(n).double()
        pairs = n * (n - 1) / 2
        for i, j, weight in ((0, 1, 1 / 3), (n - 2, n - 1, 1 / (2 * n - 1))):
            scores = -1e3 * torch.arange(n).double()  # every pair but one costs nothing
            scores[[i, j]] = scores[[j, i]]
            close(weighted_ranknet_loss(scores, labels), weight * 1e3 / pairs)


@given(ordered)
def test_the_pull_on_a_pair_is_the_boxed_formula(data):
    scores, ranks = map(double, data)
    n, sigma = len(ranks), 1.5
    expected = [0.0] * n
    for i in range(n):
        for j in range(n):
            if ranks[i] < ranks[j]:
                w = 1 / (ranks[i] + ranks[j])
                pull = sigma * w / (1 + math.exp(sigma * (scores[i] - scores[j])))
                expected[i] -= pull.item() / (n * (n - 1) / 2)
                expected[j] += pull.item() / (n * (n - 1) / 2)
    close(gradient(weighted_ranknet_loss, scores, -ranks, sigma=sigma), expected)


@given(ordered)
def test_two_items_are_a_third_of_a_ranknet_pair(data):
    scores, labels = double(data[0][:2]), double([1.0, 0.0])
    pair = ranknet_loss(scores, labels)
    close(weighted_ranknet_loss(scores, labels), pair / 3)
    close(weighted_ranknet_loss(scores, labels, normalize="weights"), pair)
    close(importance_aware_loss(scores, labels), 2 * pair)


@given(graded)
def test_divided_by_its_weights_it_is_a_mean_of_pairs(data):
    scores, labels = map(double, data)
    if len(set(data[1])) > 1:
        tied = weighted_ranknet_loss(torch.zeros_like(scores), labels, normalize="weights")
        close(tied, math.log(2))


def test_one_picked_item_makes_all_weights_equal():
    g = torch.Generator().manual_seed(0)
    for n in range(2, 9):
        scores = torch.randn(n, generator=g, dtype=torch.float64)
        labels = (torch.arange(n) == n // 2).double()
        close(weighted_ranknet_loss(scores, labels), ranknet_loss(scores, labels) * 2 / (n + 4))


def test_the_row_of_an_item_weighs_harmonic_numbers():
    harmonic = lambda m: sum(1 / k for k in range(1, m + 1))  # noqa: E731
    for n in (2, 5, 30):
        for r in range(1, n + 1):
            row = sum(1 / (r + q) for q in range(1, n + 1) if q != r)
            assert row == pytest.approx(harmonic(n + r) - harmonic(r) - 1 / (2 * r))


# The importance-aware loss -----------------------------------------------------------------------


def test_the_weights_of_the_first_places():
    ranks = torch.tensor([1, 3, 7, 2**20 - 1, 0])
    close(importance_weights(ranks), [2.0, 1.5, 4 / 3, 1.05, 1.0])
    close(importance_weights(ranks, alpha=0.25, offset=0.0), [1.0, 0.5, 1 / 3, 0.05, 0.25])


def test_the_weights_fall_with_the_rank_and_stay_above_the_offset():
    weights = importance_weights(torch.arange(1, 500).double())
    assert (weights[1:] < weights[:-1]).all() and weights.min() > 1 and weights.max() == 2


@given(graded, st.sampled_from([0.5, 1.0, 3.0]))
def test_the_loss_is_linear_in_its_weights(data, offset):
    scores, labels = map(double, data)
    mixed = importance_aware_loss(scores, labels, offset=offset)
    discounted = importance_aware_loss(scores, labels, offset=0.0)
    close(mixed, offset * listmle_loss(scores, labels) + discounted, rtol=1e-9, atol=1e-9)


@given(graded)
def test_it_is_listmle_with_weights_of_places(data):
    scores, labels = map(double, data)
    close(importance_aware_loss(scores, labels),
          plistmle_loss(scores, labels, position_weights=importance_weights))  # fmt: skip
    close(importance_aware_loss(scores, labels, offset=0.0),
          plistmle_loss(scores, labels, position_weights="dcg"))  # fmt: skip


@given(graded)
def test_it_lies_between_listmle_and_its_double(data):
    scores, labels = map(double, data)
    once = listmle_loss(scores, labels)
    assert once - 1e-9 <= importance_aware_loss(scores, labels) <= 2 * once + 1e-9


@given(ordered)
def test_the_gradient_of_a_place_is_the_boxed_formula(data):
    scores, ranks = map(double, data)
    order = ranks.argsort()
    left = scores[order].tolist()
    weights = [1 + 1 / math.log2(r + 2) for r in range(len(left))]
    expected = [-w for w in weights]
    for r, w in enumerate(weights):
        odds = double(left[r:]).softmax(0).tolist()
        for k, p in enumerate(odds, start=r):
            expected[k] += w * p
    close(gradient(importance_aware_loss, scores, -ranks)[order], expected)


def test_undecided_scores_cost_the_logarithm_of_what_is_left():
    for n in range(2, 9):
        expected = sum((1 + 1 / math.log2(r + 1)) * math.log(n - r + 1) for r in range(1, n + 1))
        close(importance_aware_loss(torch.zeros(n).double(), -torch.arange(n)), expected)


# The token form ----------------------------------------------------------------------------------


@given(ordered)
def test_a_writer_that_never_repeats_itself_has_the_list_form(data):
    scores, ranks = map(double, data)
    place = ranks.argsort()
    best_first, n = scores[place], len(ranks)
    steps = best_first - best_first.flip(0).logcumsumexp(0).flip(0)
    written = importance_weighted_lm_loss(steps, torch.arange(1, n + 1))
    close(n * written, importance_aware_loss(scores, -ranks))


def test_without_ranks_it_is_the_loss_of_a_language_model():
    answer = -torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).double()
    close(importance_weighted_lm_loss(answer, torch.zeros(3, 6)), -answer.mean())
    value = importance_weighted_lm_loss(answer, torch.zeros(3, 6), alpha=0.5, reduction="none")
    close(value, -answer.mean(-1) / 2)


def test_an_answer_is_divided_by_its_active_tokens():
    answer = double([[-1.0, -2.0, -4.0, -8.0], [-3.0, -5.0, -7.0, math.nan]])
    ranks = torch.tensor([[0, 1, 0, 3], [1, 0, 3, 0]])
    where = torch.tensor([[True, True, False, True], [True, True, True, False]])
    settings = {"where": where, "alpha": 0.25}
    first, second = (0.25 * 1 + 2 * 2 + 1.5 * 8) / 3, (2 * 3 + 0.25 * 5 + 1.5 * 7) / 3
    each = importance_weighted_lm_loss(answer, ranks, reduction="none", **settings)
    close(each, [first, second])
    close(importance_weighted_lm_loss(answer, ranks, **settings), (first + second) / 2)
    total = importance_weighted_lm_loss(answer, ranks, reduction="sum", **settings)
    close(total, first + second)
    weighted = importance_weighted_lm_loss(answer, ranks, weights=double([1.0, 3.0]), **settings)
    close(weighted, (first + 3 * second) / 4)


def test_the_number_of_tokens_as_weight_divides_by_those_of_the_batch():
    answer = double([[-1.0, -2.0, -4.0], [-3.0, 0.0, 0.0]])
    ranks, where = torch.tensor([[1, 0, 3]] * 2), torch.tensor([[True] * 3, [True, False, False]])
    pooled = importance_weighted_lm_loss(answer, ranks, where=where, weights=where.sum(-1))
    close(pooled, (2 * 1 + 2 + 1.5 * 4 + 2 * 3) / 4)


def test_the_gradient_of_a_token_is_its_weight():
    answer = double([-1.0, -2.0, math.nan, -3.0]).requires_grad_()
    ranks, where = torch.tensor([1, 0, 2, 3]), torch.tensor([True, True, False, True])
    value = importance_weighted_lm_loss(answer, ranks, where=where, alpha=0.5, offset=2.0)
    (g,) = torch.autograd.grad(value, answer)
    close(g, [-1.0, -0.5 / 3, 0.0, -2.5 / 3])


def test_ranks_as_numbers_get_no_gradient():
    ranks = double([1.0, 0.0]).requires_grad_()
    answer = double([-1.0, -2.0]).requires_grad_()
    importance_weighted_lm_loss(answer, ranks).backward()
    assert ranks.grad is None and answer.grad.isfinite().all()


def test_an_empty_answer_costs_nothing():
    answer = double([[-1.0, -2.0], [-3.0, -4.0]]).requires_grad_()
    ranks, where = torch.ones(2, 2), torch.tensor([[True, True], [False, False]])
    value = importance_weighted_lm_loss(answer, ranks, where=where)
    value.backward()
    close(value, 3.0)
    assert not answer.grad[1].any()


def test_halves_are_computed_in_float32():
    answer = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16)
    assert importance_weighted_lm_loss(answer, torch.tensor([1, 2])).dtype == torch.float32
    assert importance_weights(torch.tensor([1.0], dtype=torch.float64)).dtype == torch.float64


def test_tokens_and_ranks_have_to_match():
    with pytest.raises(ValueError, match=r"ranks has shape \(3,\) but log_probs has \(2,\)"):
        importance_weighted_lm_loss(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("name", ["alpha", "offset"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_weight_below_zero_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected 0 or more"):
        importance_weights(torch.tensor([1, 0]), **{name: value})


def test_binary_labels_have_equal_weights():
    g = torch.Generator().manual_seed(0)
    for n, k in ((4, 2), (7, 3), (7, 6)):
        scores = torch.randn(n, generator=g, dtype=torch.float64)
        labels = (torch.arange(n) < k).double()
        scaled = ranknet_loss(scores, labels) * 2 / (n + 2 * k + 2)
        close(weighted_ranknet_loss(scores, labels), scaled)


# Both --------------------------------------------------------------------------------------------


@BOTH
@given(graded, st.randoms(use_true_random=False))
def test_ties_do_not_depend_on_positions(fn, data, r):
    scores, labels = map(double, data)
    shuffled = list(range(len(labels)))
    r.shuffle(shuffled)
    close(fn(scores[shuffled], labels[shuffled]), fn(scores, labels))


@BOTH
@given(graded)
def test_padding_may_stand_above_every_label(fn, data):
    scores, labels = double(data[0]), double(data[1]) - 10  # padding is set to 0
    padded = [torch.cat([x, double([math.nan, 5.0])]) for x in (scores, labels)]
    where = torch.tensor([True] * len(labels) + [False] * 2)
    close(fn(*padded, where=where), fn(scores, labels))
    g = gradient(fn, *padded, where=where)
    close(g, torch.cat([gradient(fn, scores, labels), torch.zeros(2).double()]))


@BOTH
def test_the_second_list_of_a_batch_has_ranks_from_1(fn):
    scores, labels = double([0.5, 1.5, -1.0]), double([2.0, 1.0, 0.0])
    twice = fn(scores.repeat(2, 1), labels.repeat(2, 1), reduction="none")
    close(twice[1], fn(scores, labels))


@pytest.mark.parametrize(
    "fn", [weighted_ranknet_loss, importance_aware_loss, approx_rank_mse_loss, ranknet_loss]
)
def test_the_teacher_is_read(fn):
    scores, labels = double([0.5, 1.5, -1.0]), double([2.0, 1.0, 0.0])
    assert (fn(scores, labels) - fn(scores, -labels)).abs() > 0.05


@BOTH
def test_equal_scores_learn_the_order(fn):
    g = gradient(fn, torch.zeros(4).double(), double([3.0, 2.0, 1.0, 0.0]))
    assert g.argmin() == 0 and g.argmax() == 3 and g[0] < 0 < g[3]


@BOTH
def test_a_badly_inverted_pair_still_gets_a_gradient(fn):
    scores, labels = double([0.0, 500.0]), double([1.0, 0.0])
    factor = 1 / 3 if fn is weighted_ranknet_loss else 2
    close(fn(scores, labels), factor * 500)
    close(gradient(fn, scores, labels), [-factor, factor])


@BOTH
def test_an_unknown_way_to_normalize_is_refused(fn):
    scores = torch.zeros(2)
    with pytest.raises(UnknownName, match="unknown way to normalize 'weight'; did you mean weigh"):
        fn(scores, scores, normalize="weight")


def test_an_unknown_weighting_and_a_steepness_of_0_are_refused():
    scores = torch.zeros(2)
    with pytest.raises(UnknownName, match="unknown weighting 'inverse_rank'; did you mean inverse"):
        weighted_ranknet_loss(scores, scores, weighting="inverse_rank")
    with pytest.raises(ValueError, match="sigma is 0"):
        weighted_ranknet_loss(scores, scores, sigma=0.0)
