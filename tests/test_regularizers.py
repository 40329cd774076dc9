"""Identities and bounds of FLOPS."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import flops_regularizer


def draw(seed: int, rows: int = 6, terms: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, terms, generator=g, dtype=torch.float64)


seeds = st.integers(0, 10_000)


@given(seeds)
def test_it_lies_between_its_bounds(seed):
    e = draw(seed)
    value, norm = flops_regularizer(e), e.abs().sum(-1).mean()
    assert norm**2 / 5 - 1e-12 <= value <= norm**2 + 1e-12
    assert value <= e.square().sum(-1).mean() + 1e-12


def test_the_bounds_are_reached():
    even, crowded = torch.eye(4).double(), torch.eye(4).double()[[0, 0, 0, 0]]
    assert flops_regularizer(even) == 1 / 4 and flops_regularizer(crowded) == 1


@given(seeds, st.floats(0.1, 10))
def test_it_is_of_degree_two(seed, scale):
    e = draw(seed)
    torch.testing.assert_close(flops_regularizer(scale * e), scale**2 * flops_regularizer(e))


@given(seeds)
def test_one_row_is_its_squared_length(seed):
    e = draw(seed, rows=1)
    torch.testing.assert_close(flops_regularizer(e), e.square().sum())


@given(seeds)
def test_it_is_the_mean_overlap_of_all_pairs_of_rows(seed):
    e = draw(seed)
    torch.testing.assert_close(flops_regularizer(e), (e.abs() @ e.abs().T).mean())


@given(seeds)
def test_local_values_exceed_the_whole_by_the_variance_of_their_means(seed):
    """Left to each device, sparsity would depend on the number of devices."""
    e = draw(seed, rows=12)
    for devices in (2, 3, 4, 6):
        pieces = e.chunk(devices)
        local = torch.stack([flops_regularizer(x) for x in pieces]).mean()
        means = torch.stack([x.abs().mean(0) for x in pieces])
        excess = means.var(0, correction=0).sum()
        torch.testing.assert_close(local, flops_regularizer(e) + excess)
        assert excess > 0


@given(seeds)
def test_the_gradient_is_the_boxed_one(seed):
    e = draw(seed).relu()  # dead activations feel nothing
    leaf = e.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(flops_regularizer(leaf), leaf)
    torch.testing.assert_close(gradient, 2 * e.mean(0) / len(e) * e.sign())


def test_the_sign_does_not_hide_a_term():
    """sentence-transformers leaves the absolute value out: this batch would be free."""
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert flops_regularizer(opposite) == 1 and opposite.mean(0).square().sum() == 0


@pytest.mark.parametrize("threshold", [0, 1, 2, 3])
def test_rows_below_the_threshold_still_count(threshold):
    e = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1]])
    dense = e[e.sum(-1) > threshold]
    expected = (dense.sum(0) / 3).square().sum()
    assert flops_regularizer(e, row_threshold=threshold) == expected


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match="row_threshold is -1; expected a number of terms"):
        flops_regularizer(torch.ones(2, 2), row_threshold=-1)
