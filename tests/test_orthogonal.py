"""Identities, bounds and limits of the orthogonal regularizers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import orthogonal_regularizer
from rankbench.losses.orthogonal import gram_regularizer

seeds = st.integers(0, 10_000)
close = torch.testing.assert_close


def draw(seed: int, rows: int = 6, dim: int = 3, shift: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=g, dtype=torch.float64) + shift


def cosines(x: torch.Tensor) -> torch.Tensor:
    x = x / x.norm(dim=-1, keepdim=True)
    return (x @ x.T)[~torch.eye(len(x), dtype=torch.bool)]


@pytest.mark.parametrize(("rows", "dim"), [(6, 3), (3, 6), (4, 4), (2, 1)])
@given(seeds)
def test_no_table_gives_what_the_table_gives(rows, dim, seed):
    x = draw(seed, rows, dim, shift=0.5)
    c = cosines(x)
    expected = c.mean() ** 2 + (c.square().mean() - 1 / dim).relu()
    close(orthogonal_regularizer(x), expected)
    close(orthogonal_regularizer(x, gather=True), expected)


@given(seeds, st.floats(0, 3), st.floats(0, 3))
def test_it_lies_between_nothing_and_collapse(seed, mean, second):
    settings = {"mean_weight": mean, "second_moment_weight": second}
    value = orthogonal_regularizer(draw(seed, shift=seed % 3), **settings)
    assert -1e-12 <= value <= mean + second * (1 - 1 / 3) + 1e-12


@pytest.mark.parametrize("rows", [2, 5, 50])
def test_collapse_costs_both_weights(rows):
    x = torch.ones(rows, 4, dtype=torch.float64)
    value = orthogonal_regularizer(x, mean_weight=2.0, second_moment_weight=3.0)
    close(value, torch.tensor(2 + 3 * (1 - 1 / 4), dtype=torch.float64))


def test_orthogonal_rows_and_rows_of_both_signs_are_free():
    eye = torch.eye(4, dtype=torch.float64)
    assert orthogonal_regularizer(eye) == 0
    both = orthogonal_regularizer(torch.cat([eye, -eye]), mean_weight=0.0)
    assert both == 0


def test_random_directions_are_nearly_free():
    assert orthogonal_regularizer(draw(0, rows=5000, dim=16)) < 1e-4


@given(seeds)
def test_lengths_do_not_matter(seed):
    x = draw(seed, shift=1.0)
    scale = torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    close(orthogonal_regularizer(scale * x), orthogonal_regularizer(x))


@given(seeds)
def test_the_gradient_is_the_boxed_one(seed):
    x = draw(seed, shift=1.0)
    leaf = x.clone().requires_grad_()
    orthogonal_regularizer(leaf, mean_weight=0.7, second_moment_weight=1.3).backward()
    length, pairs = x.norm(dim=-1, keepdim=True), 6 * 5
    unit, c = x / length, cosines(x)
    table = unit @ unit.T
    pull = 0.7 * c.mean() * unit.sum(0) + 1.3 * (c.square().mean() > 1 / 3) * table @ unit
    close(leaf.grad, 4 / pairs * (pull - (pull * unit).sum(-1, keepdim=True) * unit) / length)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_cost_nothing(rows):
    x = draw(0, rows).requires_grad_()
    value = orthogonal_regularizer(x)
    value.backward()
    assert value == 0 and not x.grad.any()


def test_one_real_row_costs_nothing_in_single_precision():
    x = draw(0, 5).float()
    assert orthogonal_regularizer(x, where=torch.arange(5) == 2) == 0


def test_a_large_batch_needs_no_table_of_pairs():
    """50 000 rows: a table of all pairs would take 10 GB."""
    x = draw(0, rows=50_000, dim=4).float().requires_grad_()
    orthogonal_regularizer(x).backward()
    assert x.grad.isfinite().all()


# Rows of a matrix -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3)])
def test_gram_is_the_distance_from_orthonormal_rows(shape):
    w = draw(1, *shape).requires_grad_()
    gap = w @ w.T - torch.eye(shape[0])
    value = gram_regularizer(w)
    close(value, gap.square().sum())
    (gradient,) = torch.autograd.grad(value, w)
    close(gradient, 4 * gap @ w)


def test_gram_is_zero_for_orthonormal_rows_and_not_below_their_surplus():
    q = torch.linalg.qr(draw(0, 5, 5)).Q
    close(gram_regularizer(q[:3]), torch.zeros((), dtype=torch.float64))
    close(gram_regularizer(q[:, :3]), torch.tensor(2.0, dtype=torch.float64))


def test_gram_upcasts_halves_and_names_what_is_no_matrix(without_shape_checks):
    w = draw(1, 3, 5).half()
    assert gram_regularizer(w).dtype == torch.float32
    close(gram_regularizer(w), gram_regularizer(w.float()))
    with pytest.raises(ValueError, match=r"matrix has shape \(3,\); expected \[k, D\]"):
        gram_regularizer(torch.ones(3))


def test_three_directions_in_the_plane_can_cost_nothing():
    """Both terms are 0 at once with more rows than dimensions."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert orthogonal_regularizer(x) < 1e-30
