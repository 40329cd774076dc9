"""Every loss obeys the universal contract and every law that its card claims."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from families import case_id, of_any_width
from test_values import TABLES

from rankbench import checks
from rankbench.cards import LAWS, cards
from rankbench.checks import CONTRACT, LAW_CHECKS, Skipped, check

CASES = [
    pytest.param(card, fn, id=f"{card.name}-{name}")
    for card in cards()
    for name, fn in (
        *((fn.__name__, fn) for fn in CONTRACT),
        *((law, LAW_CHECKS[law]) for law in sorted(card.laws)),
    )
]


# The settings that are compared with the references, the defaults excepted.
SETTINGS = [
    pytest.param(card, s, id=case_id(card.name, s))
    for card in cards()
    for s in TABLES.get(card.name, (None, []))[1]
    if s and of_any_width(s)
]
CHEAP = [fn for fn in CONTRACT if fn not in (checks.compiles, checks.devices_agree)]


def run(fn, card):
    try:
        fn(card)
    except Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(("card", "fn"), [c for c in CASES if c.values[1] is not checks.compiles])
def test_the_loss_passes_the_check(card, fn):
    run(fn, card)


@pytest.mark.parametrize(("card", "fn"), [c for c in CASES if c.values[1] is checks.compiles])
def test_the_loss_compiles(card, fn, without_shape_checks):
    torch._dynamo.reset()
    run(fn, card)


@pytest.mark.parametrize("fn", CHEAP, ids=lambda fn: fn.__name__)
@pytest.mark.parametrize(("card", "settings"), SETTINGS)
def test_the_contract_holds_for_every_setting(card, settings, fn):
    constants = "similarity in the weight of a negative" if settings.get("hardness") else ""
    run(fn, replace(card, fn=partial(card.fn, **settings), constants=card.constants or constants))


def test_every_law_has_a_check():
    assert set(LAW_CHECKS) == set(LAWS)


def test_every_check_is_in_the_contract_or_among_the_laws():
    known = {fn.__name__ for fn in CONTRACT} | set(LAW_CHECKS)
    public = {
        name
        for name, fn in vars(checks).items()
        if callable(fn) and getattr(fn, "__annotations__", {}).keys() == {"card", "return"}
    }
    assert public - known - {"Example"} == set()


def test_check_runs_the_contract_and_the_claimed_laws(without_shape_checks):
    card = next(c for c in cards() if c.name == "ranknet")
    results = check(card)
    assert [r.check for r in results] == [f.__name__ for f in CONTRACT] + sorted(card.laws)
    assert all(r.passed for r in results), [r for r in results if not r.passed]


def halved(fn):
    """So small that it bounds nothing."""
    return lambda *data, **keywords: 0.01 * fn(*data, **keywords)


def test_a_wrong_bound_is_noticed():
    card = next(c for c in cards() if c.name == "ranknet")
    for metric in ("ndcg", "mrr", "auc"):
        with pytest.raises(AssertionError, match="below the bound"):
            LAW_CHECKS[f"bounds:{metric}"](replace(card, fn=halved(card.fn)))


def test_a_wrong_limit_is_noticed():
    card = next(c for c in cards() if c.name == "softmax")
    for metric in ("ndcg", "mrr", "ap"):
        with pytest.raises(AssertionError):
            LAW_CHECKS[f"converges_to:{metric}"](card)
