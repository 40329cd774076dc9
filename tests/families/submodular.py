"""Submodular losses: loop references and mutants."""

import math

from references import similarity_of


def log_det(matrix):
    """By Gaussian elimination; the matrix is positive definite."""
    rows, total = [list(row) for row in matrix], 0.0
    for i, row in enumerate(rows):
        total += math.log(row[i])
        for other in rows[i + 1 :]:
            factor = other[i] / row[i]
            for j in range(len(row)):
                other[j] -= factor * row[j]
    return total


def submodular(embeddings, labels, where=None, function="facility_location", information="total",
               lam=1.0, reduction="mean"):  # fmt: skip
    """Majee et al. 2024: Σ f(class), less f(batch) for the total correlation."""
    real = [i for i in range(len(embeddings)) if where is None or where[i]]

    def s(i, j):
        return similarity_of(embeddings[i], embeddings[j], "cosine", 1.0)

    def f(members):
        if function == "facility_location":
            return math.fsum(max(s(i, j) for j in members) for i in real)
        if function == "graph_cut":
            cover = math.fsum(s(i, j) for i in real for j in members)
            return cover - lam * math.fsum(s(i, j) for i in members for j in members)
        return log_det([[s(i, j) + lam * (i == j) for j in members] for i in members])

    if not real:
        return 0.0
    sets = [[i for i in real if labels[i] == c] for c in sorted({labels[i] for i in real})]
    value = math.fsum(map(f, sets)) - (f(real) if information == "correlation" else 0.0)
    return value if reduction == "sum" else value / len(real)


PAIRS = {
    "submodular": (
        submodular,
        [
            {},
            {"information": "correlation"},
            {"function": "graph_cut"},
            {"function": "graph_cut", "lam": 0.3, "information": "correlation"},
            {"function": "graph_cut", "lam": 1.7},
            {"function": "log_det"},
            {"function": "log_det", "lam": 0.4, "information": "correlation"},
        ],
    ),
}
WHOLE = {"submodular"}

MUTANTS = {
    "submodular": {
        "always the total": ('information == "total"', "True"),
        "lengths matter": ("unit = normalize(", "unit = ("),
        "sum for mean": ("value / real.sum().clamp(min=1)", "value"),
        "mean over padding too": ("real.sum().clamp(min=1)", "len(real)"),
        "functions exchanged": ('function == "graph_cut"', 'function == "log_det"'),
    },
}  # fmt: skip

SHARED = {
    ("losses.submodular", "_facility_location", "submodular"): {
        "the farthest member": ('"amax"', '"amin"'),
        "one class for all": ("first.expand_as", "(0 * first).expand_as"),
    },
    ("losses.submodular", "_graph_cut", "submodular"): {
        "nothing within": ("lam * same.to(similar.dtype)", "same.to(similar.dtype)"),
        "batch without λ": ("(1 - lam) * similar.sum()", "similar.sum()"),
    },
    ("losses.submodular", "_log_det", "submodular"): {
        "classes not separated": ("torch.where(same, similar, 0.0)", "similar"),
        "no λ": ("similar.new_full((), lam)", "similar.new_full((), 1.0)"),
        "half": ("2 * roots", "roots"),
    },
}  # fmt: skip
