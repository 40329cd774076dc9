"""Alignment, uniformity and tolerance against plain loops, and their identities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import logsumexp

from rankbench.embedding_metrics import alignment, tolerance, uniformity
from rankbench.losses import infonce_loss

number = st.integers(-8, 8).map(lambda x: x / 8)


def cloud(least=1):
    row = st.lists(number, min_size=3, max_size=3).filter(any)
    return st.lists(row, min_size=least, max_size=6)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def unit(row):
    length = math.sqrt(math.fsum(a * a for a in row))
    return [a / length for a in row]


def squared(a, b):
    return math.fsum((x - y) ** 2 for x, y in zip(unit(a), unit(b), strict=True))


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(unit(a), unit(b), strict=True))


def pairs(rows):
    return [(i, j) for j in range(len(rows)) for i in range(j)]


# References --------------------------------------------------------------------------------------


@given(cloud(), st.randoms(use_true_random=False), st.sampled_from([1.0, 2.0, 3.0]))
def test_alignment_is_the_mean_power_of_the_distance(left, r, alpha):
    right = r.sample(left, len(left))
    expected = [squared(a, b) ** (alpha / 2) for a, b in zip(left, right, strict=True)]
    ours = alignment(double(left), double(right), alpha)
    assert ours.item() == pytest.approx(math.fsum(expected) / len(expected), abs=1e-7)


@given(cloud(least=2), st.sampled_from([0.5, 2.0, 5.0]), st.sampled_from([1, 2, "auto", None]))
def test_uniformity_is_the_log_of_the_mean_potential(x, t, chunk_size):
    energies = [-t * squared(x[i], x[j]) for i, j in pairs(x)]
    expected = logsumexp(energies) - math.log(len(energies))
    ours = uniformity(double(x), t, chunk_size)
    assert ours.item() == pytest.approx(expected, abs=1e-9)
    assert -4 * t - 1e-9 <= ours.item() <= 1e-9


@given(cloud(least=2), st.randoms(use_true_random=False))
def test_tolerance_is_the_mean_cosine_within_classes(x, r):
    labels = [r.randint(0, 2) for _ in x]
    cosines = [cosine(x[i], x[j]) for i, j in pairs(x) if labels[i] == labels[j]]
    ours = tolerance(double(x), torch.tensor(labels)).item()
    if not cosines:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(math.fsum(cosines) / len(cosines), abs=1e-9)


# Identities --------------------------------------------------------------------------------------


@given(cloud(least=2), st.sampled_from([0.1, 3.0, 1e3]))
def test_lengths_are_ignored(x, scale):
    x, labels = double(x), torch.zeros(len(x)).long()
    for measure in (uniformity, lambda y: tolerance(y, labels), lambda y: alignment(y, x)):
        torch.testing.assert_close(measure(scale * x), measure(x), rtol=1e-9, atol=1e-7)


@given(cloud(), st.randoms(use_true_random=False))
def test_alignment_with_a_square_is_two_minus_two_cosines(left, r):
    right = r.sample(left, len(left))
    cosines = [cosine(a, b) for a, b in zip(left, right, strict=True)]
    expected = 2 - 2 * math.fsum(cosines) / len(cosines)
    assert alignment(double(left), double(right)).item() == pytest.approx(expected, abs=1e-9)


@given(cloud(least=2), st.randoms(use_true_random=False), st.sampled_from([0.1, 0.25, 1.0]))
def test_infonce_is_alignment_plus_a_potential(q, r, temperature):
    q, d = double(q), double(r.sample(q, len(q)))
    unit_q, unit_d = (torch.nn.functional.normalize(x, dim=-1) for x in (q, d))
    squares = (unit_q[:, None] - unit_d).square().sum(-1)
    potential = (-squares / (2 * temperature)).logsumexp(1).mean()
    torch.testing.assert_close(
        infonce_loss(q, d, temperature=temperature), alignment(q, d) / (2 * temperature) + potential
    )


@given(cloud(least=2))
def test_a_class_cannot_avoid_itself(x):
    lowest = -1 / (len(x) - 1)
    assert lowest - 1e-9 <= tolerance(double(x), torch.zeros(len(x)).long()).item() <= 1 + 1e-9


@pytest.mark.parametrize("dim", [2, 3, 8, 50])
def test_a_uniform_sphere_has_the_potential_of_its_dimension(dim):
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(3000, dim, generator=g, dtype=torch.float64), 2.0
    series, term = 1.0, 1.0  # 0F1(; dim/2; t²)
    for k in range(60):
        term *= t * t / ((dim / 2 + k) * (k + 1))
        series += term
    assert uniformity(x, t).item() == pytest.approx(math.log(series) - 2 * t, abs=0.02)


def test_one_point_has_no_spread():
    x = double([[0.3, -2.0]]).expand(5, 2)
    assert uniformity(x).item() == pytest.approx(0, abs=1e-12)
    assert alignment(x, x).item() == 0
    assert tolerance(x, torch.zeros(5).long()).item() == pytest.approx(1)


def test_opposite_points_reach_the_bounds():
    x = double([[0.3, -2.0], [-0.3, 2.0]])
    assert uniformity(x, t=2.0).item() == pytest.approx(-8)
    assert alignment(x, -x, alpha=3.0).item() == pytest.approx(8)
    assert tolerance(x, torch.zeros(2).long()).item() == pytest.approx(-1)


def test_potentials_that_underflow_are_not_lost():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(x, t=1000.0).item() == pytest.approx(-4000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_measured_in_single_precision(dtype):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    for measure in (uniformity, lambda y: tolerance(y, labels), lambda y: alignment(y, -y)):
        assert measure(x).dtype == torch.float32
        torch.testing.assert_close(measure(x), measure(x.float()))


def test_many_rows_are_taken_a_few_at_a_time():
    x = torch.randn(1100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = uniformity(x, chunk_size=None)
    for chunk_size in ("auto", 300, 2000):
        torch.testing.assert_close(uniformity(x, chunk_size=chunk_size), expected)


def test_uniformity_of_one_embedding_is_refused():
    with pytest.raises(ValueError, match="compares pairs of embeddings; x has 1"):
        uniformity(torch.ones(1, 3))


def test_shapes_that_do_not_fit_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match="right has shape"):
        alignment(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="labels has shape"):
        tolerance(torch.ones(2, 3), torch.zeros(3).long())


def test_settings_without_a_meaning_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match="alpha is 0"):
        alignment(torch.ones(2, 3), torch.ones(2, 3), alpha=0)
    with pytest.raises(ValueError, match="t is -1"):
        uniformity(torch.ones(2, 3), t=-1)
    with pytest.raises(ValueError, match="expected \\[B, D\\]"):
        uniformity(torch.ones(2, 3, 4))
