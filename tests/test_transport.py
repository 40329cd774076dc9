"""What holds for transport losses beyond the contract and the references."""

import pytest
import torch
from families.transport import wasserstein
from hypothesis import given
from strategies import GRADES, lists
from test_values import double

from rankbench.losses import wasserstein_loss

LISTS = lists(GRADES, smallest=2)


@given(LISTS)
def test_the_loss_lies_between_zero_and_the_width_of_the_labels(data):
    s, y = map(double, data)
    assert -1e-12 <= wasserstein_loss(s, y) <= y.max() - y.min() + 1e-12


@given(LISTS)
def test_expected_grades_differ_by_no_more_than_the_loss(data):
    s, y = map(double, data)
    gap = ((s.softmax(0) - y.softmax(0)) * y).sum().abs()
    assert y.min() == y.max() or wasserstein_loss(s, y) >= gap - 1e-12


@given(LISTS)
def test_squared_distances_cost_at_least_the_square_of_distances(data):
    s, y = map(double, data)
    assert wasserstein_loss(s, y, order=2) >= wasserstein_loss(s, y) ** 2 - 1e-12


@given(LISTS)
def test_tied_labels_share_one_place(data):
    s, y = map(double, data)
    for order in (1, 2):
        there = wasserstein_loss(s, y, order=order)
        torch.testing.assert_close(there, wasserstein_loss(s.flip(0), y.flip(0), order=order))


def test_the_gradient_of_squared_distances_is_that_of_finite_differences():
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([3.0, 0.0, 1.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    for _ in range(5):
        s = torch.randn(6, generator=g, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: wasserstein_loss(x, y, order=2), s)


def test_half_of_a_scale_is_carried_half_of_the_way():
    value = wasserstein([0.0, 0.0], [0.0, 4.0], label_temperature=0.01)
    assert value == pytest.approx(2.0)
    ours = wasserstein_loss(torch.zeros(2), torch.tensor([0.0, 4.0]), label_temperature=0.01)
    assert ours.item() == pytest.approx(2.0)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="unknown order '3'"):
        wasserstein_loss(torch.zeros(2), torch.ones(2), order=3)


def test_mass_rounded_beyond_the_list_stays_off_the_padding():
    g = torch.Generator().manual_seed(0)
    scores, labels = (
        3 * torch.randn(200, 8, generator=g),
        torch.randint(0, 4, (200, 8), generator=g),
    )
    where = torch.arange(11) < 8
    padded = [torch.nn.functional.pad(x, (0, 3)) for x in (scores, labels - 1000)]
    alone = wasserstein_loss(scores, labels - 1000, order=2, reduction="none")
    beside = wasserstein_loss(*padded, where=where.expand(200, 11), order=2, reduction="none")
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-5)
