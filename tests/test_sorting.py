"""What relaxed sorts and rank distributions promise beyond the contract of a loss."""

import itertools
import math

import pytest
import torch
from families import LISTS
from hypothesis import given
from hypothesis import strategies as st
from references import on_lists

from rankbench.cards import find
from rankbench.core import UnknownName
from rankbench.losses.neural_ndcg import FLOOR, gumbel_scores, neural_ndcg_loss, sinkhorn
from rankbench.losses.rank_distributions import rank_distributions, softrank_loss
from rankbench.losses.sorting import distance_sums, neuralsort, neuralsort_loss, soft_sort
from rankbench.metrics import dcg, ndcg


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def lists(low=1, high=6):
    """Scores on a coarse grid, so that ties are common, and a mask."""
    score = st.integers(-24, 24).map(lambda x: x / 8)
    return st.integers(low, high).flatmap(
        lambda n: st.tuples(
            st.lists(score, min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
        )
    )


def tie_free(high=6):
    return st.lists(st.integers(-24, 24), min_size=1, max_size=high, unique=True).map(
        lambda s: double(s) / 8
    )


TEMPERATURES = st.sampled_from([0.1, 1.0, 7.0])
SORTS = pytest.mark.parametrize("sort", [neuralsort, soft_sort], ids=lambda f: f.__name__)


# Distances --------------------------------------------------------------------------------------


@given(lists())
def test_sums_of_distances_are_those_of_all_pairs(data):
    scores, where = double(data[0]).requires_grad_(), torch.tensor(data[1])
    pairs = (scores[:, None] - scores).abs() * where * where[:, None]
    pull = torch.arange(1.0, len(scores) + 1).double() * where
    fast = torch.where(where, distance_sums(scores.masked_fill(~where, 0.0), where), 0.0)
    torch.testing.assert_close(fast, pairs.sum(-1), rtol=1e-14, atol=1e-13)
    ours, theirs = (torch.autograd.grad(x @ pull, scores)[0] for x in (fast, pairs.sum(-1)))
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-13)


# Relaxed permutations ---------------------------------------------------------------------------


@SORTS
@given(data=lists(), temperature=TEMPERATURES)
def test_the_rows_of_real_ranks_sum_to_one(sort, data, temperature):
    scores, where = double(data[0]), torch.tensor(data[1])
    matrix = sort(scores, where=where, temperature=temperature)
    n = int(where.sum())
    assert torch.allclose(matrix[:n].sum(-1), torch.ones(n, dtype=torch.float64))
    assert not matrix[n:].any() and not matrix[:, ~where].any()


@SORTS
@given(scores=tie_free(), temperature=TEMPERATURES)
def test_the_largest_entries_sort_at_every_temperature(sort, scores, temperature):
    order = scores.argsort(descending=True)
    assert torch.equal(sort(scores, temperature=temperature).argmax(-1), order)


@SORTS
@given(scores=tie_free(), temperature=TEMPERATURES)
def test_rows_fall_off_on_both_sides_of_their_rank(sort, scores, temperature):
    sorted_matrix = sort(scores.sort(descending=True).values, temperature=temperature)
    for r, row in enumerate(sorted_matrix.tolist()):
        assert row[: r + 1] == sorted(row[: r + 1]) and row[r:] == sorted(row[r:], reverse=True)


@SORTS
@given(scores=tie_free())
def test_a_cold_sort_is_the_permutation(sort, scores):
    order = scores.argsort(descending=True)
    hard = torch.nn.functional.one_hot(order, len(scores)).double()
    assert torch.equal(sort(scores, temperature=1e-6), hard)


@SORTS
@given(data=lists(), temperature=TEMPERATURES)
def test_a_shift_and_a_scale_with_the_temperature_change_nothing(sort, data, temperature):
    scores, where = double(data[0]), torch.tensor(data[1])
    matrix = sort(scores, where=where, temperature=temperature)
    torch.testing.assert_close(sort(scores + 100, where=where, temperature=temperature), matrix)
    scaled = sort(scores * 3, where=where, temperature=temperature * 3)
    torch.testing.assert_close(scaled, matrix)


@given(st.floats(-5, 5), TEMPERATURES)
def test_two_items_have_one_relaxed_order(score, temperature):
    two = double([score, 0.0])
    p = torch.sigmoid(two[0] / temperature)
    exact = torch.stack([torch.stack([p, 1 - p]), torch.stack([1 - p, p])])
    for sort in (neuralsort, soft_sort):
        torch.testing.assert_close(sort(two, temperature=temperature), exact)
    torch.testing.assert_close(sinkhorn(neuralsort(two, temperature=temperature)), exact)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_powers_of_the_distance(power):
    scores = [0.5, -1.0, 2.0]
    expected = [[math.exp(-(abs(top - s) ** power)) for s in scores] for top in (2.0, 0.5, -1.0)]
    expected = double(expected) / double(expected).sum(-1, keepdim=True)
    torch.testing.assert_close(soft_sort(double(scores), power=power), expected)
    tied = torch.zeros(3, requires_grad=True)
    soft_sort(tied, power=power)[0, 0].backward()
    assert tied.grad.isfinite().all()


@SORTS
def test_tied_items_have_one_gradient(sort):
    scores = double([1.0, 0.0, 1.0, 2.0]).requires_grad_()
    pull = torch.arange(4.0).double()
    (pull @ sort(scores)).dot(double([1.0, 5.0, 1.0, 0.0])).backward()
    torch.testing.assert_close(scores.grad[0], scores.grad[2])


def test_names_that_do_not_exist_are_refused(without_shape_checks):
    x = torch.zeros(2)
    with pytest.raises(UnknownName, match="unknown target"):
        neuralsort_loss(x, x, target="soft")
    with pytest.raises(UnknownName, match="unknown operator"):
        neuralsort_loss(x, x, operator="soft_sort")
    with pytest.raises(UnknownName, match="unknown mode"):
        softrank_loss(x, x, mode="mean")
    for loss, name in ((neuralsort_loss, "target"), (neuralsort_loss, "operator"),
                       (softrank_loss, "mode")):  # fmt: skip
        with pytest.raises(UnknownName, match=f"unknown {name} 'None'"):
            loss(x, x, **{name: None})


@pytest.mark.parametrize("fn", [neuralsort_loss, neural_ndcg_loss])
def test_a_temperature_of_zero_is_refused(fn):
    with pytest.raises(ValueError, match="temperature is 0"):
        fn(torch.zeros(2), torch.ones(2), temperature=0.0)


@pytest.mark.parametrize("fn", [neuralsort_loss, neural_ndcg_loss])
def test_a_temperature_tensor_gets_its_gradient(fn):
    scores, labels = double([0.5, -1.0, 2.0]), double([1.0, 0.0, 2.0])
    temperature = double(0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: fn(scores, labels, temperature=t), temperature)


# Sinkhorn ---------------------------------------------------------------------------------------


def divided(matrix, times):
    for _ in range(times):
        sums = matrix.sum(-2, keepdim=True)
        matrix = matrix / torch.where(sums > 0, sums, 1.0)
        sums = matrix.sum(-1, keepdim=True)
        matrix = matrix / torch.where(sums > 0, sums, 1.0)
    return matrix


@pytest.mark.parametrize("times", [0, 1, 2, 50])
def test_two_vectors_are_the_loop_of_divisions_and_its_gradient(times):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, generator=g, dtype=torch.float64).requires_grad_()
    where = torch.arange(6) < torch.tensor([6, 5, 2, 0])[:, None]
    pull = torch.randn(4, 6, 6, generator=g, dtype=torch.float64)
    matrix = neuralsort(scores, where=where)
    ours = sinkhorn(matrix, where=where, max_iter=times, tol=0.0)
    loop = divided(matrix, times)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=1e-14)
    a, b = (
        torch.autograd.grad((x * pull).sum(), scores, retain_graph=True)[0] for x in (ours, loop)
    )
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@given(lists(), TEMPERATURES)
def test_a_balanced_matrix_is_doubly_stochastic(data, temperature):
    scores, where = double(data[0]), torch.tensor(data[1])
    matrix = neuralsort(scores, where=where, temperature=temperature)
    matrix = sinkhorn(matrix, where=where, max_iter=20000)
    n = int(where.sum())
    torch.testing.assert_close(matrix[:n].sum(-1), torch.ones(n, dtype=torch.float64))
    columns = matrix.sum(0)[where]
    torch.testing.assert_close(columns, torch.ones_like(columns), rtol=0, atol=2e-6)


def test_what_cannot_be_balanced_is_refused(without_shape_checks):
    square = torch.full((2, 3, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\); expected \[\*lists, n, n\]"):
        sinkhorn(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"expected torch.bool. Use where.bool\(\)"):
        sinkhorn(square, where=torch.ones(2, 3))
    with pytest.raises(ValueError, match="they must match"):
        sinkhorn(square, where=torch.ones(3).bool())
    zeros, ones = torch.zeros(2), torch.ones(2)
    for balance in (
        lambda n: sinkhorn(square, max_iter=n),
        lambda n: neural_ndcg_loss(zeros, ones, max_iter=n),
    ):
        balance(0)
        with pytest.raises(ValueError, match="max_iter is -1; expected 0 or more"):
            balance(-1)


def test_half_matrices_are_balanced_in_float32():
    matrix = neuralsort(double([0.3, 1.2, -0.5])).half()
    assert torch.equal(sinkhorn(matrix), sinkhorn(matrix.float()))


def test_a_list_that_has_converged_does_not_change_with_its_batch():
    calm, wild = double([0.0, 0.1, 0.2]), double([4.93, -0.34, 4.97])
    labels = double([1.0, 0.0, 2.0])
    alone = neural_ndcg_loss(calm, labels)
    both = neural_ndcg_loss(torch.stack([calm, wild]), labels.expand(2, 3), reduction="none")
    assert both[0] == alone


def test_a_list_that_has_converged_has_the_gradient_of_its_own_steps():
    calm, wild = double([0.0, 0.1, 0.2]), double([4.93, -0.34, 4.97])
    labels = double([1.0, 0.0, 2.0]).expand(2, 3)
    batch = torch.stack([calm, wild]).requires_grad_()
    alone = calm.clone().requires_grad_()
    neural_ndcg_loss(alone, labels[0]).backward()
    neural_ndcg_loss(batch, labels, reduction="sum").backward()
    torch.testing.assert_close(batch.grad[0], alone.grad, rtol=1e-13, atol=1e-15)


def test_rounding_cannot_make_the_vectors_overflow():
    scores = (3 * torch.randn(8, 300, generator=torch.Generator().manual_seed(0))).exp()
    scores.requires_grad_()
    value = neural_ndcg_loss(scores, torch.arange(300).expand(8, 300) % 4, temperature=1e-6)
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all()


def test_mixed_precision_does_not_reach_the_iteration():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 9, generator=g), torch.arange(9).expand(2, 9) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = neural_ndcg_loss(scores, labels)
    torch.testing.assert_close(mixed, neural_ndcg_loss(scores, labels))


def test_sorted_targets_of_lightning_ir(golden):
    case = golden["lir.neural.sorted_targets"]
    matrix = sinkhorn(neuralsort(torch.tensor(case["inputs"]["scores"])), tol=1e-5)
    theirs = matrix @ torch.tensor(case["inputs"]["labels"])[..., None]
    torch.testing.assert_close(theirs[..., 0], torch.tensor(case["value"]), rtol=1e-5, atol=1e-6)


# NeuralNDCG -------------------------------------------------------------------------------------


def grades(n):
    return st.lists(st.integers(0, 3).map(float), min_size=n, max_size=n).map(double)


SCORED = tie_free().flatmap(lambda s: st.tuples(st.just(s), grades(len(s))))


@given(SCORED, TEMPERATURES, st.sampled_from([None, 1, 2]), st.sampled_from(["exp2", "linear"]))
def test_the_transposed_form_is_the_same_number(data, temperature, k, gain):
    plain, other = (
        neural_ndcg_loss(*data, temperature=temperature, k=k, gain=gain, transposed=t)
        for t in (False, True)
    )
    torch.testing.assert_close(plain, other, rtol=1e-12, atol=1e-12)


@given(SCORED, TEMPERATURES)
def test_the_loss_is_not_below_zero_by_more_than_the_excess_of_a_column(data, temperature):
    columns = sinkhorn(neuralsort(data[0], temperature=temperature)).sum(0)
    value = neural_ndcg_loss(*data, temperature=temperature)
    assert -(columns.max() - 1).clamp(min=0) - 1e-12 <= value <= 1


@given(SCORED)
def test_a_cold_loss_at_k_is_that_of_the_metric(data):
    scores, labels = data
    for k, gain in itertools.product((None, 2), ("exp2", "linear")):
        cold = neural_ndcg_loss(scores, labels, temperature=1e-6, k=k, gain=gain)
        exact = torch.where((labels > 0).any(), 1 - ndcg(scores, labels, k=k, gain=gain), 0.0)
        torch.testing.assert_close(cold, exact)


@given(st.integers(1, 6).flatmap(grades))
def test_tied_scores_give_every_item_the_mean_discount(labels):
    value = neural_ndcg_loss(torch.zeros_like(labels), labels)
    ideal = dcg(labels.sort(descending=True).values)
    mean = dcg(torch.ones_like(labels)) * (labels.exp2() - 1).mean()
    expected = torch.where(ideal > 0, 1 - mean / ideal.clamp(min=1e-9), 0.0)
    torch.testing.assert_close(value, expected)


def test_linear_gains_use_the_linear_ideal_in_the_transposed_form():
    labels = double([0.0, 2.0, 1.0, 3.0])
    value = neural_ndcg_loss(50 * labels, labels, gain="linear", transposed=True)
    assert value.abs() < 1e-9


# Noise ------------------------------------------------------------------------------------------


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_noise_is_gumbel_and_scaled_by_beta():
    scores, where = torch.zeros(2, 3).double(), torch.ones(2, 3, dtype=torch.bool)
    drawn = gumbel_scores(scores, where, 20000, 0.5, False, generator())
    euler = 0.5772156649
    torch.testing.assert_close(drawn.mean(0), scores + 0.5 * euler, rtol=0, atol=0.02)
    spread = torch.full_like(scores, 0.5 * math.pi / 6**0.5)
    torch.testing.assert_close(drawn.std(0), spread, rtol=0.03, atol=0)


def test_noise_is_added_to_the_logarithm_above_the_lowest_real_score():
    scores, where = double([[3.0, 1.0, -9.0]]), torch.tensor([[True, True, False]])
    quiet = gumbel_scores(scores.masked_fill(~where, 0.0), where, 1, 0.0, True, None)
    expected = double([math.log(2 + FLOOR), math.log(FLOOR)])
    torch.testing.assert_close(quiet[0, 0, :2], expected)


def test_the_loss_of_samples_is_their_mean():
    scores, labels = double([[0.3, 1.2, -0.5, 0.8]]), double([[0.0, 2.0, 1.0, 3.0]])
    where = torch.ones_like(labels, dtype=torch.bool)
    noisy = gumbel_scores(scores, where, 5, 0.3, True, generator())
    one_by_one = torch.stack([neural_ndcg_loss(x, labels) for x in noisy])
    ours = neural_ndcg_loss(scores, labels, stochastic=True, samples=5, beta=0.3,
                            generator=generator())  # fmt: skip
    torch.testing.assert_close(ours, one_by_one.mean())


def test_the_generator_decides_the_noise():
    x = double([0.3, 1.2, -0.5]), double([0.0, 2.0, 1.0])
    a, b, c = (
        neural_ndcg_loss(*x, stochastic=True, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert a == b != c


def test_samples_keep_the_mask_of_their_own_list():
    labels = double([[3.0, 2.0, 1.0, 0.0], [2.0, 0.0, 9.0, 9.0]])
    where = torch.tensor([[True] * 4, [True, True, False, False]])
    value = neural_ndcg_loss(50 * labels, labels, where=where, stochastic=True, samples=3,
                             beta=1e-9, log_scores=False, generator=generator())  # fmt: skip
    assert value.abs() < 1e-6


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="samples is 0"):
        neural_ndcg_loss(torch.zeros(2), torch.ones(2), stochastic=True, samples=0)


def test_noise_of_negative_scale_is_refused():
    with pytest.raises(ValueError, match="beta is -1.0; expected 0 or more"):
        neural_ndcg_loss(torch.zeros(2), torch.ones(2), stochastic=True, beta=-1.0)


def test_a_fully_padded_list_with_noise_stays_finite():
    scores = torch.zeros(2, 3, requires_grad=True)
    where = torch.tensor([[True, True, False], [False] * 3])
    value = neural_ndcg_loss(scores, torch.ones(2, 3), where=where, stochastic=True)
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all() and not scores.grad[1].any()


# Rank distributions -----------------------------------------------------------------------------


@given(lists(), st.sampled_from([0.2, 1.0, 5.0]))
def test_ranks_are_distributions_that_keep_the_sum_of_mean_ranks(data, delta):
    scores, where = double(data[0]), torch.tensor(data[1])
    chances = rank_distributions(scores, where=where, delta=delta)
    n = int(where.sum())
    assert torch.allclose(chances[where].sum(-1), torch.ones(n, dtype=torch.float64))
    assert not chances[~where].any() and not chances[:, n:].any()
    total = (chances * torch.arange(len(scores))).sum()
    torch.testing.assert_close(total, total.new_tensor(n * (n - 1) / 2))


def test_a_rank_is_the_number_of_lost_comparisons():
    scores = [0.3, 1.2, -0.5, 0.8]
    for i, row in enumerate(rank_distributions(double(scores)).tolist()):
        beaten = [math.erfc((scores[i] - s) / 2) / 2 for j, s in enumerate(scores) if j != i]
        for r, p in enumerate(row):
            expected = sum(
                math.prod(b if lost else 1 - b for b, lost in zip(beaten, coins, strict=True))
                for coins in itertools.product((False, True), repeat=3)
                if sum(coins) == r
            )
            assert p == pytest.approx(expected, rel=1e-12)


@given(SCORED, st.sampled_from([0.2, 1.0, 5.0]), st.sampled_from(["distribution", "expected"]))
def test_softrank_stays_between_zero_and_one(data, delta, mode):
    assert -1e-12 <= softrank_loss(*data, delta=delta, mode=mode) <= 1


@given(SCORED, st.sampled_from([0.2, 1.0, 5.0]))
def test_the_mean_discount_is_not_below_the_discount_of_the_mean_rank(data, delta):
    mean, other = (softrank_loss(*data, delta=delta, mode=m) for m in ("distribution", "expected"))
    assert mean <= other + 1e-12


@pytest.mark.parametrize("size", [15, 16, 17, 40])
def test_blocks_of_rivals_change_nothing(size):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(size, generator=g, dtype=torch.float64)
    labels = (torch.arange(size) % 4).double()
    expected = on_lists(LISTS["softrank"][0], [scores.tolist()], [labels.tolist()], [[True] * size])
    assert softrank_loss(scores, labels).item() == pytest.approx(expected, rel=1e-12)
    fn = find("softrank").fn
    assert torch.autograd.gradcheck(lambda s: fn(s, labels), scores.requires_grad_())


def test_far_tails_keep_their_digits():
    near = rank_distributions(double([0.0, 14.0]))
    assert near[0, 0].item() == pytest.approx(math.erfc(7.0) / 2, rel=1e-12)
