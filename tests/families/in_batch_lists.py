"""Losses on the lists of a batch: loop references, mutants, and the numbers of other libraries."""

import math

from references import combine, hard_negatives, logsumexp, similarity_of


def score_based_in_batch(queries, documents, labels, where=None, exclude=None, weights=None,
                         min_target_diff=1.0, max_negatives=None, similarity="cosine",
                         temperature=0.05, reduction="mean"):  # fmt: skip
    """Lightning IR, with ragged lists: the best against clearly worse and foreign ones."""
    values = []
    for i, query in enumerate(queries):
        real = [j for j in range(len(labels[i])) if where is None or where[i][j]]
        if not real:
            values.append(None)
            continue
        best = max(real, key=lambda j: labels[i][j])  # noqa: B023  (the first of them)
        terms = []
        for k, (rows, grades) in enumerate(zip(documents, labels, strict=True)):
            for j, (row, grade) in enumerate(zip(rows, grades, strict=True)):
                if where is not None and not where[k][j]:
                    continue
                s = similarity_of(query, row, similarity, temperature)
                if k != i:
                    kept = exclude is None or not exclude[i][k]
                else:
                    kept = j == best or labels[i][best] - grade >= min_target_diff
                if kept:
                    terms.append(s)
                if (k, j) == (i, best):
                    positive = s
        values.append(logsumexp(terms) - positive)
    return combine(values, weights, reduction)


def localized_contrastive(scores, labels, multi_positive="mean"):
    """Gao et al. 2021: -log of the share of the positive in its group."""
    positives = [s for s, y in zip(scores, labels, strict=True) if y > 0]
    negatives = [s for s, y in zip(scores, labels, strict=True) if y <= 0]
    if not positives:
        return None
    if multi_positive == "union":
        return logsumexp(scores) - logsumexp(positives)
    among = (lambda p: [p, *negatives]) if multi_positive == "isolated" else (lambda p: scores)
    return math.fsum(logsumexp(among(p)) - p for p in positives) / len(positives)


def in_batch_psl(queries, documents, negatives=None, negatives_where=None, positives=None,
                 exclude=None, weights=None, activation="tanh", temperature=0.05,
                 reduction="mean"):  # fmt: skip
    """Yang et al. 2024: mean over positives of log Σⱼ φ(fⱼ - f₊)^(1/τ), with f = cos/2."""
    phi = {
        "tanh": lambda x: 1 + math.tanh(x),
        "atan": lambda x: 1 + math.atan(x),
        "relu": lambda x: max(0.0, 1 + x),
        "exp": math.exp,
    }[activation]
    values = []
    for i, query in enumerate(queries):
        good, bad = [], []
        for j, document in enumerate(documents):
            half = similarity_of(query, document, "cosine", 2.0)
            if i == j or (positives is not None and positives[i][j]):
                good.append(half)
            elif exclude is None or not exclude[i][j]:
                bad.append(half)
        for _, row in hard_negatives(negatives, negatives_where):
            bad.append(similarity_of(query, row, "cosine", 2.0))
        costs = [
            math.log(1 + math.fsum(phi(b - p) ** (1 / temperature) for b in bad)) for p in good
        ]
        values.append(math.fsum(costs) / len(costs))
    return combine(values, weights, reduction)


PAIRS = {
    "score_based_in_batch": (
        score_based_in_batch,
        [
            {},
            {"temperature": 0.5},
            {"min_target_diff": 2.0, "temperature": 0.5},
            {"similarity": "dot", "temperature": 1.0},
            {"max_negatives": 1000, "temperature": 0.5},
        ],
    ),
    "in_batch_psl": (
        in_batch_psl,
        [
            {},
            {"temperature": 0.5},
            {"activation": "atan", "temperature": 0.5},
            {"activation": "relu"},
            {"activation": "exp", "temperature": 0.5},
        ],
    ),
}

LISTS = {
    "localized_contrastive": (
        localized_contrastive,
        [{}, {"multi_positive": "union"}, {"multi_positive": "isolated"}],
    ),
}

MUTANTS = {
    "score_based_in_batch": {
        "mask ignored": ("labels, where=where,", "labels,"),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "any difference is enough": ("min_target_diff=min_target_diff,", "min_target_diff=1e-9,"),
        "temperature ignored": ("temperature=temperature, ", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "empty lists counted": ("if where is None else", "if True else"),
        "lists with a padded document not counted": ("where.any(-1)", "where.all(-1)"),
        "weights ignored": ('"weights": weights', '"weights": None'),
        "one negative each": ("lists, max_negatives,", "lists, 1,"),
    },
    "localized_contrastive": {
        "padding counts": ("values = infonce_values(scores, positive, where,",
                           "values = infonce_values(scores, positive, torch.ones_like(where),"),
        "everything is positive": ("labels > 0", "labels > -1"),
        "several positives always meant": ("where, multi_positive)", 'where, "mean")'),
        "lists without a positive counted": ("positive.any(-1)", "where.any(-1)"),
        "weights ignored": ("weights, reduction)", "None, reduction)"),
    },
    "in_batch_psl": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where,", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "other positives ignored": ("positives=positives, ", ""),
        "whole cosines": ("temperature=2.0", "temperature=1.0"),
        "activation ignored": ("lists, activation,", 'lists, "exp",'),
        "several positives taken for one": ("positives is not None", "False"),
        "weights ignored": ("None, weights, reduction", "None, None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.in_batch_lists", "listed_candidates", "score_based_in_batch"): {
        "worse by any amount": (">= min_target_diff", "> 0"),
        "worse by more": (">= min_target_diff", "> min_target_diff"),
        "best among padding": ("torch.where(real, labels.double(), -torch.inf)", "labels.double()"),
        "the worst is the positive": ("labels.max(-1,", "labels.min(-1,"),
        "padded documents kept": ("hard_columns(documents, real,", "hard_columns(documents, None,"),
    },
    ("losses.in_batch_lists", "_listed_masks", "score_based_in_batch"): {
        "close documents are negatives": ("best | worse, others", "others, others"),
        "positives of others too": ("return owned & best", "return best"),
        "exclusions ignored": ("if hidden is None", "if True"),
    },
    ("losses.in_batch_lists", "_psl_costs", "in_batch_psl"): {
        "sign flipped": ("halves - positive", "positive - halves"),
        "temperature multiplies": ("logs * rates", "logs / rates"),
        "no 1": ("value=True", "value=False"),
    },
    ("losses.in_batch_lists", "_psl_values", "in_batch_psl"): {
        "other positives are negatives": ("where & ~positive", "where"),
        "sum over positives": (" / positive.sum(-1)", ""),
        "mask ignored": ("where & ~positive", "~positive"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

INDICES = "indices and no value: test_in_batch_lists compares them with our masks"
LATER = {
    "lir.scorebased_ib_idcs.1.0": INDICES,
    "lir.ib_idcs.all.all": INDICES,
    "lir.ib_idcs.first.first": INDICES,
    "lir.ib_idcs.first.all": INDICES,
    "lir.ib_idcs.first.all_and_non_first": INDICES,
}

# The golden families of these losses.
FAMILIES = {"in-batch index selection"}
