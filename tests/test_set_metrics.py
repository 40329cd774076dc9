"""What holds for the losses of a chosen set beyond the contract and the references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import anyloss, bce_loss, dice_loss

METRICS = ["f1", "accuracy", "balanced_accuracy", "g_mean", "precision", "recall"]
lists = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n),
    )
)
soft_lists = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n),
    )
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def slopes(fn, scores):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(fn(scores), scores)[0]


def amplified(scores, amplification=73.0):
    return torch.sigmoid(amplification * (torch.sigmoid(scores) - 0.5))


def confusion(scores, labels):
    """Hits, false alarms, misses, right rejections at the threshold 0."""
    pairs = [(s > 0, y > 0) for s, y in zip(scores, labels, strict=True)]
    return [pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0))]


def one_minus(metric, scores, labels):
    """The loss of a hard choice; None where the list does not count."""
    tp, fp, fn, tn = confusion(scores, labels)
    if metric == "accuracy":
        return 1 - (tp + tn) / len(labels)
    if tp + fn == 0 or (metric in ("balanced_accuracy", "g_mean") and tn + fp == 0):
        return None
    recall, specificity = tp / (tp + fn), tn / (tn + fp) if tn + fp else None
    return {
        "f1": lambda: 1 - 2 * tp / (2 * tp + fp + fn),
        "precision": lambda: 1 - (tp / (tp + fp) if tp + fp else 0.0),
        "recall": lambda: 1 - recall,
        "balanced_accuracy": lambda: 1 - (recall + specificity) / 2,
        "g_mean": lambda: 1 - math.sqrt(recall * specificity),
    }[metric]()


# Dice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
@given(lists)
def test_dice_of_a_hard_choice_is_one_minus_f1(squared, data):
    scores, labels = data
    scores = [s if s else 0.5 for s in scores]
    expected = one_minus("f1", scores, labels) or 0.0
    hard = dice_loss(double(scores) * 1e4, double(labels), smooth=0.0, squared=squared)
    assert hard.item() == pytest.approx(expected, abs=1e-12)


@given(soft_lists, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.1, 1.0]),
       st.booleans())  # fmt: skip
def test_dice_lies_between_zero_and_one(data, alpha, smooth, squared):
    s, y = map(double, data)
    value = dice_loss(s, y, alpha=alpha, smooth=smooth, squared=squared)
    assert -1e-12 <= value <= 1 and (value < 1 or smooth == 0)


@given(lists, st.sampled_from([0.1, 1.0]), st.booleans())
def test_dice_vanishes_at_sure_and_right_scores(data, smooth, squared):
    _, y = map(double, data)
    assert dice_loss(60 * (y - 0.5), y, smooth=smooth, squared=squared) < 1e-10


@given(st.integers(-40, 40).map(lambda x: x / 8), st.sampled_from([0.0, 0.5, 1.0]))
def test_one_relevant_item_alone_has_a_short_formula(s, smooth):
    p = 1 / (1 + math.exp(-s))
    value = dice_loss(double([s]), double([1.0]), smooth=smooth)
    assert value.item() == pytest.approx((1 - p) / (1 + p + smooth))


@given(lists, st.sampled_from([0.0, 1.0]))
def test_the_gradient_of_dice_is_the_boxed_one(data, smooth):
    s, y = map(double, data)
    p = s.sigmoid()
    top, size = 2 * (p * y).sum() + smooth, p.sum() + y.sum() + smooth
    by_hand = -p * (1 - p) * (2 * y * size - top) / size**2
    if smooth == 0 and not y.any():
        by_hand = torch.zeros_like(by_hand)
    torch.testing.assert_close(slopes(lambda s: dice_loss(s, y, smooth=smooth), s), by_hand)


@given(lists, st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_without_alpha_dice_pulls_relevant_items_up(data, smooth, squared):
    s, y = map(double, data)
    gradient = slopes(lambda s: dice_loss(s, y, smooth=smooth, squared=squared), s)
    assert (gradient[y > 0] <= 1e-15).all()


@pytest.mark.parametrize(("score", "sign"), [(-2.0, -1), (-0.1, -1), (0.0, 0), (0.1, 1), (2.0, 1)])
def test_with_alpha_one_a_relevant_item_above_one_half_is_pushed_down(score, sign):
    y = double([1.0, 1.0, 0.0])
    gradient = slopes(lambda s: dice_loss(s, y, alpha=1.0), double([score, 0.3, -0.4]))
    assert gradient[0].sign() == sign


@given(lists, st.sampled_from([0.1, 1.0]))
def test_dice_without_a_relevant_item_pushes_down(data, smooth):
    s = double(data[0])
    y = torch.zeros_like(s)
    value = dice_loss(s, y, smooth=smooth)
    torch.testing.assert_close(value, 1 - smooth / (s.sigmoid().sum() + smooth))
    assert (slopes(lambda s: dice_loss(s, y, smooth=smooth), s) > 0).all()


@given(lists)
def test_dice_without_smoothing_ignores_a_list_without_a_relevant_item(data):
    s = double(data[0])
    both = torch.stack([s, s])
    y = torch.stack([torch.zeros_like(s), torch.ones_like(s)])
    torch.testing.assert_close(dice_loss(both, y, smooth=0.0), dice_loss(s, y[1], smooth=0.0))
    assert not slopes(lambda s: dice_loss(s, y[0], smooth=0.0), s).any()


@given(soft_lists)
def test_dice_of_single_items_is_the_mean_over_examples(data):
    s, y = map(double, data)
    p = s.sigmoid()
    expected = (1 - (2 * p * y + 1) / (p + y + 1)).mean()
    torch.testing.assert_close(dice_loss(s[:, None], y[:, None]), expected)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.5, 1.0]))
def test_smoothing_decides_where_equal_scores_go(relevant, others, smooth):
    y = double([1.0] * relevant + [0.0] * others)
    slope = slopes(lambda t: dice_loss(t.expand(len(y)), y, smooth=smooth), double([0.3]))
    lift = 2 * relevant * (relevant + smooth) - smooth * len(y)
    assert (slope.abs() < 1e-12) if lift == 0 else (slope * lift < 0)


def test_a_confident_error_gets_a_finite_gradient_that_dies():
    scores, y = torch.tensor([20.0, -200.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    for settings in ({}, {"alpha": 1.0}, {"alpha": 0.5, "squared": True}, {"smooth": 0.0}):
        gradient = slopes(lambda s, settings=settings: dice_loss(s, y, **settings), scores)
        assert gradient.isfinite().all()
    assert not slopes(lambda s: dice_loss(s, y), scores)[:2].any()
    assert slopes(lambda s: bce_loss(s, y), scores)[0] > 0.3


def test_negative_settings_of_dice_are_refused():
    for name in ("alpha", "smooth"):
        with pytest.raises(ValueError, match=f"{name} is -1.0; expected 0 or more"):
            dice_loss(torch.zeros(2), torch.ones(2), **{name: -1.0})


# AnyLoss ----------------------------------------------------------------------------------------


@given(lists, st.sampled_from([1.0, 8.0, 73.0]))
def test_anyloss_of_f1_is_dice_at_amplified_probabilities(data, amplification):
    s, y = map(double, data)
    a = amplified(s, amplification)
    size = a.sum() + y.sum()
    expected = 1 - 2 * (a * y).sum() / size if y.any() else double(0.0)
    torch.testing.assert_close(anyloss(s, y, amplification=amplification), expected)
    if amplification < 10:  # a logit takes a back to a score
        again = dice_loss(torch.logit(a), y, smooth=0.0)
        torch.testing.assert_close(anyloss(s, y, amplification=amplification), again)


@given(lists, st.sampled_from([1.0, 8.0, 73.0]))
def test_anyloss_of_accuracy_is_the_mean_distance(data, amplification):
    s, y = map(double, data)
    value = anyloss(s, y, metric="accuracy", amplification=amplification)
    torch.testing.assert_close(value, (y - amplified(s, amplification)).abs().mean())


@given(soft_lists, st.sampled_from([1.0, 8.0, 73.0]))
def test_the_geometric_mean_costs_at_least_the_average(data, amplification):
    s, y = map(double, data)
    g_mean, balanced = (
        anyloss(s, y, metric=m, amplification=amplification)
        for m in ("g_mean", "balanced_accuracy")
    )
    assert g_mean >= balanced - 1e-12


@pytest.mark.parametrize("metric", METRICS)
@given(soft_lists, st.sampled_from([1.0, 73.0, 1e5]))
def test_anyloss_lies_between_zero_and_one(metric, data, amplification):
    s, y = map(double, data)
    value = anyloss(s, y, metric=metric, amplification=amplification)
    assert -1e-12 <= value <= 1 + 1e-12


@pytest.mark.parametrize("metric", METRICS)
@given(lists)
def test_a_steep_threshold_gives_the_hard_metric(metric, data):
    scores, labels = data
    scores = [s if s else 0.5 for s in scores]  # no score at the threshold itself
    s, y = double(scores), double(labels)
    value = anyloss(s, y, metric=metric, amplification=1e6)
    assert value.item() == pytest.approx(one_minus(metric, scores, labels) or 0.0, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@given(lists)
def test_a_list_without_the_classes_of_the_metric_does_not_count(metric, data):
    scores, labels = data
    s, y = torch.stack([double(scores)] * 2), torch.stack([double(labels), 1 - double(labels)])
    real = [anyloss(*row, metric=metric).item() for row in zip(s, y, strict=True)]
    counted = [v for v, row in zip(real, y.tolist(), strict=True)
               if one_minus(metric, scores, row) is not None]  # fmt: skip
    expected = sum(counted) / len(counted) if counted else 0.0
    assert anyloss(s, y, metric=metric).item() == pytest.approx(expected)


@given(lists, st.sampled_from([0.5, 1.0, 3.0]))
def test_f_beta_is_a_weighted_harmonic_mean(data, beta):
    s, y = map(double, data)
    if y.any():
        p, r = (1 - anyloss(s, y, metric=m) for m in ("precision", "recall"))
        expected = (1 + beta**2) / (1 / p + beta**2 / r)
        torch.testing.assert_close(1 - anyloss(s, y, beta=beta), expected)


@given(lists, st.sampled_from([1.0, 8.0, 73.0]))
def test_the_gradient_of_anyloss_is_the_boxed_one(data, amplification):
    s, y = map(double, data)
    a, p = amplified(s, amplification), s.sigmoid()
    inner = amplification * a * (1 - a) * p * (1 - p)
    size = a.sum() + y.sum()
    f1 = -2 * (y * size - (a * y).sum()) / size**2 * inner if y.any() else 0 * s
    for metric, by_hand in (("f1", f1), ("accuracy", -(2 * y - 1) / len(y) * inner)):
        ours = slopes(lambda s, m=metric: anyloss(s, y, metric=m, amplification=amplification), s)
        torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("score", [-8.0, -3.0, 3.0, 8.0])
def test_the_default_amplification_has_a_dead_zone(metric, score):
    scores, y = double([score, 0.5, -0.5]), double([1.0, 0.0, 1.0])
    assert slopes(lambda s: anyloss(s, y, metric=metric), scores)[0].abs() < 1e-12
    gentle = slopes(lambda s: anyloss(s, y, metric="f1", amplification=5.0), scores)[0]
    assert gentle.abs() > 1e-6


def test_a_tenth_from_one_half_the_amplifier_is_flat():
    a = amplified(torch.logit(double([0.4, 0.6])))
    assert (a * (1 - a) < 7e-4).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_metric_of_zero_has_a_finite_gradient(metric, dtype):
    y = torch.tensor([1.0, 0.0], dtype=dtype)
    for s in (1e4 * (0.5 - y), 1e4 * (y - 0.5), torch.full_like(y, -1e4), torch.full_like(y, 1e4)):
        for amplification in (73.0, 1e4):
            s = s.clone().requires_grad_()
            value = anyloss(s, y, metric=metric, amplification=amplification)
            assert value.isfinite() and torch.autograd.grad(value, s)[0].isfinite().all()


def test_a_rate_of_zero_has_a_finite_geometric_mean():
    scores = torch.tensor([-3.0, 3.0], requires_grad=True)
    value = anyloss(scores, torch.tensor([1.0, 0.0]), metric="g_mean", amplification=1e4)
    value.backward()
    assert value == 1 and not scores.grad.any()


def test_no_digits_are_lost_at_the_threshold():
    s = torch.tensor([1e-6])
    value = anyloss(s, torch.ones(1), metric="accuracy", amplification=1e6)
    expected = 1 / (1 + math.exp(1e6 * math.tanh(5e-7) / 2))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_unknown_metrics_and_settings_of_anyloss_are_refused():
    data = torch.zeros(2), torch.ones(2)
    with pytest.raises(ValueError, match="beta is 0.0"):
        anyloss(*data, beta=0.0)
    with pytest.raises(ValueError, match="amplification is -1.0"):
        anyloss(*data, amplification=-1.0)


def test_an_unknown_metric_is_refused_with_a_suggestion(without_shape_checks):
    with pytest.raises(ValueError, match="did you mean g_mean"):
        anyloss(torch.zeros(2), torch.ones(2), metric="gmean")
