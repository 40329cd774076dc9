"""Broken copies of every loss are noticed, by the contract or by the references.

A mutant is the source of a function with one thing changed. Each loss has a table of mutants
written by hand, and every operator, comparison and reduction in its body is changed in turn.
"""

import ast
import importlib
import inspect
import random
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import families
import pytest
import torch
from batches import batch, tensors
from families import LISTS, MUTANTS, PAIRS, ROWS, SAME, WHOLE
from references import on_lists, on_rows
from test_values import allowed, close, double, mask

from rankbench.cards import cards, find
from rankbench.checks import CONTRACT, LAW_CHECKS, Skipped, compiles, devices_agree, example

WEIGHTS = [0.5, 1.0, 3.0, 2.0, 1.5]
APART = [[1.0, -2.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [9.0, 9.0, 9.0]]  # Activations;
ALIKE = [[1.0, 2.0, 0.5], [1.5, 2.0, 0.0], [2.0, 1.0, 0.5], [9.0, 9.0, 9.0]]  # the last: padding.
CHECKS = [fn for fn in CONTRACT if fn not in (compiles, devices_agree)]

# Parts that all share: module, function, the loss that notices → what is broken → (old, new).
SHARED = {
    ("core", "prepare_lists", "ranknet"): {
        "padded scores kept": ("torch.where(where, scores, zero)", "scores"),
        "halves kept": ("scores = as_float(scores)", "pass"),
    },
    ("core", "prepare_lists", "softmax"): {
        "padded labels kept": ("torch.where(where, labels, zero)", "labels"),
    },
    ("core", "prepare_mask", "angle"): {
        "nothing is real": ("torch.ones_like", "torch.zeros_like"),
    },
    ("core", "reduce_lists", "ranknet"): {
        "empty lists counted": ("values.sum(), counted.sum()", "values.sum(), counted.numel()"),
        "empty lists weighed": ("torch.where(counted, weights.to(values.dtype), 0.0)",
                                "weights.to(values.dtype)"),
        "mean for sum": ('total if reduction == "sum" else total', "total"),
        "sum for mean": (" / torch.where(mass > 0, mass, 1)", ""),
        "mean over the number of lists": ("weights.sum()\n", "counted.sum()\n"),
        "none ignored": ('reduction == "none"', "False"),
    },
    ("core", "reduce_items", "bce"): {
        "mask ignored": ("torch.where(where, costs, 0.0)", "costs"),
        "sum over items": (" / count.clamp(min=1)", ""),
        "mean over all slots": (".sum(-1) / count.clamp(min=1)", ".mean(-1)"),
        "empty lists counted": ("count > 0", "count >= 0"),
    },
    ("core", "masked_cross_entropy", "softmax"): {
        "sign flipped": ("return -(", "return ("),
        "mask ignored": ("torch.where(where, scores, torch.finfo(scores.dtype).min)", "scores"),
        "mean over slots": (".sum(-1)", ".mean(-1)"),
    },
    ("core", "masked_softmax", "listnet"): {
        "mask ignored": ("torch.where(where, scores, torch.finfo(scores.dtype).min)", "scores"),
    },
    ("core", "masked_log_softmax", "kl"): {
        "mask ignored": ("torch.where(where, scores, lowest)", "scores"),
    },
    ("core", "masked_logsumexp", "bidirectional_infonce"): {
        "mask ignored": ("torch.where(where, scores, outside)", "scores"),
        "nothing is not zero": ("torch.where(some, result, 0.0)", "result"),
    },
    **families.SHARED,
}  # fmt: skip

# Mutants ----------------------------------------------------------------------------------------


def definition(fn) -> str:
    """The source of a function without its decorators."""
    source = textwrap.dedent(inspect.getsource(fn))
    node = ast.parse(source).body[0]
    return "".join(source.splitlines(keepends=True)[node.lineno - 1 :])


def built(fn, source: str):
    """The function that a changed source defines, in a copy of its module's namespace."""
    namespace = dict(vars(sys.modules[fn.__module__]))
    exec(source, namespace)
    return namespace[fn.__name__]


def mutated(fn, old: str, new: str):
    source = definition(fn)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {fn.__name__}"
    return built(fn, source.replace(old, new))


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
         ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Gt: ast.LtE, ast.Lt: ast.GtE,
         ast.GtE: ast.Lt, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}  # fmt: skip
METHODS = {"sum": "mean", "mean": "sum", "any": "all", "all": "any"}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Copies of one expression with one thing changed."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Invert)):
        if not isinstance(node.operand, ast.Constant):  # dim=-1 is not a sign
            yield node.operand
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield ast.Attribute(node.value, METHODS[node.attr], node.ctx)


class Exchange(ast.NodeTransformer):
    """Put one node of a tree in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def sweep(fn) -> Iterator[tuple[str, str]]:
    """(The changed statement, the changed source) for every operator in the body."""
    source = definition(fn)
    statements = ast.parse(source).body[0].body
    for s in range(1, len(statements)):  # without the docstring
        for n, original in enumerate(ast.walk(statements[s])):
            for c, _ in enumerate(changes(original)):
                tree = ast.parse(source)
                body = tree.body[0].body
                node = list(ast.walk(body[s]))[n]
                body[s] = Exchange(node, list(changes(node))[c]).visit(body[s])
                yield ast.unparse(body[s]), ast.unparse(tree)


# Noticing ---------------------------------------------------------------------------------------


def lists(card, seed: int):
    """Ragged lists with ties, a list of one, an empty one, one of tied labels, and weights."""
    r, kind = random.Random(seed), card.labels
    label = {
        "binary": lambda: r.choice([0.0, 1.0]),
        "graded": lambda: float(r.randrange(4)),
        "ranking": lambda: float(r.randrange(6)),
        "teacher": lambda: r.randrange(-12, 13) / 4,
    }[kind]
    scores = [[r.randrange(-24, 25) / 8 for _ in range(5)] for _ in range(5)]
    labels = [*([label() for _ in range(5)] for _ in range(4)), [float(seed % 2)] * 5]
    ragged, one = [True, False, True, True, False], [False, True, False, False, False]
    draws = {"relevance": lambda: r.choice([0.0, 0.0, 1.0]),
             "ref_log_probs": lambda: -r.randrange(1, 25) / 8,
             "cringe": lambda: r.randrange(25) / 8}  # fmt: skip
    items = {k: [[draw() for _ in range(5)] for _ in range(5)]
             for k, draw in draws.items() if k in card.settings and seed}  # fmt: skip
    where = [ragged, one, [True] * 5, [False] * 5, [True] * 5]
    return allowed(card, scores), labels, where, WEIGHTS, items


def compare(card) -> None:
    """Raise where a loss differs from its reference."""
    reference, many = {**LISTS, **PAIRS, **ROWS}[card.name]
    for seed in range(3):
        for settings in many:
            for reduction in ("mean", "sum", "none"):
                if card.name in LISTS:
                    s, y, where, weights, items = lists(card, seed)
                    ours = card.fn(double(s), double(y), where=mask(where), reduction=reduction,
                                   weights=double(weights), **settings,
                                   **{k: double(v) for k, v in items.items()})  # fmt: skip
                    close(ours, on_lists(reference, s, y, where, weights, reduction, items,
                                         **settings))  # fmt: skip
                elif card.name in PAIRS:
                    data, keywords = batch(card, random.Random(seed), full=True)
                    inputs, known = tensors(card, data, keywords)
                    inputs[0].requires_grad_()
                    whole = card.name in WHOLE and reduction == "none"
                    reduced = {"reduction": "mean" if whole else reduction}
                    ours = card.fn(*inputs, **known, **settings, **reduced)
                    (gradient,) = torch.autograd.grad(ours.sum(), inputs[0])
                    assert gradient.isfinite().all()
                    close(ours, reference(*data, **keywords, **settings, **reduced))
                else:
                    rows = APART if seed == 0 else ALIKE
                    where = [True, True, True, False]
                    known = {"where": mask(where), **settings}
                    if "weights" in card.settings:
                        weights = WEIGHTS[:4]
                        ours = card.fn(double(rows), weights=double(weights), reduction=reduction,
                                       **known)  # fmt: skip
                        expected = on_rows(reference, rows, where, weights, reduction, **settings)
                        close(ours, expected)
                    elif reduction == "mean":
                        close(card.fn(double(rows), **known), reference(rows, where, **settings))


def breaks(card) -> bool:
    """Whether the contract, a claimed law or the reference notices."""
    for test in (compare, *CHECKS, *(LAW_CHECKS[law] for law in sorted(card.laws))):
        try:
            test(card)
        except Skipped:
            continue
        except Exception:
            return True
    return False


def losses(table):
    return [pytest.param(k, what, id=f"{k}-{what}") for k in table for what in table[k]]


@pytest.mark.parametrize(("name", "what"), losses(MUTANTS))
def test_a_broken_loss_is_noticed(name, what):
    card = find(name)
    broken = replace(card, fn=mutated(card.fn, *MUTANTS[name][what]))
    assert torch.is_tensor(example(broken).run(broken)), "a mutant has to run"
    assert breaks(broken)


@pytest.mark.parametrize(
    ("part", "what"),
    [pytest.param(p, what, id=f"{p[1]}-{what}") for p, many in SHARED.items() for what in many],
)
def test_a_broken_part_is_noticed(part, what, monkeypatch):
    module, name, witness = part
    original = getattr(importlib.import_module(f"rankbench.{module}"), name)
    broken = mutated(original, *SHARED[part][what])
    for loaded in [m for k, m in sys.modules.items() if k.startswith("rankbench")]:
        if getattr(loaded, name, None) is original:
            monkeypatch.setattr(loaded, name, broken)
    assert breaks(find(witness))


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_changed_operator_is_noticed(card):
    survivors = [
        line
        for line, source in sweep(card.fn)
        if (card.name, line) not in SAME and not breaks(replace(card, fn=built(card.fn, source)))
    ]
    assert survivors == []


def test_the_sweep_changes_something():
    changed = {card.name: len(list(sweep(card.fn))) for card in cards()}
    assert sum(changed.values()) > 5 * len(changed), changed


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_loss_has_mutants(card):
    assert len(MUTANTS.get(card.name, {})) >= 4, f"add mutants of {card.name} in families/"


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_a_loss_without_a_change_is_not_broken(card):
    assert not breaks(replace(card, fn=built(card.fn, definition(card.fn))))
