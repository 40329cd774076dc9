"""L1, L2 and L0: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case


def l1(row):
    return sum(abs(x) for x in row)


def l2(row):
    return math.sqrt(sum(x * x for x in row))


def l0(row, surrogate="tanh", epsilon=0.1, target=None):
    """A smooth number of non-zeros; what is above the target, if there is one."""
    count = 0.0
    for x in row:
        scaled = abs(x) / epsilon
        count += math.tanh(scaled) if surrogate == "tanh" else 1 - math.exp(-scaled)
    return count if target is None else max(0.0, count - target)


ROWS = {
    "l1": (l1, [{}]),
    "l2": (l2, [{}]),
    "l0": (l0, [{}, {"epsilon": 0.7}, {"surrogate": "exp", "epsilon": 0.7},
                {"target": 1.5}, {"surrogate": "exp", "epsilon": 2.0, "target": 0.5}]),
}  # fmt: skip

MUTANTS = {
    "l1": {
        "sign kept": ("rows.abs()", "rows"),
        "mean over terms": (".sum(-1)", ".mean(-1)"),
        "squares": ("rows.abs()", "rows.square()"),
        "padding counted": (", where, weights", ", torch.ones_like(where), weights"),
        "weights ignored": (", weights, reduction", ", None, reduction"),
    },
    "l2": {
        "the square": (".sqrt(), 0.0)", ", 0.0)"),
        "mean over terms": (".sum(-1)", ".mean(-1)"),
        "the root of 0": ("torch.where(some, squares, 1.0).sqrt()", "squares.sqrt()"),
        "padding counted": ("lengths, where, weights", "lengths, torch.ones_like(where), weights"),
        "weights ignored": (", weights, reduction", ", None, reduction"),
    },
    "l0": {
        "sign kept": ("rows.abs()", "rows"),
        "multiplied by epsilon": ("/ epsilon", "* epsilon"),
        "target ignored": ("target is None", "True"),
        "below the target as well": ("(counts - target).relu()", "counts - target"),
        "target for all rows": ("(counts - target).relu()", "(counts - target / len(rows)).relu()"),
        "padding counted": ("counts, where, weights", "counts, torch.ones_like(where), weights"),
        "weights ignored": (", weights, reduction", ", None, reduction"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "splade.l1": Case("l1", lambda fn, x: fn(x["e"])),
    "lir.l1": Case("l1", lambda fn, x: fn(x["q"]) + fn(x["e"])),
    "lir.l2": Case("l2", lambda fn, x: fn(x["q"]) + fn(x["e"])),
}

# The golden families of these losses.
FAMILIES = {"L1", "L2"}
