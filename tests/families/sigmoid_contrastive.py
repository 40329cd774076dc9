"""Sigmoid contrastive losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case, on_pairs
from references import combine, hard_negatives, log1pexp, similarity_of


def siglip(queries, documents, negatives=None, negatives_where=None, positives=None,
           exclude=None, weights=None, similarity="cosine", temperature=0.1, bias=-10.0,
           reduction="mean"):  # fmt: skip
    """Zhai et al. 2023, equation 1: -Σⱼ log(1 / (1 + e^(-zⱼ xⱼ))), with hard negatives."""
    values = []
    for i, query in enumerate(queries):
        costs = []
        for j, document in enumerate(documents):
            x = similarity_of(query, document, similarity, temperature) + bias
            if i == j or (positives is not None and positives[i][j]):
                costs.append(log1pexp(-x))
            elif exclude is None or not exclude[i][j]:
                costs.append(log1pexp(x))
        for _, row in hard_negatives(negatives, negatives_where):
            costs.append(log1pexp(similarity_of(query, row, similarity, temperature) + bias))
        values.append(math.fsum(costs))
    return combine(values, weights, reduction)


def entropy(x):
    return -x * math.log(x) if x > 0 else 0.0


def bixse(queries, documents, labels, where=None, negatives=None, negatives_where=None,
          exclude=None, weights=None, similarity="cosine", temperature=0.1, bias=-10.0,
          pos_weight=None, normalize="row", excess=False, reduction="mean"):  # fmt: skip
    """Tsirigotis et al. 2025: cross-entropy of σ(x) with a grade, or with 0 for other documents."""
    omega = 1.0 if pos_weight is None else pos_weight
    real = [True] * len(queries) if where is None else where

    def cost(x, y):
        value = omega * y * log1pexp(-x) + (1 - y) * log1pexp(x)
        yes, no = omega * y, 1 - y
        best = entropy(yes) + entropy(no) + (yes + no) * math.log(yes + no)
        return value - best if excess else value

    values = []
    for i, query in enumerate(queries):
        if not real[i]:
            values.append(None)
            continue
        costs = []
        for j, document in enumerate(documents):
            if real[j] and (i == j or exclude is None or not exclude[i][j]):
                y = labels[i] if i == j else 0.0
                costs.append(
                    cost(similarity_of(query, document, similarity, temperature) + bias, y)
                )
        for owner, row in hard_negatives(negatives, negatives_where):
            if real[owner]:
                costs.append(cost(similarity_of(query, row, similarity, temperature) + bias, 0.0))
        values.append(math.fsum(costs) / (1 if normalize == "row" else len(costs)))
    return combine(values, weights, reduction)


PAIRS = {
    "siglip": (
        siglip,
        [
            {},
            {"temperature": 0.5, "bias": 0.0},
            {"similarity": "dot", "temperature": 1.0, "bias": -1.0},
        ],
    ),
    "bixse": (
        bixse,
        [
            {},
            {"temperature": 0.5, "bias": -1.0},
            {"similarity": "dot", "temperature": 1.0, "bias": 0.5},
            {"pos_weight": 3.0, "bias": -5.0},
            {"normalize": "items"},
            {"excess": True, "temperature": 0.5, "bias": 0.0},
            {"excess": True, "pos_weight": 0.25, "temperature": 0.5, "bias": 0.0},
        ],
    ),
}

MUTANTS = {
    "siglip": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where,", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "other positives ignored": ("positives=positives, ", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": (", similarity=similarity", ""),
        "bias ignored": ("lists = with_bias(lists, bias)", "pass"),
        "weights ignored": ("None, weights, ", "None, None, "),
    },
    "bixse": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": (
            "seen if negatives_where is None else seen & negatives_where",
            "seen",
        ),
        "negatives of padded pairs kept": ("seen & negatives_where", "negatives_where"),
        "padded vectors kept": ("torch.where(real[:, None], x, 0.0)", "x"),
        "padded columns kept": (
            "columns = pad(columns,",
            "columns = pad(torch.ones_like(columns),",
        ),
        "padded rows counted": ("reduce(values, real,", "reduce(values, torch.ones_like(real),"),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "bias ignored": ("with_bias(lists, bias)", "lists"),
        "weight of positives ignored": ("1.0 if pos_weight is None else pos_weight", "1.0"),
        "never an excess": ("else pos_weight, excess,", "else pos_weight, False,"),
        "always a sum": ('normalize == "items")', "False)"),
        "weights ignored": ("weights=weights, ", ""),
    },
}  # fmt: skip

SHARED = {
    ("losses.sigmoid_contrastive", "_yes_or_no", "siglip"): {
        "sign flipped": ("return -torch", "return torch"),
        "sides exchanged": ("2 * positive.to(scores.dtype) - 1", "1 - 2 * positive.double()"),
        "mask ignored": ("torch.where(where, logsigmoid(side * scores), 0.0)",
                         "logsigmoid(side * scores)"),
        "mean over candidates": (".sum(-1)", ".mean(-1)"),
    },
    ("losses.sigmoid_contrastive", "with_bias", "siglip"): {
        "bias counted twice": ("bias * torch", "2 * bias * torch"),
        "bias over documents": ("torch.ones_like(lists.right[:, :1])", "lists.right[:, :1]"),
    },
    ("losses.sigmoid_contrastive", "_graded_costs", "bixse"): {
        "doubt exchanged": ("torch.where(likely, no, yes)", "torch.where(likely, yes, no)"),
        "weight of positives ignored": ("pos_weight * labels", "labels"),
        "weight outside of the logarithm": ("(yes + no) * logsigmoid", "logsigmoid"),
        "floor without weight": (" - entropy(yes + no)", ""),
        "never an excess": ("if excess:", "if False:"),
        "sides exchanged": ("torch.where(likely, scores, -scores)",
                            "torch.where(likely, -scores, scores)"),
    },
    ("losses.sigmoid_contrastive", "_graded_values", "bixse"): {
        "grade of the pair everywhere": ("else where & positive", "else where"),
        "mask ignored": ("torch.where(where, costs, 0.0)", "costs"),
        "padding kept": (" & real[rows, None] & columns", ""),
        "mean over all slots": ("where.sum(-1).clamp(min=1)", "where.shape[-1]"),
    },
}  # fmt: skip

# One pair alone is asked whether it belongs together.
ABSOLUTE = {"siglip"}

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "openclip.siglip": Case("siglip", on_pairs(similarity="dot"), atol=2e-6),
    "openclip.siglip.s1.b0": Case("siglip", on_pairs(similarity="dot", temperature=1.0, bias=0.0)),
    "openclip.hard.siglip": Case("siglip", on_pairs(similarity="dot")),
}

# The golden families of these losses.
FAMILIES = {"SigLIP"}
