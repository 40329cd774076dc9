"""Contrastive losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case, on_pairs
from references import combine, hard_negatives, hardened, logsumexp, similarity_of


def infonce(queries, documents, negatives=None, negatives_where=None, positives=None,
            exclude=None, weights=None, similarity="cosine", temperature=0.05,
            multi_positive="mean", hardness=None, hardness_strength=0.0,
            reduction="mean"):  # fmt: skip
    """van den Oord et al. 2018, with in-batch negatives (Karpukhin et al. 2020)."""
    weigh = (hardness, hardness_strength, temperature)
    values = []
    for i, query in enumerate(queries):
        good, bad = [], []
        for j, document in enumerate(documents):
            s = similarity_of(query, document, similarity, temperature)
            if i == j or (positives is not None and positives[i][j]):
                good.append(s)
            elif exclude is None or not exclude[i][j]:
                bad.append(hardened(s, False, *weigh))
        for owner, row in hard_negatives(negatives, negatives_where):
            s = similarity_of(query, row, similarity, temperature)
            bad.append(hardened(s, owner == i, *weigh))
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
            {"hardness": "in_batch", "hardness_strength": 5.0, "temperature": 0.5},
            {"hardness": "hard", "hardness_strength": 2.0, "temperature": 0.5},
            {"hardness": "all", "hardness_strength": 2.0, "temperature": 0.5},
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
        "hardness ignored": ("weigh = (hardness,", "weigh = (None,"),
        "several positives always meant": ("weigh, multi_positive)", 'weigh, "mean")'),
        "weights ignored": ('"weights": weights, ', ""),
    },
}  # fmt: skip

SHARED = {
    ("losses.contrastive", "_isolated", "infonce"): {
        "sign flipped": ("costs = -torch", "costs = torch"),
        "positives among the negatives": ("where & ~positive", "where"),
        "mask ignored": ("where & ~positive", "~positive"),
        "sum over positives": (" / positive.sum(-1).clamp(min=1)", ""),
    },
    ("losses.contrastive", "infonce_values", "infonce"): {
        "union over everything": ("masked_logsumexp(scores, positive)",
                                  "masked_logsumexp(scores, where)"),
    },
    ("candidates", "harden", "infonce"): {
        "positives hardened": ("chosen & ~positive", "chosen"),
        "strength over the temperature": ("* unit", "/ unit"),
        "mined and in-batch exchanged": ('"in_batch": ~mined, "hard": mined',
                                         '"in_batch": mined, "hard": ~mined'),
    },
    ("candidates", "normalize", "infonce"): {
        "not normalized": (" * squared.masked_fill(squared == 0, torch.inf).rsqrt()", ""),
        "no guard for zero vectors": (".masked_fill(squared == 0, torch.inf)", ""),
        "halves kept": ("x = as_float(x)", "pass"),
    },
    ("candidates", "hard_columns", "infonce"): {
        "padded negatives kept": ("torch.where(real[..., None], negatives, 0.0)", "negatives"),
        "mask of negatives ignored": ("real = negatives_where", "real = None"),
    },
    ("candidates", "in_batch_masks", "infonce"): {
        "mask of negatives ignored": ("torch.ones_like(owned)) & real", "torch.ones_like(owned))"),
        "positives can be excluded": ("positive | pairs", "pairs"),
        "only the diagonal is positive": ("if positives is None else", "if True else"),
        "hard negatives are positive": ("torch.zeros_like(seen)", "torch.ones_like(seen)"),
    },
    ("candidates", "in_batch_candidates", "infonce"): {
        "a positive per row though more is known": (
            "positives is None and exclude is None and not hidden", "True"),
        "hidden negatives forgotten": (" and not hidden", ""),
    },
    ("scaling.tiling", "softmax_rows", "infonce"): {
        "positives summed": (" / positive.sum(-1).clamp(min=1)", ""),
        "mask ignored": ("masked_logsumexp(scores, where)", "scores.logsumexp(-1)"),
    },
    ("scaling.tiling", "softmax_slopes", "infonce"): {
        "mask ignored": ("scores.masked_fill_(~where, torch.finfo(scores.dtype).min)", "pass"),
        "positives pushed": ("shape.sub_(shares)", "shape.add_(shares)"),
        "the largest share forgotten": (" - shape.amax(-1, keepdim=True).log()", ""),
    },
    ("scaling.tiling", "reduce_rows", "infonce"): {
        "the weights of values": ("(values * share).sum()", "values.sum()"),
        "tiles without weights": ("rows, share, *flat", "rows, share * 0 + 1, *flat"),
    },
    ("scaling.tiling", "row_weights", "infonce"): {
        "sum for mean": (" / torch.where(mass > 0, mass, 1)", ""),
        "mean for sum": ('if reduction == "sum":', "if False:"),
        "weights ignored": ("weights.to(like.dtype)", "torch.ones_like(weights).to(like.dtype)"),
    },
    ("scaling.tiling", "_sweep", "infonce"): {
        "only the last rows reach the columns": (".addmm_(slope.mT", ".zero_().addmm_(slope.mT"),
        "the columns of all rows": ("lefts[k][part])", "lefts[k][: part.stop - part.start])"),
        "rows without weights": (".mul_(weights[part, None])", ""),
        "columns without weights": ("weights[part, None] * lefts", "lefts"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.mnrl": Case("infonce", on_pairs()),
    "st.mnrl.hardneg": Case("infonce", on_pairs()),
    "st.mnrl.dot.scale1": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
    **{
        f"st.mnrl.hardness.{theirs}_negatives.hardneg": Case(
            "infonce", on_pairs(hardness=ours, hardness_strength=5.0)
        )
        for theirs, ours in (("in_batch", "in_batch"), ("hard", "hard"), ("all", "all"))
    },
    "st.sparse_mnrl": Case("infonce", on_pairs(similarity="dot", temperature=1.0)),
}

LATER = {
    "lir.contrastive_local": "its label is the argmax of its own scores",
}

# The golden families of these losses.
FAMILIES = {"InfoNCE/MNRL", "Sparse MNRL", "Hardness-weighted InfoNCE", "ContrastiveLocal"}
