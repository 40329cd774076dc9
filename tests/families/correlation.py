"""Correlation losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import LIR, PTRANKING, Case, on_list
from references import log1pexp


def cosine(a, b):
    """0 where a vector has no direction."""
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths > 0 else 0.0


def deviations(xs):
    if len(set(xs)) == 1:
        return [0.0] * len(xs)
    mean = math.fsum(xs) / len(xs)
    return [x - mean for x in xs]


def rank_cosine(scores, labels):
    """Qin et al. 2008: half of one minus the cosine."""
    if not any(labels):
        return None
    return (1 - cosine(scores, labels)) / 2


def pearson(scores, labels):
    """Pearson 1896: one minus the correlation; constant scores have none."""
    if len(set(labels)) < 2:
        return None
    return 1 - cosine(deviations(scores), deviations(labels))


def z(scores, labels, a=1.0, b=1.0):
    """de Brébisson and Vincent 2016, mean over the relevant items."""
    relevant = [i for i, y in enumerate(labels) if y > 0]
    if not relevant or len(scores) < 2:
        return None
    apart = deviations(scores)
    spread = math.sqrt(math.fsum(x * x for x in apart) / len(apart))
    total = 0.0
    for c in relevant:
        standing = apart[c] / spread if spread > 0 else 0.0
        total += log1pexp(a * (b - standing)) / a
    return total / len(relevant)


LISTS = {
    "rank_cosine": (rank_cosine, [{}]),
    "pearson": (pearson, [{}]),
    "z": (z, [{}, {"a": 3.0}, {"b": 0.5}, {"a": 0.5, "b": 2.0}]),
}

MUTANTS = {
    "rank_cosine": {
        "sign flipped": ("1 - cosine", "1 + cosine"),
        "no half": (" / 2, ", ", "),
        "scores not scaled": ("normalize(scores)", "scores"),
        "labels not scaled": ("normalize(labels)", "labels"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("(labels != 0).any(-1)", "(labels == labels).any(-1)"),
        "one item of many": (").sum(-1)", ").amax(-1)"),
    },
    "pearson": {
        "sign flipped": ("1 - correlation", "1 + correlation"),
        "scores not centred": ("centre(scores, where)", "scores"),
        "labels not centred": (", centre(labels, where)", ", labels"),
        "mask of the mean ignored": ("centre(scores, where)",
                                     "centre(scores, torch.ones_like(where))"),
        "scores not scaled": ("normalize(scores)", "scores"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "constant labels counted": ("(labels != 0).any(-1)", "where.any(-1)"),
    },
    "z": {
        "sign flipped": ("costs = -torch", "costs = torch"),
        "standing below the mean": ("(standing - b)", "(b - standing)"),
        "not over the sharpness": ("(a * (standing - b)) / a", "(a * (standing - b))"),
        "sharpness ignored inside": ("(a * (standing - b))", "((standing - b))"),
        "threshold ignored": ("(standing - b)", "(standing)"),
        "unit vector, not unit variance": (" * count.to(scores.dtype).sqrt()", ""),
        "sample deviation": ("count.to(scores.dtype)", "(count - 1).to(scores.dtype)"),
        "sum over relevant items": (" / relevant.sum(-1).clamp(min=1)", ""),
        "all items ask": ("torch.where(relevant, costs, 0.0)", "costs"),
        "single items counted": (" & (count[..., 0] > 1)", ""),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.correlation", "centre", "pearson"): {
        "not centred": ("x - mean, 0.0", "x, 0.0"),
        "padding in the mean": ("where.sum(-1, keepdim=True)",
                                "torch.ones_like(where).sum(-1, keepdim=True)"),
        "padding not zero": ("torch.where(where, x - mean, 0.0)", "x - mean"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "ptranking.rankcosine": Case("rank_cosine", on_list(), library=PTRANKING),
    "lir.pearson.single": Case("pearson", on_list(), library=LIR),
}

# The golden families of these losses.
FAMILIES = {"RankCosine", "Pearson correlation"}
