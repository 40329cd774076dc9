"""Our losses against values and gradients that other libraries returned.

Where a card names the library in `elsewhere`, the conversion is the one that the card states:
"Name" means the same number, "Name = formula" gives theirs as a formula of ours, ln2, n (items),
b (lists) and sum_labels; a remark may follow after "; ".
"""

import math
import re
from dataclasses import replace

import pytest
import references
import torch
from families import CASES, FAMILIES, LATER, LISTS, PAIRS, ROWS

from rankbench.cards import cards, find

INPUTS = ("scores", "q", "p", "n", "e", "pos", "neg", "student")  # what a gradient flows to


CLAIM = re.compile(r"(?P<name>[\w.]+)(?: = (?P<formula>[^;]+))?(?:; (?P<remark>.+))?")


def known(ours, x):
    """What a formula may use."""
    b, n = x["scores"].shape
    return {"ours": ours, "ln2": math.log(2), "b": b, "n": n, "sum_labels": x["labels"].sum()}


def stated(card, library, ours, x):
    """Their value, by the formula of the card."""
    formula = CLAIM.fullmatch(card.elsewhere[library])["formula"]
    return eval(formula, {"__builtins__": {}}, known(ours, x)) if formula else ours


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_elsewhere_is_a_name_a_formula_and_a_remark(card):
    x = {"scores": torch.zeros(1, 4), "labels": torch.zeros(1, 4)}
    for library, claim in card.elsewhere.items():
        assert CLAIM.fullmatch(claim), f"{library}: {claim!r} is not 'Name = formula; remark'"
        assert torch.is_tensor(stated(card, library, torch.tensor(1.0), x))


def inputs(case):
    return {k: torch.tensor(v) for k, v in case["inputs"].items() if v is not None}


def ours(spec, x):
    card = find(spec.loss)
    value = spec.call(card.fn, x)
    return value if spec.library is None else stated(card, spec.library, value, x)


@pytest.mark.parametrize("name", CASES)
def test_the_value_is_that_of_the_peer(name, golden):
    case = golden[name]
    expected = torch.tensor(case["value"], dtype=torch.float32)
    torch.testing.assert_close(ours(CASES[name], inputs(case)), expected, rtol=1e-5, atol=1e-6)


def loops(name):
    """The reference of a loss, called like the loss."""
    reference = {**LISTS, **PAIRS, **ROWS}[name][0]

    def fn(*data, **settings):
        data = [x.double().tolist() for x in data]
        if name in LISTS:
            batched = data if isinstance(data[0][0], list) else [[x] for x in data]
            real = [[True] * len(row) for row in batched[0]]
            return torch.tensor(references.on_lists(reference, *batched, real, **settings))
        if name in ROWS and "weights" in find(name).settings:
            return torch.tensor(references.on_rows(reference, *data, **settings))
        settings = {k: v.tolist() if torch.is_tensor(v) else v for k, v in settings.items()}
        return torch.tensor(reference(*data, **settings))

    return fn


@pytest.mark.parametrize("name", CASES)
def test_the_reference_has_the_value_of_the_peer(name, golden, monkeypatch):
    spec, case = CASES[name], golden[name]
    if spec.library:
        spec = replace(spec, library=None, call=lambda fn, x: stated(
            find(spec.loss), CASES[name].library, CASES[name].call(fn, x), x
        ))  # fmt: skip
    value = spec.call(loops(spec.loss), inputs(case)).float()
    expected = torch.tensor(case["value"], dtype=torch.float32)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.grad])
def test_the_gradient_is_that_of_the_peer(name, golden):
    case = golden[name]
    x = inputs(case)
    leaves = [k for k in INPUTS if k in case["grad"]]
    for k in leaves:
        x[k].requires_grad_()
    value = ours(CASES[name], x).sum()
    for k, g in zip(leaves, torch.autograd.grad(value, [x[k] for k in leaves]), strict=True):
        torch.testing.assert_close(
            g, torch.tensor(case["grad"][k]), rtol=1e-4, atol=CASES[name].atol
        )


def test_every_gradient_of_a_case_is_compared(golden):
    assert {k for name in CASES for k in golden[name]["grad"]} <= set(INPUTS)


def test_every_golden_case_is_reproduced_or_set_aside(golden):
    wanted = {k for k, case in golden.items() if case["family"] in FAMILIES}
    assert wanted - set(CASES) - set(LATER) == set()


def test_no_case_is_both_reproduced_and_set_aside():
    assert set(CASES) & set(LATER) == set()


def test_every_case_exists(golden):
    assert (set(CASES) | set(LATER)) - set(golden) == set()


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.library])
def test_the_card_names_the_library(name):
    assert CASES[name].library in find(CASES[name].loss).elsewhere


def test_every_conversion_on_a_card_is_executed():
    executed = {(c.loss, c.library) for c in CASES.values() if c.library}
    claimed = {
        (card.name, library)
        for card in cards()
        for library, claim in card.elsewhere.items()
        if CLAIM.fullmatch(claim)["formula"]
    }
    assert claimed - executed == set()


def test_a_formula_is_applied():
    card = find("ranknet")
    x = {"scores": torch.zeros(1, 4), "labels": torch.zeros(1, 4)}
    theirs = stated(card, "sentence_transformers", torch.tensor(1.0), x)
    assert theirs.item() == pytest.approx(1 / math.log(2))
