"""What holds for Gaussians over a batch beyond the contract and the reference."""

import pytest
import torch
from families.graded_gaussians import singular_values
from hypothesis import given
from hypothesis import strategies as st
from test_values import double

from rankbench.checks import autograd, finite_differences
from rankbench.losses import batch_wasserstein_loss, kl_loss
from rankbench.losses.graded_gaussians import _turned, prepare_slots

RAW = {"normalize": "none"}
COVARIANCES = ("none", "diagonal", "full")


@st.composite
def clouds(draw, smallest=1):
    """Two clouds of one shape, in coarse numbers."""
    count, slots = draw(st.integers(smallest, 6)), draw(st.integers(1, 5))
    number = st.integers(-8, 8).map(lambda x: x / 4)
    rows = st.lists(st.lists(number, min_size=slots, max_size=slots),
                    min_size=count, max_size=count)  # fmt: skip
    return double(draw(rows)), double(draw(rows))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(ours, expected, **tolerance):
    torch.testing.assert_close(ours, expected, **{"rtol": 1e-9, "atol": 1e-10, **tolerance})


def orthogonal(size, seed=0):
    """A rotation that keeps the mean of a batch where it is."""
    q = torch.linalg.qr(random(size - 1, size - 1, seed=seed)).Q
    ones = torch.ones(size, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, random(size, size - 1, seed=seed + 1)], 1)).Q
    middle = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), q)
    return basis @ middle @ basis.T


# Identities -------------------------------------------------------------------------------------


@given(clouds())
def test_each_part_of_the_covariance_costs_something(data):
    s, y = data
    for normalize in ("softmax", "none"):
        chain = [batch_wasserstein_loss(s, y, covariance=c, normalize=normalize, correction=0)
                 for c in COVARIANCES]  # fmt: skip
        x, z = (s.softmax(-1), y.softmax(-1)) if normalize == "softmax" else (s, y)
        chain.append((x - z).square().sum(-1).mean())
        assert all(a <= b + 1e-12 for a, b in zip(chain, chain[1:], strict=False)), chain


@given(clouds(smallest=2), st.randoms(use_true_random=False))
def test_pairing_lists_anew_changes_nothing(data, r):
    s, y = data
    order = torch.tensor(r.sample(range(len(s)), len(s)))
    for covariance in COVARIANCES:
        value = batch_wasserstein_loss(s[order], y, covariance=covariance)
        same(value, batch_wasserstein_loss(s, y, covariance=covariance))


@given(clouds())
def test_equal_clouds_are_at_distance_zero(data):
    s, _ = data
    for covariance in COVARIANCES:
        assert batch_wasserstein_loss(s, s.flip(0), covariance=covariance).abs() < 1e-12


@given(clouds())
def test_constant_labels_leave_the_mean_squared_distance(data):
    s, y = data
    y = y[:1].expand_as(s)
    same(batch_wasserstein_loss(s, y, correction=0, **RAW), (s - y).square().sum(-1).mean())
    points = (s.softmax(-1) - y.softmax(-1)).square().sum(-1).mean()
    same(batch_wasserstein_loss(s, y, correction=0), points)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("correction", [0, 1])
def test_one_list_has_no_covariance(covariance, correction):
    s, y = double([[0.5, -1.0, 2.0]]), double([[1.0, 0.0, 3.0]])
    expected = (s.softmax(-1) - y.softmax(-1)).square().sum(-1)[0]
    same(batch_wasserstein_loss(s, y, covariance=covariance, correction=correction), expected)


@given(clouds(smallest=2), st.sampled_from([0, 1]))
def test_one_slot_has_a_closed_form(data, correction):
    s, y = (x[:, :1] for x in data)
    gap, spread = s.mean() - y.mean(), s.std(correction=correction) - y.std(correction=correction)
    for covariance in ("diagonal", "full"):
        ours = batch_wasserstein_loss(s, y, covariance=covariance, correction=correction, **RAW)
        same(ours, gap**2 + spread**2)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize(("count", "slots"), [(9, 4), (40, 3), (5, 5)])
def test_the_distance_of_gaussians_is_found_by_matrix_roots(count, slots, correction):
    s, y = random(2, count, slots, seed=1)
    a, b = (x.T.cov(correction=correction).reshape(slots, slots) for x in (s, y))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    expected = (s.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * shared
    ours = batch_wasserstein_loss(s, y, correction=correction, **RAW)
    same(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("count", "slots"), [(6, 4), (4, 6)])
def test_the_loss_is_the_distance_after_the_best_rotation(count, slots):
    s, y = random(2, count, slots, seed=2)
    x, z = s - s.mean(0), y - y.mean(0)
    best = (
        batch_wasserstein_loss(s, y, correction=0, **RAW) - (s.mean(0) - y.mean(0)).square().sum()
    )
    for seed in range(30):
        turned = orthogonal(count, seed) @ z
        same(turned.T @ turned, z.T @ z)
        assert (x - turned).square().sum() / count >= best - 1e-12
    u, _, vh = torch.linalg.svd(x @ z.T)
    same((x - u @ vh @ z).square().sum() / count, best)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_rotated_cloud_has_the_covariance_of_the_labels_where_scores_vary(rank):
    x, y = random(7, rank) @ random(rank, 4, seed=1), random(7, 4, seed=2)
    x, y = x - x.mean(0), y - y.mean(0)
    turned = _turned(x, y, x.new_tensor(1e-12))
    same((x * turned).sum(), torch.linalg.svdvals(x @ y.T).sum())
    assert turned.square().sum() <= y.square().sum() + 1e-12
    assert torch.linalg.matrix_rank(turned, atol=1e-9) == rank


def test_the_reference_finds_singular_values():
    for shape in ((4, 4), (3, 5), (5, 2)):
        x = random(*shape, seed=3)
        found = double(sorted(singular_values(x.tolist()), reverse=True))
        same(found[: min(shape)], torch.linalg.svdvals(x))


@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_many_lists_and_many_slots_give_the_same_as_each_other_padded(normalize):
    s, y = random(2, 3, 5)
    where = torch.tensor([True] * 3 + [False] * 9)  # more rows than slots: another shape inside
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 9), value=torch.nan) for x in (s, y)]
    ours = batch_wasserstein_loss(*padded, where=where, normalize=normalize)
    same(ours, batch_wasserstein_loss(s, y, normalize=normalize))


# Gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("normalize", ["softmax", "none"])
@pytest.mark.parametrize(("count", "slots"), [(6, 4), (4, 6), (4, 4), (2, 5), (1, 3), (9, 1)])
def test_the_gradient_is_that_of_finite_differences(count, slots, normalize, covariance):
    s, y = random(2, count, slots, seed=4)

    def fn(x):
        return batch_wasserstein_loss(x, y, normalize=normalize, covariance=covariance)

    assert torch.autograd.gradcheck(fn, s.requires_grad_())


def test_the_direction_that_a_softmax_lacks_does_no_harm():
    s, y = random(2, 6, 4, seed=5)
    x, z = (v.softmax(-1) - v.softmax(-1).mean(0) for v in (s, y))
    assert torch.linalg.matrix_rank(x @ z.T) == 3 == torch.linalg.matrix_rank(z)
    slopes = autograd(lambda v: batch_wasserstein_loss(v, y), s)
    same(slopes, finite_differences(lambda v: batch_wasserstein_loss(v, y), s), atol=1e-8)


FEW = {
    "all equal": torch.zeros(6, 4, dtype=torch.float64),
    "all equal, far from 0": torch.full((6, 4), 1000 / 3, dtype=torch.float64),
    "the same list for everybody": random(1, 4, seed=6).repeat(6, 1),
    "one direction": random(6, 1, seed=7) * random(1, 4, seed=8),
    "one direction, far from 0": 100 + random(6, 1, seed=7) * random(1, 4, seed=8),
    "two lists": random(2, 4, seed=9).repeat(3, 1),
    "one slot varies": torch.cat([random(6, 1, seed=7), torch.zeros(6, 3).double()], 1),
}


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("kind", FEW)
def test_where_scores_vary_in_few_directions_the_gradient_is_that_of_both_sides(kind, covariance):
    s, y = FEW[kind], random(6, 4, seed=10)

    def fn(x):
        return batch_wasserstein_loss(x, y, covariance=covariance, **RAW)

    slopes = autograd(fn, s)
    assert slopes.isfinite().all()
    scale = max(1.0, fn(s).item())
    same(slopes, finite_differences(fn, s), rtol=1e-5, atol=1e-6 * scale)


def test_at_equal_scores_only_the_means_pull_and_any_difference_is_downhill():
    s, y = FEW["all equal"], random(6, 4, seed=10)
    slopes = autograd(lambda x: batch_wasserstein_loss(x, y), s)
    same(slopes, autograd(lambda x: batch_wasserstein_loss(x, y, covariance="none"), s))
    for seed in range(5):
        step = random(6, 4, seed=seed)
        step = 1e-4 * (step - step.mean(0))
        sides = [batch_wasserstein_loss(s + side * step, y) for side in (-1, 1)]
        assert all(value < batch_wasserstein_loss(s, y) for value in sides)


def test_opposite_scores_are_pulled_to_another_list_and_not_across():
    s = double([[1.0, -1.0], [-1.0, 1.0]])
    slopes = autograd(lambda x: batch_wasserstein_loss(x, -s, **RAW), s)
    assert slopes.abs().max() < 1e-12  # the clouds are the same


def test_a_temperature_gets_its_gradient_and_labels_do_not():
    s, y = random(2, 5, 4, seed=11)
    y.requires_grad_()

    def fn(t):
        return batch_wasserstein_loss(s, y, temperature=t)

    assert torch.autograd.gradcheck(fn, double(0.7).requires_grad_())
    value = batch_wasserstein_loss(s.requires_grad_(), y)
    assert torch.autograd.grad(value, y, allow_unused=True) == (None,)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_second_derivative_is_refused_and_not_wrong(covariance):
    s, y = random(2, 5, 4, seed=12)

    def fn(x):
        return batch_wasserstein_loss(x, y, covariance=covariance)

    with pytest.raises(RuntimeError, match="first derivatives"):
        torch.autograd.functional.hessian(fn, s)


def test_means_alone_have_a_second_derivative():
    s, y = random(2, 3, 4, seed=12)
    value = lambda x: batch_wasserstein_loss(x, y, covariance="none")  # noqa: E731
    assert torch.autograd.gradgradcheck(value, s.requires_grad_())


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("normalize", ["softmax", "none"])
def test_scores_that_are_no_numbers_give_no_error_and_no_number(normalize, covariance, broken):
    s, y = random(2, 5, 4, seed=13)
    s[1, 2] = broken
    value = batch_wasserstein_loss(s, y, normalize=normalize, covariance=covariance)
    assert not value.isfinite() or (normalize == "softmax" and broken == -torch.inf)


def test_the_loss_keeps_the_precision_of_its_scores():
    s, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(3))
    for entered, returned in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert batch_wasserstein_loss(s.to(entered), y).dtype == returned


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_no_lists_or_no_slots_cost_nothing(shape):
    s = torch.zeros(shape, requires_grad=True)
    for covariance in COVARIANCES:
        value = batch_wasserstein_loss(s, torch.zeros(shape), covariance=covariance)
        assert value == 0 and value.requires_grad


def test_a_large_batch_is_no_large_matrix():
    s, y = random(2, 20_000, 4, seed=14)  # a B × B matrix would take 3 GB
    assert batch_wasserstein_loss(s, y).isfinite()


# What a batch forgets, and what is refused -------------------------------------------------------


def test_labels_of_another_query_are_as_good():
    y = double([[3.0, 0.0, 1.0, 2.0], [0.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 0.0]])
    assert batch_wasserstein_loss(y.roll(1, 0), y).abs() < 1e-12
    assert kl_loss(y.roll(1, 0), y) > 0.5


def test_a_mask_of_items_is_refused_with_a_remedy():
    s = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="use lists of the same length"):
        prepare_slots(s, s, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected \[B, n\]"):
        prepare_slots(s[0], s[0])
    with pytest.raises(ValueError, match="labels has shape"):
        prepare_slots(s, s[:2])
    with pytest.raises(ValueError, match="where has shape"):
        prepare_slots(s, s, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"where.bool\(\)"):
        prepare_slots(s, s, torch.ones(3))


def test_a_value_per_list_is_refused():
    with pytest.raises(ValueError, match="reduction='none' asks for a value per row"):
        batch_wasserstein_loss(torch.zeros(2, 3), torch.ones(2, 3), reduction="none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "ful"}, "unknown covariance 'ful'; did you mean full"),
        ({"normalize": "soft"}, "unknown normalization 'soft'; did you mean softmax"),
        ({"correction": 2}, "unknown correction '2'"),
        ({"reduction": "avg"}, "unknown reduction 'avg'; did you mean mean, sum"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"label_temperature": 0.0}, "label_temperature is 0.0; expected a number above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        batch_wasserstein_loss(torch.zeros(2, 3), torch.ones(2, 3), **settings)
