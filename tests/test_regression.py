"""What holds for the regression losses beyond the contract and the references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import GRADES, lists
from test_values import double

from rankbench.losses import bce_loss, huber_loss, mse_loss, ordinal_loss
from rankbench.metrics import dcg

LISTS = lists(GRADES, smallest=2)


@given(LISTS)
def test_mse_is_the_spread_of_errors_and_their_mean(data):
    s, y = map(double, data)
    e = s - y
    torch.testing.assert_close(mse_loss(s, y), e.var(correction=0) + e.mean() ** 2)
    n = len(e)
    pairs = (e[:, None] - e[None, :]).square().sum() / (n * (n - 1))
    torch.testing.assert_close(mse_loss(s, y), (n - 1) / (2 * n) * pairs + e.mean() ** 2)


@given(LISTS, st.randoms(use_true_random=False))
def test_mse_bounds_the_dcg_that_is_lost_for_every_way_to_break_ties(data, random):
    s, y = map(double, data)
    shuffled = torch.tensor(random.sample(range(len(s)), len(s)))
    order = shuffled[s[shuffled].argsort(descending=True, stable=True)]
    lost = dcg(y.sort(descending=True).values, gain="linear") - dcg(y[order], gain="linear")
    n = len(s)
    discounts = (1 / torch.arange(2, n + 2, dtype=torch.float64).log2()).square().sum()
    assert lost <= (2 * n * discounts * mse_loss(s, y)).sqrt() + 1e-9


@given(LISTS, st.sampled_from([0.01, 0.5, 1.0, 3.0, 100.0]))
def test_huber_lies_between_its_two_limits(data, delta):
    s, y = map(double, data)
    value, absolute = huber_loss(s, y, delta=delta), (s - y).abs().mean()
    assert -1e-12 <= absolute - value / delta <= delta / 2 + 1e-12
    assert value <= min(mse_loss(s, y) / 2, delta * absolute) + 1e-12
    if delta >= (s - y).abs().max():
        torch.testing.assert_close(value, mse_loss(s, y) / 2)


@given(LISTS)
def test_one_threshold_at_zero_is_binary_cross_entropy(data):
    s, y = map(double, data)
    torch.testing.assert_close(ordinal_loss(s, y), bce_loss(s, y.clamp(0, 1)))


@given(LISTS)
def test_separate_log_odds_are_what_thresholds_make(data):
    s, y = map(double, data)
    cuts = double([-1.0, 0.5, 2.0])
    shared = ordinal_loss(s, y, thresholds=cuts)
    torch.testing.assert_close(ordinal_loss(s[:, None] - cuts, y), shared)


@given(LISTS)
def test_the_ordinal_gradient_is_expected_grade_minus_grade(data):
    s, y = map(double, data)
    cuts = double([-1.0, 0.5, 2.0])
    gradient = torch.func.grad(lambda x: ordinal_loss(x, y, thresholds=cuts))(s)
    expected = torch.sigmoid(s[:, None] - cuts).sum(-1)
    torch.testing.assert_close(gradient, (expected - y) / len(y))


def test_mse_has_a_gradient_at_zero_error():
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    mse_loss(scores, torch.tensor([1.0, 2.0])).backward()
    assert scores.grad.tolist() == [0, 0]


def test_an_ordinal_loss_from_log_odds_still_pushes_where_probabilities_are_rounded():
    scores = torch.tensor([-200.0], requires_grad=True)
    value = ordinal_loss(scores, torch.tensor([1.0]))
    value.backward()
    assert value == 200 and scores.grad == -1


def test_separate_log_odds_may_be_padded_with_nan():
    logits = torch.tensor([[[0.5, -1.0], [torch.nan, torch.inf]]], requires_grad=True)
    where = torch.tensor([[True, False]])
    value = ordinal_loss(logits, torch.tensor([[1.0, 2.0]]), where=where)
    value.backward()
    assert value == ordinal_loss(logits[0, :1].detach(), torch.tensor([1.0]))
    assert not logits.grad[0, 1].any() and logits.grad.isfinite().all()


def test_learned_thresholds_get_their_gradient():
    cuts = double([-1.0, 1.0]).requires_grad_()
    s, y = double([0.5, -0.2, 2.0]), double([1.0, 0.0, 2.0])
    assert torch.autograd.gradcheck(lambda c: ordinal_loss(s, y, thresholds=c), cuts)


def test_a_threshold_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="delta is 0"):
        huber_loss(torch.zeros(2), torch.ones(2), delta=0.0)


@pytest.mark.parametrize("thresholds", [(), (1.5, 0.5), (0.0, 1.0, 0.5)])
def test_thresholds_that_do_not_ascend_are_refused(thresholds):
    with pytest.raises(ValueError, match="expected one number per grade, ascending"):
        ordinal_loss(torch.zeros(2), torch.ones(2), thresholds=thresholds)


@pytest.mark.parametrize("thresholds", [(0.5,), (0.0, 1.0), torch.tensor([0.0])])
def test_thresholds_beside_separate_log_odds_are_refused(thresholds):
    with pytest.raises(ValueError, match="need no thresholds; drop them"):
        ordinal_loss(torch.zeros(2, 3), torch.ones(2), thresholds=thresholds)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(Exception, match="shape|dimension|axis"):
        ordinal_loss(torch.zeros(2, 3), torch.ones(2, 4))
