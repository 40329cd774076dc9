"""Joint FLOPS and DF-FLOPS: loop references and mutants."""

import math

import torch


def real_rows(rows, where):
    return [row for r, row in enumerate(rows) if where is None or where[r]]


def means(rows, where, width):
    """Mean absolute activation of each term over real rows; 0 without any."""
    real = real_rows(rows, where)
    return [sum(abs(row[v]) for row in real) / max(1, len(real)) for v in range(width)]


def joint_flops(queries, documents, where=None, documents_where=None, reduction="mean"):
    """Σ over terms of the mean in queries times the mean in documents."""
    width = len(queries[0])
    asked, held = means(queries, where, width), means(documents, documents_where, width)
    return sum(a * b for a, b in zip(asked, held, strict=True))


def activ(x, alpha, beta):
    """Porco et al. 2025, their generalised logistic function."""
    if x == 0:
        return 0.0
    return 1 / (1 + (x ** (math.log(2) / math.log(alpha)) - 1) ** beta)


def df_flops(rows, where=None, document_frequency=None, alpha=0.1, beta=10.0, weight_inside=True):
    """Porco et al. 2025: Σ over terms of (w · mean)², w from the share of rows with the term."""
    real, total = real_rows(rows, where), 0.0
    for v, m in enumerate(means(rows, where, len(rows[0]))):
        share = sum(row[v] != 0 for row in real) / max(1, len(real))
        if document_frequency is not None:
            share = float(document_frequency[v])
        w = activ(share, alpha, beta)
        total += (w * m) ** 2 if weight_inside else w * m**2
    return total


PAIRS = {"joint_flops": (joint_flops, [{}])}
ROWS = {
    "df_flops": (df_flops, [
        {}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": 0.6, "beta": 1.5, "weight_inside": False},
        {"document_frequency": torch.tensor([0.0, 0.125, 1.0])},
        {"document_frequency": torch.tensor([0.5, 0.25, 0.125]), "alpha": 0.2},
    ]),
}  # fmt: skip
WHOLE = {"joint_flops"}

MUTANTS = {
    "joint_flops": {
        "sign of queries kept": ("asked.abs()", "asked"),
        "sign of documents kept": ("held.abs()", "held"),
        "squares": ("held.abs()", "held.square()"),
        "mean over terms": (".sum()", ".mean()"),
        "sum of means": (") * of_documents", ") + of_documents"),
        "documents twice": ("mean_of_rows(asked.abs(), where, gather)", "of_documents"),
        "mask of documents ignored": ("(documents, documents_where,", "(documents, None,"),
        "none accepted": ('check_whole(reduction, "joint FLOPS")', "pass"),
    },
    "df_flops": {
        "sign kept": ("rows.abs()", "rows"),
        "not squared": ("where, gather).square()", "where, gather)"),
        "mean over terms": (".sum()", ".mean()"),
        "padding in the shares": ("(rows != 0).to(rows.dtype), where, gather)",
                                  "(rows != 0).to(rows.dtype), torch.ones_like(where))"),
        "given frequencies ignored": ("document_frequency is None", "True"),
        "alpha ignored": (", alpha, beta)", ", 0.1, beta)"),
        "beta ignored": (", alpha, beta)", ", alpha, 10.0)"),
        "always inside": ("weight_inside else", "True else"),
        "never inside": ("weight_inside else", "False else"),
        "none accepted": ('check_whole(reduction, "DF-FLOPS")', "pass"),
    },
}  # fmt: skip

SHARED = {
    ("losses.joint_flops", "df_weights", "df_flops"): {
        "falling": ("-beta * (", "beta * ("),
        "without the one": ("u + torch.log(-torch.expm1(-u))", "u"),
        "natural base": ("math.log(2) / math.log(alpha)", "1 / math.log(alpha)"),
        "half the steepness": ("-beta", "-beta / 2"),
    },
}  # fmt: skip
