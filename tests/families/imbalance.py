"""Losses for imbalance: loop references and mutants."""

import math

from references import log1pexp, log_softmax

from families.focusing import binary


def ldam(scores, labels, counts=(999.0, 1.0), max_margin=0.5, margins=None, temperature=1.0):
    """Cao et al. 2019."""
    if margins is None:
        margins = [max_margin * (min(counts) / c) ** 0.25 for c in counts]
    return binary(
        scores, labels, lambda s, relevant: log1pexp(-(s - margins[relevant]) / temperature)
    )


def squentropy(scores, labels):
    """Hui et al. 2023: softmax cross-entropy and the mean square of irrelevant scores."""
    mass = math.fsum(labels)
    if mass <= 0:
        return None
    logs = log_softmax(scores)
    total = -math.fsum(y * log_p for y, log_p in zip(labels, logs, strict=True)) / mass
    squares = [s * s for s, y in zip(scores, labels, strict=True) if y <= 0]
    return total + (sum(squares) / len(squares) if squares else 0.0)


LISTS = {
    "ldam": (
        ldam,
        [
            {},
            {"counts": (10.0, 40.0), "max_margin": 1.5},
            {"margins": (0.3, -0.2)},
            {"temperature": 0.5},
        ],
    ),
    "squentropy": (squentropy, [{}]),
}

MUTANTS = {
    "ldam": {
        "margins exchanged": ("irrelevant, relevant = (max", "relevant, irrelevant = (max"),
        "square root": ("** 0.25", "** 0.5"),
        "margin helps": ("(scores - relevant)", "(scores + relevant)"),
        "margins ignored": ("irrelevant, relevant = margins", "irrelevant, relevant = 0.0, 0.0"),
        "temperature dropped": ("(scores - relevant) / temperature", "(scores - relevant)"),
        "mask ignored": ("* no, where, weights", "* no, torch.ones_like(where), weights"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "squentropy": {
        "sign flipped": ("entropy = masked", "entropy = -masked"),
        "squares of all": ("torch.where(irrelevant, scores", "torch.where(where, scores"),
        "squares of relevant": ("labels <= 0", "labels > 0"),
        "sum of squares": (" / irrelevant.sum(-1).clamp(min=1)", ""),
        "raw labels": (" / torch.where(total > 0, total, 1.0)", ""),
        "mask of the softmax ignored": ("scores, where)\n", "scores, torch.ones_like(where))\n"),
        "padding is irrelevant": ("where & (labels <= 0)", "labels <= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip
