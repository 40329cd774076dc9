"""Schedules equal their closed forms, at chosen steps and after a restart."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.scaling.schedules import Schedule, number_at

SHAPE = {"linear": lambda x: x, "quadratic": lambda x: x**2,
         "cosine": lambda x: math.sin(math.pi * x / 2) ** 2}  # fmt: skip
STEPS = st.integers(0, 300)


@st.composite
def schedules(draw, ending=None):
    delay, warmup = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    ends = draw(st.booleans()) if ending is None else ending
    number = st.floats(-2, 2)
    return Schedule(
        draw(number), draw(st.sampled_from(list(SHAPE))), draw(number), delay, warmup,
        total=delay + warmup + draw(st.integers(1, 100)) if ends else None,
        end=draw(number) if ends else None,
        decay=draw(st.none() | st.sampled_from(list(SHAPE))) if ends else None,
    )  # fmt: skip


@given(schedules(), STEPS)
def test_every_step_has_its_closed_form(s, step):
    if step < s.delay:
        expected = s.start
    elif step < s.delay + s.warmup:
        x = (step - s.delay) / s.warmup
        expected = (1 - SHAPE[s.shape](x)) * s.start + SHAPE[s.shape](x) * s.value
    elif s.total is None:
        expected = s.value
    elif step >= s.total:
        expected = s.end
    else:
        x = (step - s.delay - s.warmup) / (s.total - s.delay - s.warmup)
        f = SHAPE[s.decay or s.shape](x)
        expected = (1 - f) * s.value + f * s.end
    assert s(step) == pytest.approx(expected, abs=1e-12)


@given(schedules(), STEPS)
def test_a_restart_goes_on_where_it_stopped(s, step):
    again = Schedule(**json.loads(json.dumps(asdict(s))))
    assert [again(t) for t in range(step, step + 20)] == [s(t) for t in range(step, step + 20)]


@given(schedules(ending=True), STEPS)
def test_a_schedule_stays_between_its_numbers(s, step):
    low, high = min(s.start, s.value, s.end), max(s.start, s.value, s.end)
    assert low - 1e-12 <= s(step) <= high + 1e-12


@given(schedules(ending=False))
def test_a_warmup_moves_one_way(s):
    sign = 1 if s.value >= s.start else -1
    rises = [sign * (s(t + 1) - s(t)) for t in range(120)]
    assert min(rises) >= -1e-12


@given(schedules())
def test_borders_are_continuous_with_long_moves(s):
    s = replace(s, warmup=s.warmup + 1000, total=s.total and s.total + 4000)
    jumps = [abs(s(t + 1) - s(t)) for t in (s.delay - 1, s.delay, s.delay + s.warmup - 1) if t >= 0]
    assert max(jumps) <= 4 * 2 / 1000


def test_the_delayed_warmup_of_lightning_ir():
    s = Schedule(delay=50_000, warmup=20_000)
    assert [s(t) for t in (0, 49_999, 50_000, 60_000, 70_000)] == [0, 0, 0, 0.5, 1]


def test_the_quadratic_ramp_of_splade(golden):
    case = golden["splade.regscheduler"]
    s = Schedule(case["params"]["lambda_"], "quadratic", warmup=case["params"]["T"])
    assert [s(t + 1) for t in range(6)] == pytest.approx(case["value"], abs=1e-12)


def test_no_warmup_is_a_step():
    s = Schedule(0.3, delay=10)
    assert [s(9), s(10), s(11)] == [0, 0.3, 0.3]


def test_a_setting_starts_at_its_own_number():
    s = Schedule(0.05, "cosine", start=1.0, delay=5, warmup=10)
    assert (s(0), s(5), s(15)) == (1.0, 1.0, 0.05) and s(10) == pytest.approx((1 + 0.05) / 2)


def test_a_number_is_a_number_at_any_step():
    assert number_at(0.3, None) == 0.3 and number_at(0.3, 7) == 0.3
    assert number_at(Schedule(warmup=10), 5) == 0.5 and number_at(lambda t: t + 1, 5) == 6


def test_a_schedule_without_a_step_is_an_error():
    with pytest.raises(ValueError, match=r"the weight of 'flops' follows a schedule; .*step="):
        number_at(Schedule(), None, "the weight of 'flops'")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "cubic"}, "unknown shape of a schedule 'cubic'; did you mean"),
        ({"decay": "cubic", "total": 5, "end": 0.0}, "unknown shape of a schedule 'cubic'"),
        ({"warmup": -1}, "warmup is -1; expected a whole number of steps"),
        ({"delay": 0.5}, "delay is 0.5; expected a whole number of steps"),
        ({"delay": True}, "delay is True; expected a whole number of steps"),
        ({"total": 10}, "total is 10 and end is None; give both or neither"),
        ({"end": 1.0}, "total is None and end is 1.0; give both or neither"),
        ({"decay": "linear"}, "decay is 'linear' but there is no end"),
        (
            {"total": 5, "end": 0.0, "delay": 5},
            r"total is 5; expected more than delay \+ warmup = 5",
        ),
    ],
)
def test_a_wrong_number_is_named(settings, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)


def test_an_unknown_shape_is_an_unknown_name():
    with pytest.raises(UnknownName):
        Schedule(shape="lineer")


@pytest.mark.parametrize("step", [-1, 0.5, None])
def test_a_step_is_a_whole_number(step, without_shape_checks):
    with pytest.raises(ValueError, match="expected a whole number of steps"):
        Schedule()(step)


def test_the_end_is_reached_exactly():
    s = Schedule(1.0, total=10, end=0.1)
    assert s(10) == s(10**9) == 0.1


def test_steps_may_be_whole_numbers_of_numpy(without_shape_checks):
    assert Schedule(1.0, warmup=np.int64(4))(np.int64(2)) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "a"}, "value is 'a'; expected a number"),
        ({"total": 5.5, "end": 1.0}, "total is 5.5; expected a whole number of steps"),
        ({"total": "9", "end": 1.0}, "total is '9'; expected a whole number of steps"),
    ],
)
def test_numbers_of_another_kind_are_named(settings, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)
