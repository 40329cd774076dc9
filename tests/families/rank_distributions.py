"""Rank distributions: loop references, mutants, and the numbers of other libraries."""

import math

import references
from peers import PTRANKING, Case, on_list


def win(lead, delta):
    """P(a Gaussian score that leads by `lead` is the higher one)."""
    return math.erfc(-lead / (2 * delta)) / 2


def rank_chances(scores, item, delta=1.0):
    """Taylor et al. 2008: rivals are added one at a time."""
    chances = [1.0]
    for j, s in enumerate(scores):
        if j != item:
            up, down = win(s - scores[item], delta), win(scores[item] - s, delta)
            longer = [0.0] * (len(chances) + 1)
            for r, p in enumerate(chances):
                longer[r] += p * down
                longer[r + 1] += p * up
            chances = longer
    return chances


def softrank(scores, labels, delta=1.0, mode="distribution", gain="exp2"):
    """1 - SoftNDCG."""
    ideal = references.dcg(sorted(labels, reverse=True), gain=gain)
    if ideal == 0:
        return None
    actual = 0.0
    for i, y in enumerate(labels):
        chances = rank_chances(scores, i, delta)
        if mode == "distribution":
            discount = math.fsum(p / math.log2(2 + r) for r, p in enumerate(chances))
        else:
            discount = 1 / math.log2(2 + math.fsum(p * r for r, p in enumerate(chances)))
        actual += (2**y - 1 if gain == "exp2" else y) * discount
    return 1 - actual / ideal


LISTS = {
    "softrank": (softrank, [{}, {"delta": 0.5}, {"mode": "expected", "gain": "linear"}]),
}

MUTANTS = {
    "softrank": {
        "metric instead of its loss": ("1 - actual /", "actual /"),
        "order reversed": ("beaten_by(scores,", "beaten_by(-scores,"),
        "mask ignored": ("beaten_by(scores, where,", "beaten_by(scores, where | True,"),
        "delta ignored": ("where, delta)", "where)"),
        "mean of the discounts of one": ("above.sum(-1)", "above.mean(-1)"),
        "ranks from 1": ("2 + ranks", "3 + ranks"),
        "gain ignored": ("GAINS[gain]", "GAINS['exp2']"),
        "ideal with other gains": (", gain=gain)", ")"),
        "lists without relevant items counted": ("ideal > 0", "ideal >= 0"),
        "weights ignored": ("counted, weights,", "counted, None,"),
    },
}

SHARED = {
    ("losses.rank_distributions", "beaten_by", "softrank"): {
        "an item beats itself": (" & ~own", ""),
        "padding beats items": ("where.unsqueeze(-1) & where.unsqueeze(-2)", "(own == own)"),
        "one Gaussian only": ("/ (2 * delta)", "/ (2**0.5 * delta)"),
        "chances do not add up": ("torch.special.erfc(-lead) / 2", "torch.special.erfc(-lead)"),
    },
    ("losses.rank_distributions", "_add_rivals", "softrank"): {
        "up for down": ("pad(stay, (0, 1)) + pad(fall, (1, 0))",
                        "pad(stay, (1, 0)) + pad(fall, (0, 1))"),
        "last rival forgotten": ("range(above.shape[-1])", "range(above.shape[-1] - 1)"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "ptranking.softrank": Case("softrank", on_list(mode="expected"), library=PTRANKING),
}

FAMILIES = {"SoftRank"}
