"""The global orthogonal regularizer: loop reference, mutants, and the number of another library."""

import math

from peers import Case


def cosine(a, b):
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths > 0 else 0.0


def orthogonal(rows, where=None, mean_weight=1.0, second_moment_weight=1.0):
    """Zhang et al. 2017: moments of the cosines of all pairs of different rows."""
    real = [row for r, row in enumerate(rows) if where is None or where[r]]
    pairs = [cosine(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j]
    if not pairs:
        return 0.0
    mean = sum(pairs) / len(pairs)
    second = sum(c * c for c in pairs) / len(pairs)
    return mean_weight * mean**2 + second_moment_weight * max(0.0, second - 1 / len(rows[0]))


ROWS = {
    "orthogonal": (orthogonal, [{}, {"mean_weight": 0.0}, {"second_moment_weight": 0.5},
                                {"mean_weight": 2.0, "second_moment_weight": 3.0}]),
}  # fmt: skip

MUTANTS = {
    "orthogonal": {
        "not normalised": ("normalize(rows)", "rows"),
        "diagonal kept in the mean": (" - diagonal)", ")"),
        "diagonal kept in the squares": (" - squared)", ")"),
        "pairs of rows with themselves": ("count * (count - 1)", "count * count"),
        "padding makes pairs": ("where.sum()", "torch.ones_like(where).sum()"),
        "below 1/D as well": (".relu()", ""),
        "the mean not squared": ("mean.square()", "mean"),
        "weights exchanged": ("second_moment_weight * beyond", "mean_weight * beyond"),
        "none accepted": ('check_whole(reduction, "the orthogonal regularizer")', "pass"),
    },
}  # fmt: skip

SAME = {
    (
        "orthogonal",
        "side = unit.mT if gather or len(unit) <= unit.shape[1] else unit",
    ): "both matrices have one Frobenius norm; only the cost differs",
}

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.gor": Case(
        "orthogonal",
        lambda fn, x: (fn(x["q"]) + fn(x["p"])) / 2,
        because="it takes the mean over columns and adds up its two terms",
    ),
}

# The golden families of these losses.
FAMILIES = {"Global orthogonal reg."}
