"""What holds for the losses for rare relevance beyond the contract and the references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import BINARY, lists
from test_values import double

from rankbench.losses import (
    asymmetric_loss,
    bce_loss,
    focal_loss,
    ldam_loss,
    poly1_loss,
    softmax_loss,
    squentropy_loss,
)

LISTS = lists(BINARY)


@given(LISTS, st.sampled_from([0.0, 0.5, 1.0, 4.0]))
def test_poly1_lies_between_cross_entropy_and_a_multiple(data, epsilon):
    s, y = map(double, data)
    value, bce = poly1_loss(s, y, epsilon=epsilon), bce_loss(s, y)
    assert bce - 1e-12 <= value <= (1 + epsilon) * bce + 1e-12


@given(LISTS)
def test_poly1_is_not_negative_down_to_minus_one(data):
    s, y = map(double, data)
    assert poly1_loss(s, y, epsilon=-1.0) >= -1e-12


def test_poly1_is_negative_below_minus_one():
    assert poly1_loss(double([3.0]), double([1.0]), epsilon=-1.1) < 0


@given(LISTS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_more_gamma_never_costs_more(data, gamma):
    s, y = map(double, data)
    assert focal_loss(s, y, gamma=gamma + 0.5) <= focal_loss(s, y, gamma=gamma) + 1e-12
    assert 0 <= focal_loss(s, y, gamma=gamma) <= 0.75 * bce_loss(s, y) + 1e-12


@given(LISTS, st.sampled_from([1.0, 2.0, 5.0]))
def test_focal_costs_at_least_cross_entropy_less_uncertainty(data, gamma):
    s, y = map(double, data)
    p = torch.where(y > 0, s.sigmoid(), (-s).sigmoid())
    bound = (-p.log() + gamma * p * p.log()).mean()
    assert focal_loss(s, y, gamma=gamma, alpha=None) >= bound - 1e-9
    assert bound >= bce_loss(s, y) - gamma / math.e - 1e-9


@given(LISTS, st.sampled_from([0.0, 1.0, 2.5]))
def test_without_margin_the_asymmetric_loss_is_focal(data, gamma):
    s, y = map(double, data)
    ours = asymmetric_loss(s, y, gamma_pos=gamma, gamma_neg=gamma, margin=0.0)
    torch.testing.assert_close(ours, focal_loss(s, y, gamma=gamma, alpha=None))


def test_an_irrelevant_item_below_the_margin_gets_no_gradient():
    edge = math.log(0.05 / 0.95)
    slope = torch.func.grad(lambda s: asymmetric_loss(s, torch.zeros(1)))
    assert slope(torch.tensor([edge - 1e-3])) == 0 < slope(torch.tensor([edge + 1e-1]))


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_a_small_power_has_a_finite_gradient_at_the_margin(gamma):
    scores = torch.tensor([math.log(0.05 / 0.95), -50.0, 50.0], requires_grad=True)
    asymmetric_loss(scores, torch.zeros(3), gamma_neg=gamma).backward()
    assert scores.grad.isfinite().all()


def test_a_missed_relevant_item_keeps_its_full_gradient():
    scores = torch.tensor([-100.0], requires_grad=True)
    asymmetric_loss(scores, torch.ones(1)).backward()
    assert scores.grad == -1


@given(LISTS)
def test_the_cost_of_an_irrelevant_item_is_bounded(data):
    s, _ = map(double, data)
    assert asymmetric_loss(s, torch.zeros_like(s)) <= 0.95**4 * -math.log(0.05) + 1e-12


@given(LISTS)
def test_ldam_is_cross_entropy_at_shifted_scores(data):
    s, y = map(double, data)
    shifted = s - y * 0.5 + (1 - y) * 0.2
    torch.testing.assert_close(ldam_loss(s, y, margins=(0.2, 0.5)), bce_loss(shifted, y))
    value = ldam_loss(s, y, margins=(0.2, 0.5))
    assert bce_loss(s, y) <= value <= bce_loss(s, y) + 0.5


@given(LISTS, st.sampled_from([1.0, 0.1, 0.01]))
def test_ldam_becomes_a_hinge(data, t):
    s, y = map(double, data)
    hinge = torch.where(y > 0, 0.5 - s, s + 0.2).clamp(min=0).mean()
    gap = t * ldam_loss(s, y, margins=(0.2, 0.5), temperature=t) - hinge
    assert -1e-12 <= gap <= t * math.log(2) + 1e-12


def test_the_ratio_of_margins_is_the_fourth_root_of_the_counts():
    counts, y = (160.0, 10.0), double([1.0])
    relevant = ldam_loss(double([0.5]), y, counts=counts)
    assert relevant.item() == pytest.approx(math.log(2))  # the rarer class has max_margin
    irrelevant = ldam_loss(double([-0.25]), 1 - y, counts=counts)
    assert irrelevant.item() == pytest.approx(math.log(2))  # 0.5 · (10/160)^¼ = 0.25


@given(LISTS)
def test_squentropy_is_a_softmax_loss_and_a_mean_square(data):
    s, y = map(double, data)
    if y.any():
        bad = s[y == 0]
        square = bad.square().mean() if len(bad) else 0.0
        torch.testing.assert_close(squentropy_loss(s, y), softmax_loss(s, y) + square)


@pytest.mark.parametrize(
    ("fn", "settings", "message"),
    [
        (focal_loss, {"gamma": -1.0}, "gamma is -1.0; expected 0 or more."),
        (focal_loss, {"alpha": 1.5}, "alpha is 1.5; expected a number from 0 to 1."),
        (focal_loss, {"alpha": -0.5}, "alpha is -0.5; expected a number from 0 to 1."),
        (asymmetric_loss, {"gamma_pos": -1.0}, "gamma_pos is -1.0; expected 0 or more."),
        (asymmetric_loss, {"gamma_neg": -1.0}, "gamma_neg is -1.0; expected 0 or more."),
        (asymmetric_loss, {"margin": -0.1}, "margin is -0.1; expected a number from 0 to 1."),
        (ldam_loss, {"max_margin": -1.0}, "max_margin is -1.0; expected a number above 0"),
        (ldam_loss, {"counts": (999.0,)}, "expected two numbers: irrelevant, relevant."),
        (ldam_loss, {"margins": (1.0,)}, "expected two numbers: irrelevant, relevant."),
    ],
)
def test_settings_that_mean_nothing_are_refused(fn, settings, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        fn(torch.zeros(2), torch.ones(2), **settings)


def test_counts_have_to_be_positive():
    with pytest.raises(ValueError, match="every one of counts is 0"):
        ldam_loss(torch.zeros(2), torch.ones(2), counts=(0.0, 1.0))


def test_without_margin_a_hopeless_irrelevant_item_costs_its_score():
    scores = torch.tensor([1e4], requires_grad=True)
    value = asymmetric_loss(scores, torch.zeros(1), margin=0.0)
    value.backward()
    assert value == 1e4 and scores.grad == 1
