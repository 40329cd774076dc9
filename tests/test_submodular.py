"""Submodular losses: identities of the set functions, and what they refuse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.losses import submodular_loss

SEEDS = st.integers(0, 2**16)
FUNCTIONS = ("facility_location", "graph_cut", "log_det")


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def batch(seed, size=8):
    g = torch.Generator().manual_seed(seed)
    return draw(size, 4, seed=seed), torch.randint(3, (size,), generator=g)


@given(SEEDS)
def test_total_and_correlation_of_facility_location_differ_by_one(seed):
    x, labels = batch(seed)
    total = submodular_loss(x, labels)
    correlation = submodular_loss(x, labels, information="correlation")
    torch.testing.assert_close(total, 1 + correlation)


@given(SEEDS, st.floats(0.1, 3))
def test_the_correlation_of_graph_cut_is_its_cut_times_lambda(seed, lam):
    x, labels = batch(seed)
    unit = torch.nn.functional.normalize(x, dim=-1)
    cut = (unit @ unit.T)[labels[:, None] != labels].sum()
    ours = submodular_loss(x, labels, function="graph_cut", information="correlation", lam=lam,
                           reduction="sum")  # fmt: skip
    torch.testing.assert_close(ours, lam * cut)


@given(SEEDS, st.floats(0.05, 3))
def test_the_correlation_of_log_det_is_never_negative(seed, lam):
    x, labels = batch(seed)
    value = submodular_loss(x, labels, function="log_det", information="correlation", lam=lam)
    assert value >= -1e-12


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_class_shares_nothing(function):
    x, _ = batch(0)
    alone = torch.zeros(8, dtype=torch.long)
    value = submodular_loss(x, alone, function=function, information="correlation")
    assert abs(value) < 1e-12


@pytest.mark.parametrize("function", FUNCTIONS)
def test_orthogonal_classes_share_nothing(function):
    x = torch.eye(3).double()[[0, 1, 1, 2]]
    labels = torch.tensor([0, 1, 1, 2])
    value = submodular_loss(x, labels, function=function, information="correlation")
    assert abs(value) < 1e-12


def test_the_total_of_log_det_falls_as_a_class_collapses():
    x, labels = draw(6, 4), torch.zeros(6, dtype=torch.long)
    towards = [x.lerp(x[:1].expand_as(x), t) for t in (0.0, 0.5, 0.9, 1.0)]
    values = [submodular_loss(e, labels, function="log_det", lam=0.1) for e in towards]
    assert all(a > b for a, b in zip(values, values[1:], strict=False))


@given(SEEDS)
def test_names_of_classes_do_not_matter(seed):
    x, labels = batch(seed)
    renamed = torch.tensor([70, -3, 5])[labels]
    for function in FUNCTIONS:
        same = submodular_loss(x, renamed, function=function)
        torch.testing.assert_close(submodular_loss(x, labels, function=function), same)


@pytest.mark.parametrize("size", [10, 30])
def test_facility_location_does_not_count_pairs(size):
    """The larger class has more pairs with the small one, and no more nearest strangers."""
    x = torch.cat([draw(1, 4).expand(size, 4), draw(2, 4, seed=1)])
    labels = torch.tensor([0] * size + [1] * 2)
    unit = torch.nn.functional.normalize(x, dim=-1)
    strangers = (unit[0] * unit[-2:]).sum(-1)
    expected = (size * strangers.max() + strangers.sum()) / (size + 2)
    torch.testing.assert_close(submodular_loss(x, labels, information="correlation"), expected)


def test_an_unknown_function_is_refused(without_shape_checks):
    with pytest.raises(UnknownName) as error:
        submodular_loss(*batch(0), function="graphcut")
    assert "did you mean graph_cut" in str(error.value)


def test_an_unknown_information_is_refused(without_shape_checks):
    with pytest.raises(UnknownName):
        submodular_loss(*batch(0), information="mutual")


@pytest.mark.parametrize("lam", [0.0, -1.0])
def test_a_lambda_that_is_not_positive_is_refused(lam):
    with pytest.raises(ValueError) as error:
        submodular_loss(*batch(0), lam=lam)
    assert str(error.value) == f"lam is {lam}; expected a number above 0, such as 1.0."


def test_a_set_has_no_value_per_row():
    with pytest.raises(ValueError) as error:
        submodular_loss(*batch(0), reduction="none")
    assert str(error.value) == ("reduction is 'none' but a set has one value; use 'mean' or 'sum'.")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("information", ["total", "correlation"])
def test_a_batch_without_rows_costs_nothing(function, information):
    x, labels = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long)
    value = submodular_loss(x, labels, function=function, information=information)
    assert value == 0 and value.requires_grad


@pytest.mark.parametrize("size", [6, 300])
def test_the_log_determinant_of_copies_is_right_down_to_a_small_lambda(size):
    x, labels = torch.ones(size, 64), torch.arange(size) % 3
    ours = submodular_loss(x, labels, function="log_det", lam=1e-4)
    exact = submodular_loss(x.double(), labels, function="log_det", lam=1e-4)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=0)


def test_padding_is_nearest_to_nobody():
    """Its similarity is 0, which would be nearer than an opposite vector."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    labels, real = torch.tensor([0, 1, 1]), torch.tensor([True, True, False])
    value = submodular_loss(x, labels, where=real, information="correlation", reduction="sum")
    assert value == -2
