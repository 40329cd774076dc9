"""The pairwise cringe loss: a loop reference and mutants."""

import math

from references import log1pexp, logsumexp

from families.preference_odds import sides


def sigmoid(x):
    return math.exp(-log1pexp(-x))


def pairwise_cringe(log_probs, labels, margin_shift=0.0, temperature=1.0, alpha=1.0, cringe=None,
                    gate_gradient=False):  # fmt: skip
    """Xu et al. 2023, the mean over pairs: σ((b - M)/τ) (-log p_w + α Cr_l)."""
    good, bad = sides(log_probs, labels)
    if not good or not bad:
        return None
    if cringe is None:
        cost = [log1pexp(u - logsumexp(good)) for u in bad]
    else:
        cost = [c for c, y in zip(cringe, labels, strict=True) if y <= 0]
    total = 0.0
    for w in good:
        for b, c in zip(bad, cost, strict=True):
            total += sigmoid((margin_shift - (w - b)) / temperature) * (-w + alpha * c)
    return total / (len(good) * len(bad))


LISTS = {
    "pairwise_cringe": (
        pairwise_cringe,
        [
            {},
            {"margin_shift": 1.5, "temperature": 0.5},
            {"margin_shift": -2.0, "temperature": 4.0, "alpha": 0.3},
            {"gate_gradient": True, "alpha": 2.0},
        ],
    ),
}

MUTANTS = {
    "pairwise_cringe": {
        "gate opens with the lead": ("/ temperature\n", "/ -temperature\n"),
        "shift on the wrong side": ("log_probs - margin_shift", "log_probs + margin_shift"),
        "temperature multiplies": ("/ temperature\n", "* temperature\n"),
        "likelihood of the bad": ("torch.where(good, -log_probs, 0.0), right",
                                  "left, torch.where(bad, -log_probs, 0.0)"),
        "cost of the good": ("left, torch.where(bad, cost, 0.0)",
                             "torch.where(good, cost, 0.0), right"),
        "given costs ignored": ("if cringe is None else cringe.to(log_probs.dtype)", ""),
        "weight dropped": ("alpha * cross_pair_sum", "cross_pair_sum"),
        "sum over pairs": (" / pairs.clamp(min=1)", ""),
        "padding is bad": ("where & (labels <= 0)", "labels <= 0"),
        "lists without a pair counted": ("pairs > 0", "pairs >= 0"),
    },
}  # fmt: skip

SHARED = {
    ("losses.cringe", "list_cringe", "pairwise_cringe"): {
        "bad responses preferred": ("keepdim=True) - log_probs", "keepdim=True) + log_probs"),
        "against all responses": ("log_probs, good, keepdim", "log_probs, good | True, keepdim"),
        "sign flipped": ("-logsigmoid", "logsigmoid"),
    },
}
