"""Pointwise losses: loop references, mutants, and the numbers of other libraries."""

import torch
from peers import ALLRANK, RAX, Case, on_list
from references import log1pexp


def bce(scores, labels, pos_weight=1.0):
    """Cox 1958: mean over items of -ω y log p - (1 - y) log(1 - p)."""
    if not scores:
        return None
    total = 0.0
    for s, y in zip(scores, labels, strict=True):
        total += pos_weight * y * log1pexp(-s) + (1 - y) * log1pexp(s)
    return total / len(scores)


LISTS = {
    "bce": (bce, [{}, {"pos_weight": 3.0}]),
}

MUTANTS = {
    "bce": {
        "sign flipped": ("    relevant = -torch", "    relevant = torch"),
        "classes exchanged": ("(1 - labels) * irrelevant", "labels * irrelevant"),
        "factor dropped": ("pos_weight * labels", "labels"),
        "factor on both": ("+ (1 - labels)", "+ pos_weight * (1 - labels)"),
        "mask ignored": ("costs, where,", "costs, torch.ones_like(where),"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.ce.bce": Case("bce", on_list()),
    "st.ce.bce.posw": Case("bce", on_list(pos_weight=3.0)),
    "allrank.bce": Case(
        "bce",
        lambda fn, x: fn(torch.logit(x["scores"]), x["labels"]),
        library=ALLRANK,
        because="takes probabilities",
    ),
    "rax.pointwise_sigmoid_loss.single": Case(
        "bce",
        lambda fn, x: fn(x["scores"], (x["labels"] >= 1).to(x["scores"])),
        library=RAX,
        because="labels from 1 on are relevant",
    ),
}

# The golden families of these losses.
FAMILIES = {"Pointwise BCE"}
