"""Contrastive losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case, on_pairs
from references import combine, hard_negatives, logsumexp, similarity_of


def infonce(queries, documents, negatives=None, negatives_where=None, positives=None,
            exclude=None, weights=None, similarity="cosine", temperature=0.05,
            multi_positive="mean", reduction="mean"):  # fmt: skip
    """van den Oord et al. 2018, with in-batch negatives (Karpukhin et al. 2020)."""
    values = []
    for i, query in enumerate(queries):
        good, bad = [], []
        for j, document in enumerate(documents):
            s = similarity_of(query, document, similarity, temperature)
            if i == j or (positives is not None and positives[i][j]):
                good.append(s)
            elif exclude is None or not exclude[i][j]:
                bad.append(s)
        for _, row in hard_negatives(negatives, negatives_where):
            bad.append(similarity_of(query, row, similarity, temperature))
        if multi_positive == "mean":
            value = logsumexp(good + bad) - math.fsum(good) / len(good)
        elif multi_positive == "union":
            value = logsumexp(good + bad) - logsumexp(good)
        else:
            value = math.fsum(logsumexp([p, *bad]) - p for p in good) / len(good)
        values.append(value)
    return combine(values, weights, reduction)


PAIRS = {
    "infonce": (
        infonce,
        [
            {},
            {"temperature": 0.5},
            {"similarity": "dot", "temperature": 1.0},
            {"multi_positive": "union", "temperature": 0.5},
            {"multi_positive": "isolated", "temperature": 0.5},
        ],
    ),
}

MUTANTS = {
    "infonce": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where,", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "other positives ignored": ("positives=positives, ", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": (", similarity=similarity", ""),
        "union flipped": ("values = -masked_logsumexp", "values = masked_logsumexp"),
        "weights ignored": ("weights=weights, reduction=reduction", "reduction=reduction"),
        "weights of several positives ignored": ("weights, reduction)", "None, reduction)"),
    },
}  # fmt: skip

SHARED = {
    ("losses.contrastive", "_isolated", "infonce"): {
        "sign flipped": ("costs = -torch", "costs = torch"),
        "positives among the negatives": ("where & ~positive", "where"),
        "mask ignored": ("where & ~positive", "~positive"),
        "sum over positives": (" / positive.sum(-1).clamp(min=1)", ""),
    },
    ("candidates", "normalize", "infonce"): {
        "not normalized": ("x * scale", "x"),
        "no guard for zero vectors": ("torch.where(squared > 0, squared, 1.0).rsqrt()",
                                      "squared.rsqrt()"),
        "halves kept": ("x = as_float(x)", "pass"),
    },
    ("candidates", "in_batch_candidates", "infonce"): {
        "padded negatives kept": ("torch.where(real[..., None], negatives, 0.0)", "negatives"),
        "mask of negatives ignored": ("seen & real.flatten()", "seen.expand(batch, batch * k)"),
        "positives can be excluded": ("positive | (torch", "(torch"),
        "only the diagonal is positive": ("own if positives is None else own | positives", "own"),
        "hard negatives are positive": ("positive.new_zeros(batch", "positive.new_ones(batch"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.mnrl": Case("infonce", on_pairs()),
    "st.mnrl.hardneg": Case("infonce", on_pairs()),
    "st.mnrl.dot.scale1": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
    "st.sparse_mnrl": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
}

LATER = {
    "st.mnrl.hardness.in_batch_negatives.hardneg": "hardness weighting",
    "st.mnrl.hardness.hard_negatives.hardneg": "hardness weighting",
    "st.mnrl.hardness.all_negatives.hardneg": "hardness weighting",
    "lir.contrastive_local": "its label is the argmax of its own scores",
}

# The golden families of these losses.
FAMILIES = {"InfoNCE/MNRL", "Sparse MNRL", "Hardness-weighted InfoNCE", "ContrastiveLocal"}
