"""Variants of the softmax loss: loop references, mutants, and the numbers of other libraries."""

import math

from peers import RAX, Case, on_list
from references import log1pexp, log_softmax, logsumexp


def poly1_softmax(scores, labels, temperature=1.0, epsilon=1.0, normalize=True):
    """Leng et al. 2022, for shares of relevance; the second part always has shares."""
    mass = math.fsum(labels)
    if not scores or mass <= 0:
        return None
    logs = log_softmax(scores, temperature)
    surprise = sum(-y * log_u for y, log_u in zip(labels, logs, strict=True))
    wrong = sum(y / mass * (1 - math.exp(log_u)) for y, log_u in zip(labels, logs, strict=True))
    return (surprise / mass if normalize else surprise) + epsilon * wrong


def unique_softmax(scores, labels, gain="exp2"):
    """Zhu and Klabjan 2020: every item against the items with lower labels."""
    gains = [2**y - 1 if gain == "exp2" else y for y in labels]
    if sum(gains) <= 0:
        return None
    total = 0.0
    for s, y, g in zip(scores, labels, gains, strict=True):
        rivals = [t for t, z in zip(scores, labels, strict=True) if z < y]
        if rivals:
            total += g * log1pexp(logsumexp(rivals) - s)
    return total


def calibrated_softmax(scores, labels, virtual_label=1.0):
    """Yan et al. 2022: the softmax loss of the list and a virtual item with score 0."""
    if not scores or math.fsum(labels) + virtual_label <= 0:
        return None
    logs = log_softmax([*scores, 0.0])
    return -sum(y * log_u for y, log_u in zip([*labels, virtual_label], logs, strict=True))


LISTS = {
    "poly1_softmax": (
        poly1_softmax,
        [{}, {"temperature": 0.4}, {"epsilon": 3.0}, {"normalize": False}, {"epsilon": -0.5}],
    ),
    "unique_softmax": (unique_softmax, [{}, {"gain": "linear"}]),
    "calibrated_softmax": (
        calibrated_softmax,
        [{}, {"virtual_label": 0.1}, {"virtual_label": 0.0}],
    ),
}

MUTANTS = {
    "poly1_softmax": {
        "sign of the first part": ("-(labels * logs)", "(labels * logs)"),
        "sign of the second part": ("+ epsilon", "- epsilon"),
        "epsilon ignored": ("epsilon * (1 - chance)", "(1 - chance)"),
        "labels for shares in the second part": ("(labels * logs.exp()).sum(-1) / mass",
                                                 "(labels * logs.exp()).sum(-1)"),
        "mask ignored": ("temperature, where)", "temperature, torch.ones_like(where))"),
        "temperature multiplies": ("scores / temperature", "scores * temperature"),
        "always shares": ("if normalize else surprise", "if True else surprise"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("(values, total > 0", "(values, total >= 0"),
    },
    "unique_softmax": {
        "sign flipped": ("(gains *", "(-gains *"),
        "mean over items": (").sum(-1)\n", ").mean(-1)\n"),
        "gain ignored": ("GAINS[gain](labels)", "labels"),
        "ties compete": ("label_levels(labels), where)", "label_levels(labels), where, True)"),
        "order reversed": ("label_levels(labels)", "label_levels(-labels)"),
        "mask ignored": ("label_levels(labels), where)",
                         "label_levels(labels), torch.ones_like(where))"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("(gains > 0).any(-1)", "where.any(-1)"),
    },
    "calibrated_softmax": {
        "sign flipped": ("(labels * (log_z", "(-labels * (log_z"),
        "no virtual item": ("-logsigmoid(-masked_logsumexp(scores, where))",
                            "masked_logsumexp(scores, where)"),
        "no label of the virtual item": (" + virtual_label * log_z", ""),
        "mask ignored": ("(scores, where))\n", "(scores, where | True))\n"),
        "mean over items": (".sum(-1) + virtual_label * log_z",
                            ".mean(-1) + virtual_label * log_z"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevance skipped": (" | (virtual_label > 0)", ""),
        "padding counted": ("where.any(-1) & ", ""),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "rax.poly1_softmax_loss.single": Case("poly1_softmax", on_list(normalize=False), library=RAX),
    "rax.unique_softmax_loss.single": Case("unique_softmax", on_list(), library=RAX),
}

# The golden families of these losses.
FAMILIES = {"Poly1 softmax", "Unique softmax"}
