"""FLOPS: loop references, mutants, and the numbers of other libraries."""

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
        "sign kept": ("rows.abs()", "rows"),
        "not squared": (".square().sum()", ".sum()"),
        "mean over terms": (".square().sum()", ".square().mean()"),
        "square before the mean": ("rows.abs()", "rows.square()"),
        "threshold not strict": ("> row_threshold", ">= row_threshold"),
        "threshold ignored": ("torch.where(dense, rows, 0.0)", "rows"),
        "dead rows leave the mean": ("rows.abs(), where", "rows.abs(), (rows != 0).any(-1)"),
        "none accepted": ('check_whole(reduction, "FLOPS")', "pass"),
    },
}  # fmt: skip

SHARED = {
    ("activations", "prepare_rows", "flops"): {
        "padding kept": ("torch.where(where[:, None], as_float(activations), 0.0)",
                         "as_float(activations)"),
        "halves kept": ("as_float(activations)", "activations"),
        "mask inverted": ("torch.where(where[:, None]", "torch.where(~where[:, None]"),
    },
    ("activations", "mean_of_rows", "flops"): {
        "sum over rows": (" / count.clamp(min=1)", ""),
        "padding in the mean": ("count.clamp(min=1)", "len(rows)"),
        "nothing over nothing": (".clamp(min=1)", ""),
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
