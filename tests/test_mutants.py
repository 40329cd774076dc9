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

import pytest
import torch
from references import on_lists
from test_values import LISTS, PAIRS, ROWS, close, double, mask, tensors

from rankbench.cards import cards, find
from rankbench.checks import CONTRACT, LAW_CHECKS, Skipped, compiles, devices_agree, example

WEIGHTS = [0.5, 1.0, 3.0, 2.0]
CHECKS = [fn for fn in CONTRACT if fn not in (compiles, devices_agree)]

# Loss → what is broken → (old, new). The old text occurs exactly once in the source.
MUTANTS = {
    "ranknet": {
        "sign flipped": ("-torch.nn.functional.logsigmoid(", "torch.nn.functional.logsigmoid("),
        "order reversed": (
            "labels.unsqueeze(-1) > labels.unsqueeze(-2)",
            "labels.unsqueeze(-1) < labels.unsqueeze(-2)",
        ),
        "ties trained": (
            "labels.unsqueeze(-1) > labels.unsqueeze(-2)",
            "labels.unsqueeze(-1) >= labels.unsqueeze(-2)",
        ),
        "mask ignored": (" & better.unsqueeze(-1) & where.unsqueeze(-2)", ""),
        "half of the mask ignored": (" & where.unsqueeze(-2)", ""),
        "steepness ignored": ("sigma * margins", "margins"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "mean over all slots": ("torch.where(pairs, costs, 0.0).sum((-1, -2)) / count.clamp(min=1)",
                                "torch.where(pairs, costs, 0.0).mean((-1, -2))"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("count > 0", "count >= 0"),
        "first list's labels": ("labels.unsqueeze(-2)", "labels[:1].unsqueeze(-2)"),
    },
    "bce": {
        "sign flipped": ("    relevant = -torch", "    relevant = torch"),
        "classes exchanged": ("(1 - labels) * irrelevant", "labels * irrelevant"),
        "factor dropped": ("pos_weight * labels", "labels"),
        "factor on both": ("+ (1 - labels)", "+ pos_weight * (1 - labels)"),
        "mask ignored": ("torch.where(where, costs, 0.0)", "costs"),
        "sum over items": (" / count.clamp(min=1)", ""),
        "mean over all slots": (".sum(-1) / count.clamp(min=1)", ".mean(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("count > 0", "count >= 0"),
    },
    "softmax": {
        "sign flipped": ("values = -(", "values = ("),
        "mask ignored": ("temperature, where)", "temperature, torch.ones_like(where))"),
        "temperature multiplies": ("scores / temperature", "scores * temperature"),
        "shares not taken": (" / torch.where(total > 0, total, 1.0)", ""),
        "always shares": ("if normalize:", "if True:"),
        "mean over slots": (").sum(-1)", ").mean(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("(values, total > 0", "(values, total >= 0"),
    },
    "listnet": {
        "sign flipped": ("values = -(", "values = ("),
        "mask of scores ignored": ("(scores / temperature, where)",
                                   "(scores / temperature, torch.ones_like(where))"),
        "mask of labels ignored": ("(labels / label_temperature, where)",
                                   "(labels / label_temperature, torch.ones_like(where))"),
        "temperature dropped": ("scores / temperature", "scores"),
        "label temperature dropped": ("labels / label_temperature", "labels"),
        "mean over slots": (".sum(-1)", ".mean(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("where.any(-1)", "torch.ones_like(where.any(-1))"),
    },
    "kl": {
        "direction exchanged": ('direction == "reverse"', 'direction == "forward"'),
        "sign flipped": ("(log_p - log_q)", "(log_q - log_p)"),
        "student temperature multiplies": ("scores / student_temperature",
                                           "scores * student_temperature"),
        "teacher temperature dropped": ("teacher / teacher_temperature", "teacher"),
        "square is no square": ("student_temperature**2", "student_temperature"),
        "always squared": (" if square_temperature else values", ""),
        "mask of scores ignored": ("(scores / student_temperature, where)",
                                   "(scores / student_temperature, torch.ones_like(where))"),
        "mask of labels ignored": ("(teacher / teacher_temperature, where)",
                                   "(teacher / teacher_temperature, torch.ones_like(where))"),
        "mean over slots": (".sum(-1)\n", ".mean(-1)\n"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "margin_mse": {
        "sign flipped": ("scores - teacher if", "scores + teacher if"),
        "teacher ignored": ("scores - teacher if margin is None else scores", "scores"),
        "margin flipped": ("- (margin or 0.0)", "+ (margin or 0.0)"),
        "margin dropped": (" - (margin or 0.0)", ""),
        "best pairs are all pairs": ('best_only=pairs == "positive"', "best_only=False"),
        "not squared": (".square()", ""),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "mask ignored": ("mean_squared_difference(gaps, where)",
                         "mean_squared_difference(gaps, torch.ones_like(where))"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "empty lists counted": ("count > 0", "count >= 0"),
    },
    "infonce": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where,", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "other positives ignored": ("positives=positives, ", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": (", similarity=similarity", ""),
        "union flipped": ("values = -masked_logsumexp", "values = masked_logsumexp"),
        "weights ignored": ("weights=weights, reduction=reduction", "reduction=reduction"),
        "weights of several positives ignored": ("weights, reduction)", "None, reduction)"),
    },
    "bidirectional_infonce": {
        "hard negatives ignored": ("negatives=negatives,\n        "
                                   "negatives_where=negatives_where, ", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where, ", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "own negatives always hidden": ("mask_own_negatives=mask_own_negatives,", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "always joint": ('joint = partition == "joint"', "joint = True"),
        "never joint": ('joint = partition == "joint"', "joint = False"),
        "sum of partitions": (" / count.clamp(min=1)", ""),
        "empty rows counted": ("count > 0", "count >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "flops": {
        "sign kept": ("rows.abs().sum(0)", "rows.sum(0)"),
        "not squared": ("means.square().sum()", "means.sum()"),
        "mean over terms": ("means.square().sum()", "means.square().mean()"),
        "square before the mean": ("rows.abs().sum(0)", "rows.square().sum(0)"),
        "sum over rows": (" / where.sum().clamp(min=1)", ""),
        "padding in the mean": ("where.sum().clamp(min=1)", "len(where)"),
        "threshold not strict": ("> row_threshold", ">= row_threshold"),
        "threshold ignored": ("torch.where(dense, rows, 0.0)", "rows"),
        "dead rows leave the mean": ("where.sum().clamp(min=1)", "(rows != 0).any(-1).sum()"),
    },
}  # fmt: skip

# Parts that losses share: module, function, the loss that notices → what is broken → (old, new).
SHARED = {
    ("core", "prepare_lists", "ranknet"): {
        "padded scores kept": ("torch.where(where, scores, zero)", "scores"),
        "halves kept": ("scores = as_float(scores)", "pass"),
    },
    ("core", "prepare_lists", "softmax"): {
        "padded labels kept": ("torch.where(where, labels, zero)", "labels"),
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
    ("core", "masked_log_softmax", "softmax"): {
        "mask ignored": ("torch.where(where, scores, lowest)", "scores"),
        "padding not zero": ("torch.where(where, log_p, scores.new_zeros(()))", "log_p"),
    },
    ("core", "masked_logsumexp", "bidirectional_infonce"): {
        "mask ignored": ("torch.where(where, scores, outside)", "scores"),
        "nothing is not zero": ("torch.where(some, result, 0.0)", "result"),
    },
    ("losses.contrastive", "_isolated", "infonce"): {
        "sign flipped": ("costs = -torch", "costs = torch"),
        "positives among the negatives": ("where & ~positive", "where"),
        "mask ignored": ("where & ~positive", "~positive"),
        "sum over positives": (" / positive.sum(-1).clamp(min=1)", ""),
    },
    ("losses.bidirectional", "_relative_blocks", "bidirectional_infonce"): {
        "positive not subtracted": ("blocks[d][0] - positive", "blocks[d][0]"),
        "positive always once": ("positive_once and {", "{"),
        "positive never once": ("where & ~own", "where"),
        "only the positive is left": ("where & ~own", "where & own"),
    },
    ("losses.distillation", "ordered_pairs", "margin_mse"): {
        "order reversed": ("teacher.unsqueeze(-1) > teacher.unsqueeze(-2)",
                           "teacher.unsqueeze(-1) < teacher.unsqueeze(-2)"),
        "ties compared": ("teacher.unsqueeze(-1) > teacher.unsqueeze(-2)",
                          "teacher.unsqueeze(-1) >= teacher.unsqueeze(-2)"),
        "mask ignored": (" & where.unsqueeze(-1) & where.unsqueeze(-2)", ""),
        "best is worst": ("better.any(-2)", "better.any(-1)"),
    },
    ("losses.distillation", "mean_squared_difference", "margin_mse"): {
        "variance, not twice": ("2 * deviations", "deviations"),
        "population variance": ("(count.squeeze(-1) - 1)", "count.squeeze(-1)"),
        "not centred": ("values - mean, zero", "values, zero"),
        "mean over slots": (" / count.clamp(min=1)", " / values.shape[-1]"),
    },
    ("candidates", "normalize", "infonce"): {
        "not normalized": ("x * scale", "x"),
        "no guard for zero vectors": ("torch.where(squared > 0, squared, 1.0).rsqrt()",
                                      "squared.rsqrt()"),
        "halves kept": ("x = as_float(x)", "pass"),
    },
    ("candidates", "in_batch_candidates", "infonce"): {
        "padded negatives kept": ("torch.where(real[..., None], negatives, 0.0)", "negatives"),
        "mask of negatives ignored": ("seen & real.flatten()", "seen.expand(batch, batch * k)"),
        "positives can be excluded": ("positive | (torch", "(torch"),
        "only the diagonal is positive": ("own if positives is None else own | positives", "own"),
        "hard negatives are positive": ("positive.new_zeros(batch", "positive.new_ones(batch"),
    },
    ("candidates", "directional_candidates", "bidirectional_infonce"): {
        "exclusion not transposed": ('"doc_to_query": ~hidden.T', '"doc_to_query": ~hidden'),
        "exclusion kept on the diagonal": ("exclude & ~own", "exclude"),
        "own text not hidden": ("hidden | hidden.T | own", "hidden | hidden.T"),
        "twins one way only": ("hidden | hidden.T | own", "hidden | own"),
        "own negatives never hidden": (" and mask_own_negatives", " and False"),
        "own negatives always hidden": (" and mask_own_negatives", ""),
        "negatives on the query side": ('if end == "doc" else {}', 'if end == "query" else {}'),
    },
}  # fmt: skip

# Changes of the sweep that do not change what a loss computes: (loss, the changed line) → why.
SAME = {}

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


def lists(kind: str, seed: int):
    """Ragged lists with ties, a list of one, an empty list and weights."""
    r = random.Random(seed)
    label = {
        "binary": lambda: r.choice([0.0, 1.0]),
        "graded": lambda: float(r.randrange(4)),
        "teacher": lambda: r.randrange(-12, 13) / 4,
    }[kind]
    scores = [[r.randrange(-24, 25) / 8 for _ in range(5)] for _ in range(4)]
    labels = [[label() for _ in range(5)] for _ in range(4)]
    one, none = [False, True, False, False, False], [False] * 5
    return scores, labels, [[True, False, True, True, False], one, [True] * 5, none], WEIGHTS


def pairs(seed: int, several: bool):
    """Four pairs with ragged negatives, exclusions, one zero vector and weights."""
    r = random.Random(seed)

    def vectors(count):
        return [[r.uniform(-1, 1) for _ in range(3)] for _ in range(count)]

    def coins(count):
        return [[r.random() < 0.4 for _ in range(count)] for _ in range(4)]

    keywords = {
        "negatives": [vectors(2) for _ in range(4)],
        "negatives_where": coins(2),
        "exclude": [[True] * 4, *coins(4)[1:]],  # query 0 is compared with nothing but its own
        "weights": WEIGHTS,
    }
    if several:
        keywords["positives"] = coins(4)
    return [*vectors(3), [0.0] * 3], vectors(4), keywords


def compare(card) -> None:
    """Raise where a loss differs from its reference."""
    reference, many = {**LISTS, **PAIRS, **ROWS}[card.name]
    for seed in range(3):
        for settings in many:
            for reduction in ("mean", "sum", "none"):
                if card.name in LISTS:
                    s, y, where, weights = lists(card.labels, seed)
                    ours = card.fn(double(s), double(y), where=mask(where), reduction=reduction,
                                   weights=double(weights), **settings)  # fmt: skip
                    close(ours, on_lists(reference, s, y, where, weights, reduction, **settings))
                elif card.name in PAIRS:
                    q, d, keywords = pairs(seed, "positives" in card.settings)
                    queries = double(q).requires_grad_()
                    ours = card.fn(queries, double(d), reduction=reduction, **tensors(keywords),
                                   **settings)  # fmt: skip
                    (gradient,) = torch.autograd.grad(ours.sum(), queries)
                    assert gradient.isfinite().all()
                    close(ours, reference(q, d, reduction=reduction, **keywords, **settings))
                elif reduction == "mean":
                    rows = [[1.0, -2.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [9.0, 9.0, 9.0]]
                    where = [True, True, True, False]
                    ours = card.fn(double(rows), where=mask(where), **settings)
                    close(ours, reference(rows, where, **settings))


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


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_the_sweep_changes_something(card):
    helpers = {"infonce", "bidirectional_infonce"}  # mostly calls of shared parts
    assert len(list(sweep(card.fn))) >= (1 if card.name in helpers else 4)


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_loss_has_mutants(card):
    assert len(MUTANTS.get(card.name, {})) >= 4, f"add mutants of {card.name} to the table"


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_a_loss_without_a_change_is_not_broken(card):
    assert not breaks(replace(card, fn=built(card.fn, definition(card.fn))))
