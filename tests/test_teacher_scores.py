"""Scores of a teacher on a scale of their own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCORES

from rankbench.core import UnknownName
from rankbench.losses import kl_loss
from rankbench.losses.teacher_scores import normalize_scores

LISTS = st.lists(SCORES, min_size=1, max_size=6)


def normal(values, how="zscore", **more):
    return normalize_scores(torch.tensor([values], dtype=torch.float64), how=how, **more)[
        0
    ].tolist()


@given(LISTS)
def test_a_zscore_has_mean_zero_and_deviation_one(values):
    z = normal(values)
    if len(set(values)) == 1:
        assert z == [0.0] * len(values)
        return
    assert math.fsum(z) == pytest.approx(0, abs=1e-9)
    assert math.fsum(x * x for x in z) / len(z) == pytest.approx(1)


@given(LISTS)
def test_minmax_reaches_both_ends(values):
    m = normal(values, "minmax")
    expected = [0.0] * len(values)
    if len(set(values)) > 1:
        low, high = min(values), max(values)
        expected = [(x - low) / (high - low) for x in values]
    assert m == pytest.approx(expected)


@pytest.mark.parametrize("how", ["zscore", "minmax"])
@given(LISTS, st.floats(0.1, 100), st.floats(-50, 50))
def test_shift_and_scale_are_forgotten(how, values, scale, shift):
    assert normal([scale * x + shift for x in values], how) == pytest.approx(
        normal(values, how), abs=1e-6
    )


@pytest.mark.parametrize("how", ["zscore", "minmax", "temperature", "none"])
@given(LISTS, LISTS)
def test_padding_is_not_looked_at(how, values, padding):
    padded = torch.tensor([values + [math.nan] * len(padding)], dtype=torch.float64)
    where = torch.tensor([[True] * len(values) + [False] * len(padding)])
    ours = normalize_scores(padded, where=where, how=how, temperature=2.0)[0].tolist()
    assert ours == pytest.approx(normal(values, how, temperature=2.0) + [0.0] * len(padding))


def test_a_temperature_divides_and_none_does_nothing():
    assert normal([1.0, 4.0], "temperature", temperature=2.0) == [0.5, 2.0]
    assert normal([1.0, 4.0], "none") == [1.0, 4.0]


@pytest.mark.parametrize("how", ["zscore", "minmax", "temperature", "none"])
def test_the_gradient_is_finite_everywhere(how):
    s = torch.tensor([[1.0, 1, 1], [0, 1, 3], [2, 0, 0]], dtype=torch.float64, requires_grad=True)
    where = torch.tensor([[True] * 3, [True] * 3, [True, False, False]])
    weights = torch.arange(3.0)
    (gradient,) = torch.autograd.grad(
        (normalize_scores(s, where=where, how=how) * weights).sum(), s
    )
    assert gradient.isfinite().all() and not gradient[~where].any()
    assert torch.autograd.gradcheck(
        lambda x: normalize_scores(x, how=how), s[1:2].detach().requires_grad_()
    )


@pytest.mark.parametrize("how", ["zscore", "minmax"])
def test_a_list_without_items_is_zero(how):
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    assert not normalize_scores(torch.ones(1, 3), where=nobody, how=how).any()
    assert normalize_scores(torch.ones(2, 0), how=how).shape == (2, 0)


def test_whole_numbers_and_halves_become_floats():
    assert normalize_scores(torch.tensor([[0, 2]])).tolist() == [[-1.0, 1.0]]
    assert normalize_scores(torch.tensor([[0.0, 2.0]]).half()).dtype == torch.float32


def test_for_kl_a_zscore_is_a_temperature():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, generator=g, dtype=torch.float64)
    deviation = teacher.std(correction=0).item()
    torch.testing.assert_close(
        kl_loss(student, normalize_scores(teacher)),
        kl_loss(student, teacher, student_temperature=1.0, teacher_temperature=deviation),
    )


def test_bad_arguments_are_named(without_shape_checks):
    with pytest.raises(UnknownName, match="unknown normalisation 'z-score'; did you mean zscore"):
        normalize_scores(torch.ones(1, 2), how="z-score")
    with pytest.raises(ValueError, match="temperature is 0.0; expected a number above 0"):
        normalize_scores(torch.ones(1, 2), how="temperature", temperature=0.0)


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -3e-7])
def test_rounding_makes_no_order_of_equal_scores(value):
    scores = torch.full((2, 7), value)
    where = torch.tensor([[True] * 7, [False, True, True, True, False, True, True]])
    assert not normalize_scores(scores, where=where).any()
