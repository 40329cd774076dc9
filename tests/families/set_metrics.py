"""Losses that are metrics of the chosen set: loop references and mutants."""

import math

from families.focusing import wrong


def dice(scores, labels, alpha=0.0, smooth=1.0, squared=False):
    """Li et al. 2020; squared as in Milletari et al. 2016."""
    if not scores or (smooth == 0 and not any(y > 0 for y in labels)):
        return None
    overlap = size = smooth
    for s, y in zip(scores, labels, strict=True):
        p = wrong(-s)
        p *= wrong(s) ** alpha
        overlap += 2 * p * y
        size += p * p + y * y if squared else p + y
    return 1 - overlap / size


def anyloss(scores, labels, metric="f1", beta=1.0, amplification=73.0):
    """Han et al. 2024."""
    tp = fp = fn = tn = 0.0
    for s, y in zip(scores, labels, strict=True):
        x = amplification * (wrong(-s) - 0.5)
        tp, fn = tp + y * wrong(-x), fn + y * wrong(x)
        fp, tn = fp + (1 - y) * wrong(-x), tn + (1 - y) * wrong(x)
    relevant, others = sum(labels), len(labels) - sum(labels)
    if metric == "accuracy":
        return 1 - (tp + tn) / len(labels) if labels else None
    if relevant == 0 or (metric in ("balanced_accuracy", "g_mean") and others == 0):
        return None
    if metric == "balanced_accuracy":
        return 1 - (tp / relevant + tn / others) / 2
    if metric == "g_mean":
        return 1 - math.sqrt(tp / relevant * tn / others)
    if metric == "precision":
        return 1 - tp / (tp + fp)
    if metric == "recall":
        return 1 - tp / relevant
    precision, recall = tp / (tp + fp), tp / relevant
    return 1 - (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


LISTS = {
    "dice": (
        dice,
        [
            {},
            {"alpha": 1.0},
            {"smooth": 0.0},
            {"squared": True},
            {"alpha": 0.5, "smooth": 0.25, "squared": True},
        ],
    ),
    "anyloss": (
        anyloss,
        [
            {},
            {"beta": 2.0, "amplification": 5.0},
            {"metric": "accuracy", "amplification": 5.0},
            {"metric": "balanced_accuracy", "amplification": 5.0},
            {"metric": "g_mean", "amplification": 5.0},
            {"metric": "g_mean"},
            {"metric": "precision", "amplification": 5.0},
            {"metric": "recall", "amplification": 5.0},
        ],
    ),
}

MUTANTS = {
    "dice": {
        "hard items fade": ("logsigmoid(-scores)", "logsigmoid(scores)"),
        "alpha ignored": ("fade * torch.sigmoid", "torch.sigmoid"),
        "never squared": ("2 if squared else 1", "1"),
        "overlap once": ("2 * (chosen * labels)", "(chosen * labels)"),
        "padding chosen": ("torch.where(where, fade * torch.sigmoid(scores), 0.0)",
                           "fade * torch.sigmoid(scores)"),
        "smooth above only": (".sum(-1) + smooth\n    counted", ".sum(-1)\n    counted"),
        "lists without relevant items dropped": ("if smooth > 0 else", "if False else"),
        "lists without relevant items kept": ("if smooth > 0 else", "if True else"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "anyloss": {
        "threshold at 1": ("torch.tanh(scores / 2)", "torch.tanh((scores - 1) / 2)"),
        "probabilities not amplified": ("amplification / 2 *", "1 / 2 *"),
        "padding chosen": ("torch.where(where, torch.sigmoid(x), 0.0)", "torch.sigmoid(x)"),
        "lists without irrelevant items kept": ('"g_mean": both', '"g_mean": relevant'),
        "lists without relevant items kept": (".get(metric, relevant)",
                                              ".get(metric, where.any(-1))"),
        "gain for loss": ("1 - measure", "measure"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.set_metrics", "soft_metric", "anyloss"): {
        "recall for precision": ("tp, tp + fp", "tp, tp + fn"),
        "precision for recall": ("(tp, tp + fn)", "(tp, tp + fp)"),
        "specificity of the others": ("(tn, tn + fp)", "(tn, tn + fn)"),
        "beta counts once": ("beta**2", "beta"),
        "false alarms ignored": ("square * fn + fp", "square * fn"),
        "sum for average": ("(recall + specificity) / 2", "(recall + specificity)"),
        "arithmetic for geometric": ("torch.where(product > 0, product, 1.0).sqrt()",
                                     "(recall + specificity) / 2"),
    },
}  # fmt: skip

SAME = {
    (
        "anyloss",
        "tp, fp, fn, tn = ((y * a).mean(-1) for a in (yes, no) for y in (labels, 1 - labels))",
    ): "every metric is a ratio of counts, so that a common factor cancels",
}
