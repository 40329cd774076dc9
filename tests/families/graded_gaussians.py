"""Gaussians over a batch: loop reference and mutants."""

import math

from references import log_softmax


def singular_values(matrix):
    """Columns turned in pairs until all are orthogonal; their lengths (Hestenes 1958)."""
    columns = [list(c) for c in zip(*matrix, strict=True)]
    for _ in range(60):
        turned = 0.0
        for i in range(len(columns)):
            for j in range(i):
                a, b = columns[i], columns[j]
                aa, bb = math.fsum(x * x for x in a), math.fsum(x * x for x in b)
                ab = math.fsum(x * y for x, y in zip(a, b, strict=True))
                size = math.sqrt(aa) * math.sqrt(bb)
                if size == 0 or abs(ab) <= 1e-17 * size:
                    continue
                angle = 0.5 * math.atan2(2 * ab, aa - bb)
                c, s = math.cos(angle), math.sin(angle)
                columns[i] = [c * x + s * y for x, y in zip(a, b, strict=True)]
                columns[j] = [c * y - s * x for x, y in zip(a, b, strict=True)]
                turned = max(turned, abs(ab) / size)
        if turned < 1e-15:
            break
    return [math.sqrt(math.fsum(x * x for x in c)) for c in columns]


def batch_wasserstein(scores, labels, where=None, temperature=1.0, label_temperature=1.0,
                      normalize="softmax", covariance="full", correction=1,
                      reduction="mean"):  # fmt: skip
    """Esfandiarpoor et al. 2025: Gaussians fitted to the rows, W₂² between them."""
    real = [b for b in range(len(scores)) if where is None or where[b]]
    if not real:
        return 0.0

    def cloud(rows, tau):
        rows = [[v / tau for v in rows[b]] for b in real]
        if normalize == "softmax":
            rows = [[math.exp(v) for v in log_softmax(row)] for row in rows]
        means = [math.fsum(c) / len(rows) for c in zip(*rows, strict=True)]
        return means, [[v - m for v, m in zip(row, means, strict=True)] for row in rows]

    (mx, ex), (my, ey) = cloud(scores, temperature), cloud(labels, label_temperature)
    total = math.fsum((a - b) ** 2 for a, b in zip(mx, my, strict=True))
    if covariance == "none" or len(real) == 1:
        return total
    slots, freedom = range(len(mx)), len(real) - correction
    wide = [math.sqrt(math.fsum(row[i] ** 2 for row in ex) / freedom) for i in slots]
    wanted = [math.sqrt(math.fsum(row[i] ** 2 for row in ey) / freedom) for i in slots]
    if covariance == "diagonal":
        return total + math.fsum((a - b) ** 2 for a, b in zip(wide, wanted, strict=True))
    products = [[math.fsum(a * b for a, b in zip(u, v, strict=True)) for v in ey] for u in ex]
    shared = math.fsum(singular_values(products)) / freedom
    traces = math.fsum(v**2 for v in wide) + math.fsum(v**2 for v in wanted)
    return total + traces - 2 * shared


PAIRS = {
    "batch_wasserstein": (
        batch_wasserstein,
        [
            {},
            {"covariance": "diagonal"},
            {"covariance": "none", "temperature": 0.5},
            {"normalize": "none", "label_temperature": 3.0},
            {"correction": 0, "temperature": 2.0},
            {"normalize": "none", "covariance": "diagonal", "correction": 0},
        ],
    ),
}
WHOLE = {"batch_wasserstein"}

MUTANTS = {
    "batch_wasserstein": {
        "temperature ignored": ("scores / temperature", "scores"),
        "label temperature ignored": ("labels / label_temperature", "labels"),
        "never a softmax": ('if normalize == "softmax":', "if False:"),
        "always a softmax": ('if normalize == "softmax":', "if True:"),
        "softmax over the batch": ("x.softmax(-1), y", "x.softmax(0), y"),
        "padding in the points": ("torch.where(real, x, 0.0), torch", "x, torch"),
        "padding in the count": ("where.sum()", "where.new_tensor(len(where)).long()"),
        "padding deviates": ("torch.where(real, x - mean_x, 0.0)", "(x - mean_x)"),
        "not centred": ("torch.where(real, x - mean_x, 0.0)", "torch.where(real, x, 0.0)"),
        "labels deviate from the mean of scores": ("y - mean_y", "y - mean_x"),
        "means are not compared": ("(mean_x - mean_y).square().sum()", "0 * mean_x.sum()"),
        "covariance ignored": ('if covariance != "none":', "if False:"),
        "always unbiased": ("count - correction", "count - 1"),
        "a gradient to the labels": ("cost = _spread", "x = x.detach(); cost = _spread"),
    },
}  # fmt: skip

SHARED = {
    ("losses.graded_gaussians", "_turned", "batch_wasserstein"): {
        "rotated among slots": ("left @ right.mT", "left.mT @ right"),
        "rotated the other way": ("left @ right.mT", "right @ left.mT"),
        "not rotated": ("torch.where(shared > noise, u, 0.0) @ (vh @ right)", "right"),
        "only what is noise": ("shared > noise", "shared <= noise"),
    },
    ("losses.graded_gaussians", "_stretched", "batch_wasserstein"): {
        "not stretched": ("wanted / torch.where(some, own, 1.0)", "1.0"),
        "stretched the other way": ("wanted / torch.where(some, own, 1.0)", "own / wanted"),
        "one width for all slots": ("x.norm(dim=0)", "x.norm()"),
    },
    ("losses.graded_gaussians", "_spread_cost", "batch_wasserstein"): {
        "always turned": ('covariance == "full"', "True"),
        "always stretched": ('covariance == "full"', "False"),
        "counted once": ("2 * shared", "shared"),
        "sign flipped": ("- 2 * shared", "+ 2 * shared"),
        "the labels have no width": (" + y.square().sum()", ""),
    },
    ("losses.graded_gaussians", "prepare_slots", "batch_wasserstein"): {
        "padding kept": ("torch.where(where[:, None], x.double(), 0.0)", "x.double()"),
    },
}  # fmt: skip
