"""Regularizers losses: loop references, mutants, and the numbers of other libraries."""

from peers import Case


def flops(activations, where=None, row_threshold=None):
    """Paria et al. 2020: Σ over dimensions of the squared mean absolute activation."""
    real = [row for r, row in enumerate(activations) if where is None or where[r]]
    if not real:
        return 0.0
    total = 0.0
    for v in range(len(real[0])):
        mass = 0.0
        for row in real:
            active = sum(1 for x in row if x != 0)
            if row_threshold is None or active > row_threshold:
                mass += abs(row[v])
        total += (mass / len(real)) ** 2
    return total


ROWS = {
    "flops": (flops, [{}, {"row_threshold": 1}, {"row_threshold": 2}]),
}

MUTANTS = {
    "flops": {
        "sign kept": ("rows.abs().sum(0)", "rows.sum(0)"),
        "not squared": ("means.square().sum()", "means.sum()"),
        "mean over terms": ("means.square().sum()", "means.square().mean()"),
        "square before the mean": ("rows.abs().sum(0)", "rows.square().sum(0)"),
        "sum over rows": (" / where.sum().clamp(min=1)", ""),
        "padding in the mean": ("where.sum().clamp(min=1)", "len(where)"),
        "threshold not strict": ("> row_threshold", ">= row_threshold"),
        "threshold ignored": ("torch.where(dense, rows, 0.0)", "rows"),
        "dead rows leave the mean": ("where.sum().clamp(min=1)", "(rows != 0).any(-1).sum()"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "splade.flops": Case("flops", lambda fn, x: fn(x["e"])),
    "lir.flops": Case("flops", lambda fn, x: fn(x["q"]) + fn(x["e"])),
    "st.flops": Case(
        "flops",
        lambda fn, x: fn(x["e"]),
        grad=False,
        because="it squares the signed mean, whose slope at 0 is not that of |x|",
    ),
    "st.flops.threshold2": Case(
        "flops",
        lambda fn, x: fn(x["e"], row_threshold=2),
        because="only the row without zeros is left, so signed and absolute agree",
    ),
}

# The golden families of these losses.
FAMILIES = {"FLOPS"}
