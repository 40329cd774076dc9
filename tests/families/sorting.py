"""Relaxed sorts: loop references, mutants, and the numbers of other libraries."""

import math

import references
from peers import ALLRANK, Case, on_list
from references import log_softmax

from rankbench.metrics import dcg, sort_by_scores


def neuralsort_rows(scores, temperature=1.0):
    """Grover et al. 2019: log P̂, one row per rank."""
    n = len(scores)
    spread = [math.fsum(abs(a - b) for b in scores) for a in scores]
    return [
        log_softmax([(n + 1 - 2 * r) * a - b for a, b in zip(scores, spread, strict=True)],
                    temperature)
        for r in range(1, n + 1)
    ]  # fmt: skip


def soft_sort_rows(scores, temperature=1.0, power=1.0):
    """Prillo and Eisenschlos 2020: log P̂, one row per rank."""
    return [
        log_softmax([-(abs(top - s) ** power) for s in scores], temperature)
        for top in sorted(scores, reverse=True)
    ]


def hard_rows(labels):
    """One row per rank; the items of a tie share their ranks."""
    rows = []
    for y in sorted(labels, reverse=True):
        rows.append([1 / labels.count(y) if z == y else 0.0 for z in labels])
    return rows


def neuralsort(scores, labels, temperature=1.0, target="hard", operator="neuralsort"):
    """Mean over ranks of the cross-entropy between two sorts."""
    if len(set(labels)) < 2:
        return None
    rows = neuralsort_rows if operator == "neuralsort" else soft_sort_rows
    found = rows(scores, temperature)
    if target == "hard":
        wanted = hard_rows(labels)
    else:
        wanted = [[math.exp(x) for x in row] for row in neuralsort_rows(labels, temperature)]
    return -math.fsum(
        p * q for a, b in zip(wanted, found, strict=True) for p, q in zip(a, b, strict=True) if p
    ) / len(scores)


def balanced(matrix, max_iter=50, tol=1e-6):
    """Sinkhorn and Knopp 1967: columns, then rows, divided by their sums; stops at once if even."""
    n = len(matrix)
    for step in range(max_iter):
        sums = [math.fsum(row[j] for row in matrix) for j in range(n)]
        if step and all(abs(x - 1) <= tol for x in sums):
            break
        matrix = [[x / c for x, c in zip(row, sums, strict=True)] for row in matrix]
        matrix = [[x / math.fsum(row) for x in row] for row in matrix]
    return matrix


def neural_ndcg(scores, labels, temperature=1.0, gain="exp2", k=None, transposed=False,
                stochastic=False, samples=32, beta=0.1, log_scores=True, generator=None,
                max_iter=50, tol=1e-6):  # fmt: skip
    """Pobrotyn and Białobrzeski 2021; both forms are one double sum."""
    ideal = references.dcg(sorted(labels, reverse=True), k, gain)
    if ideal == 0:
        return None
    if stochastic:
        assert beta == 0, "noise is compared in tests/test_sorting.py"
        if log_scores:
            scores = [math.log(s - min(scores) + 1e-10) for s in scores]
    matrix = [[math.exp(x) for x in row] for row in neuralsort_rows(scores, temperature)]
    matrix = balanced(matrix, max_iter, tol)
    actual = math.fsum(
        p * (2**y - 1 if gain == "exp2" else y) / math.log2(1 + r)
        for r, row in enumerate(matrix[:k], start=1)
        for p, y in zip(row, labels, strict=True)
    )
    return 1 - actual / ideal


# Without noise (beta=0) the stochastic form obeys the contract; with noise an item's gradient
# depends on its place in the list. tests/test_sorting.py compares the noise.
QUIET = {"stochastic": True, "samples": 3, "beta": 0.0}

LISTS = {
    "neuralsort": (neuralsort, [
        {}, {"temperature": 0.4}, {"target": "neuralsort", "temperature": 2.0},
        {"operator": "softsort"},
    ]),
    "neural_ndcg": (neural_ndcg, [
        {}, {"temperature": 0.4}, {"gain": "linear", "k": 2}, {"transposed": True, "k": 2},
        {"max_iter": 0}, {"max_iter": 3, "tol": 0.05}, {**QUIET, "log_scores": False},
        {**QUIET, "transposed": True},
    ]),
}  # fmt: skip

MUTANTS = {
    "neuralsort": {
        "sign flipped": ("values = -torch.where", "values = torch.where"),
        "mask of the scores ignored": (
            "sort_logits(operator, scores, where,",
            "sort_logits(operator, scores, where | True,",
        ),
        "mask of the labels ignored": (
            "sorted_labels(target, labels, where,",
            "sorted_labels(target, labels, where | True,",
        ),
        "sum over ranks": (" / count.clamp(min=1)", ""),
        "temperature ignored": ("scores, where, temperature)", "scores, where, 1.0)"),
        "temperature of the labels ignored": (
            "labels, where, temperature)", "labels, where, 1.0)"
        ),
        "worst label first": ("wanted * found", "wanted.flip(-2) * found"),
        "columns for rows": ("log_softmax(-1)", "log_softmax(-2)"),
        "tied labels counted": ("values, ordered,", "values, where.any(-1),"),
        "weights ignored": ("ordered, weights,", "ordered, None,"),
    },
    "neural_ndcg": {
        "metric instead of its loss": ("1 - actual /", "actual /"),
        "order reversed": ("neuralsort_logits(scores,", "neuralsort_logits(-scores,"),
        "mask ignored": ("real, temperature)", "real | True, temperature)"),
        "not balanced": ("some, real, max_iter, tol)", "some, real, 0, tol)"),
        "once balanced": ("some, real, max_iter, tol)", "some, real, min(max_iter, 1), tol)"),
        "tolerance ignored": ("some, real, max_iter, tol)", "some, real, max_iter, 1e-6)"),
        "cut-off ignored": ("top = some if k is None else some & (ranks <= k)", "top = some"),
        "ideal without cut-off": ("where), k, gain)", "where), None, gain)"),
        "ideal with other gains": ("where), k, gain)", "where), k)"),
        "gains of the ideal only": ("GAINS[gain](labels)", "GAINS['exp2'](labels)"),
        "rows for columns": ("_times(columns * gains, matrix.mT)",
                             "_times(columns * gains, matrix)"),
        "columns for rows": ("_times(rows * discounts, matrix)",
                             "_times(rows * discounts, matrix.mT)"),
        "lists without relevant items counted": ("ideal > 0", "ideal >= 0"),
        "sum of samples": (".mean(0)", ".sum(0)"),
        "weights ignored": ("counted, weights,", "counted, None,"),
    },
}  # fmt: skip

SHARED = {
    ("losses.sorting", "distance_sums", "neuralsort"): {
        "absolute value lost": ("lower + upto - where.sum(-1, keepdim=True)",
                                "where.sum(-1, keepdim=True)"),
        "padding counted": ("where.sum(-1, keepdim=True)", "where.shape[-1]"),
        "upper sums forgotten": (" - sums.gather(-1, upto)", ""),
    },
    ("losses.sorting", "tie_bounds", "neuralsort"): {
        "padding sorted with the rest": ("values.masked_fill(~where, torch.inf)", "values"),
        "ties counted on one side": ("right=True", "right=False"),
    },
    ("losses.sorting", "neuralsort_logits", "neuralsort"): {
        "slots instead of items": ("(count + 1 - 2 * ranks)",
                                   "(where.shape[-1] + 1 - 2 * ranks)"),
        "padded columns kept": ("torch.where(where, distance_sums(scaled, where), "
                                "torch.finfo(scores.dtype).max)",
                                "distance_sums(scaled, where)"),
        "not centred": ("scores - center.detach()", "scores + torch.pi * 1e13"),
    },
    ("losses.sorting", "soft_sort_logits", "neuralsort"): {
        "padded columns kept": (".masked_fill(~where.unsqueeze(-2), lowest)", ""),
        "temperature multiplies": ("-gaps / temperature", "-gaps * temperature * 2"),
    },
    ("losses.sorting", "hard_sort", "neuralsort"): {
        "ties not shared": ("1.0 / (last - first).clamp(min=1).to(labels.dtype)", "1.0"),
        "worst first": ("(count - upto).unsqueeze(-2), (count - lower)",
                        "lower.unsqueeze(-2), upto"),
    },
    ("losses.neural_ndcg", "_scale", "neural_ndcg"): {
        "rows first": ("sums = _times(rows, matrix)", "sums = _times(rows, matrix.mT)"),
        "stops at once": ("if step:", "if True:"),
        "never stops": ("> tol", "> 0"),
        "stops with the batch": (".any(-1, keepdim=True)", ".any()"),
        "stops too soon": ("> tol", "> 1e3 * tol"),
    },
    ("losses.neural_ndcg", "_replay", "neural_ndcg"): {
        "steps that were not made": ("torch.where(moving, 0.0, to_columns)", "0 * to_columns"),
        "rows forgotten": ("return by_rows +", "return"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def linear_over_exponential(fn, x, **settings):
    """Theirs with linear gains is divided by the ideal DCG of exponential ones."""
    best = sort_by_scores(x["labels"], x["labels"])
    return (fn(x["scores"], x["labels"], gain="linear", **settings) - 1) * (
        dcg(best, gain="linear") / dcg(best)
    ).squeeze()


CASES = {
    "allrank.neuralndcg.single": Case("neural_ndcg", on_list(), library=ALLRANK),
    "allrank.neuralndcg.T0.1.single": Case(
        "neural_ndcg", on_list(temperature=0.1), library=ALLRANK
    ),
    "allrank.neuralndcg.linear.single": Case(
        "neural_ndcg", on_list(gain="linear"), library=ALLRANK
    ),
    "allrank.neuralndcg_T.single": Case("neural_ndcg", on_list(transposed=True), library=ALLRANK),
    "allrank.neuralndcg_T.linear.single": Case(
        "neural_ndcg",
        lambda fn, x: linear_over_exponential(fn, x, transposed=True),
        because="its transposed form divides linear gains by the ideal DCG of 2^y - 1",
    ),
}

LATER = {
    "lir.neural.sorted_targets": "an operator and not a loss: compared in tests/test_sorting.py",
}

FAMILIES = {"NeuralSort", "NeuralNDCG"}
