"""Losses of labelled batches: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case
from references import combine, log1pexp, logsumexp, similarity_of

from families.triplet import on_classes


def sides(i, embeddings, labels, where, similarity, temperature):
    """Similarities of a text to the others of its class, and to those of other classes."""
    real = [where is None or where[j] for j in range(len(embeddings))]
    good, bad = [], []
    for j in range(len(embeddings)):
        if j != i and real[i] and real[j]:
            side = good if labels[i] == labels[j] else bad
            side.append(similarity_of(embeddings[i], embeddings[j], similarity, temperature))
    return good, bad


def supcon(embeddings, labels, where=None, weights=None, similarity="cosine", temperature=0.1,
           form="out", reduction="mean"):  # fmt: skip
    """Khosla et al. 2020, equations 2 and 3."""
    values = []
    for i in range(len(embeddings)):
        good, bad = sides(i, embeddings, labels, where, similarity, temperature)
        if not good:
            values.append(None)
            continue
        logs = [s - logsumexp(good + bad) for s in good]
        if form == "out":
            values.append(-math.fsum(logs) / len(logs))
        else:
            values.append(-math.log(math.fsum(math.exp(x) for x in logs) / len(logs)))
    return combine(values, weights, reduction)


def soft_hinge(steepness, excesses):
    return log1pexp(logsumexp([steepness * x for x in excesses])) / steepness if excesses else 0.0


def multi_similarity(embeddings, labels, where=None, weights=None, alpha=2.0, beta=50.0, base=0.5,
                     epsilon=None, reduction="mean"):  # fmt: skip
    """Wang et al. 2019."""
    values = []
    for i in range(len(embeddings)):
        good, bad = sides(i, embeddings, labels, where, "cosine", 1.0)
        if (not good and not bad) or (epsilon is not None and not (good and bad)):
            values.append(None)
            continue
        if epsilon is not None:
            least, most = min(good), max(bad)
            good, bad = (
                [s for s in good if s < most + epsilon],
                [s for s in bad if s > least - epsilon],
            )
        pull = soft_hinge(alpha, [base - s for s in good])
        values.append(pull + soft_hinge(beta, [s - base for s in bad]))
    return combine(values, weights, reduction)


PAIRS = {
    "supcon": (
        supcon,
        [
            {},
            {"temperature": 0.5},
            {"form": "in", "temperature": 0.5},
            {"similarity": "dot", "temperature": 1.0},
        ],
    ),
    "multi_similarity": (
        multi_similarity,
        [
            {},
            {"alpha": 1.0, "beta": 5.0, "base": 0.2},
            {"epsilon": 0.1},
            {"epsilon": 0.5, "beta": 5.0},
        ],
    ),
}

MUTANTS = {
    "supcon": {
        "padding ignored": ("where=where, ", ""),
        "padding counted": ("class_sizes(labels, where,", "class_sizes(labels, None,"),
        "texts without a positive count": ("alike > 0", "alike >= 0"),
        "temperature ignored": ("temperature=temperature, ", ""),
        "similarity ignored": ("similarity=similarity,", ""),
        "form ignored": ('form == "out"', "True"),
        "weights ignored": ('"weights": weights, ', ""),
    },
    "multi_similarity": {
        "padding ignored": ("where=where, ", ""),
        "temperature of SupCon": ("temperature=1.0, ", ""),
        "steepness exchanged": ("alpha, beta, base, epsilon)", "beta, alpha, base, epsilon)"),
        "base ignored": ("alpha, beta, base, epsilon)", "alpha, beta, 0.5, epsilon)"),
        "never mined": ("alpha, beta, base, epsilon)", "alpha, beta, base, None)"),
        "one-sided texts mined": ("(alike > 0) & (other > 0)", "(alike + other > 0)"),
        "weights ignored": ("weights=weights, ", ""),
    },
}

SHARED = {
    ("losses.supcon", "_inside", "supcon"): {
        "number of positives forgotten": (" + count.log()", ""),
        "mask ignored": ("masked_logsumexp(scores, where)", "scores.logsumexp(-1)"),
        "positives alone": ("masked_logsumexp(scores, where)",
                            "masked_logsumexp(scores, positive)"),
    },
    ("scaling.tiling", "softmax_rows", "supcon"): {
        "sum over positives": (" / positive.sum(-1).clamp(min=1)", ""),
        "mean over everybody": ("torch.where(positive, scores, 0.0)", "scores"),
    },
    ("losses.multi_similarity", "_smooth_hinge", "multi_similarity"): {
        "no appended zero": ("-logsigmoid(-total)", "total"),
        "an empty side costs": ("torch.where(which.any(-1), -logsigmoid(-total), 0.0)",
                                "-logsigmoid(-total)"),
        "not divided": (", 0.0) / steepness", ", 0.0)"),
    },
    ("losses.multi_similarity", "_multi_similarity", "multi_similarity"): {
        "positives among the negatives": ("where & ~positive", "where"),
        "margin of mining turned": ("most + epsilon", "most - epsilon"),
        "other margin of mining turned": ("least - epsilon", "least + epsilon"),
        "all positives kept": ("positive & (scores < most + epsilon)", "positive"),
        "all negatives kept": ("negative & (scores > least - epsilon)", "negative"),
        "sign of the base": ("base - scores", "base + scores"),
    },
    ("candidates", "_labelled_masks", "supcon"): {
        "itself among the candidates": (" & ~pairs.own(rows)", ""),
        "padding among the candidates": ("real[rows, None] & column_real", "real[rows, None]"),
        "everybody is a positive": (" & (labels[rows, None] == columns)", ""),
    },
    ("candidates", "class_sizes", "multi_similarity"): {
        "itself counted": ("alike - 1", "alike"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "pml.supcon": Case("supcon", on_classes()),
    "pml.supcon.T0.5": Case("supcon", on_classes(temperature=0.5)),
    "pml.multisim": Case("multi_similarity", on_classes()),
    "pml.multisim.miner": Case("multi_similarity", on_classes(epsilon=0.1)),
}

# The golden families of these losses.
FAMILIES = {"SupCon", "MultiSimilarity"}
