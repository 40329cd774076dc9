"""Regression losses: loop references, mutants, and the numbers of other libraries."""

import torch
from peers import ALLRANK, RAX, ST, Case, on_list
from references import log1pexp


def mean(costs):
    return sum(costs) / len(costs) if costs else None


def mse(scores, labels):
    """Cossock and Zhang 2006."""
    return mean([(s - y) ** 2 for s, y in zip(scores, labels, strict=True)])


def huber(scores, labels, delta=1.0):
    """Huber 1964."""
    costs = []
    for s, y in zip(scores, labels, strict=True):
        error = abs(s - y)
        costs.append(error**2 / 2 if error <= delta else delta * (error - delta / 2))
    return mean(costs)


def ordinal(scores, labels, thresholds=(0.0,)):
    """Frank and Hall 2001: for every grade k, is the item at least k?"""
    costs = []
    for s, y in zip(scores, labels, strict=True):
        total = 0.0
        for k, z in enumerate(s if isinstance(s, list) else [s - t for t in thresholds], start=1):
            target = min(1.0, max(0.0, y - k + 1))
            total += target * log1pexp(-z) + (1 - target) * log1pexp(z)
        costs.append(total)
    return mean(costs)


LISTS = {
    "mse": (mse, [{}]),
    "huber": (huber, [{}, {"delta": 0.3}, {"delta": 5.0}]),
    "ordinal": (ordinal, [{}, {"thresholds": (-0.5, 0.25, 1.5)}]),
}

MUTANTS = {
    "mse": {
        "sign flipped": ("scores - labels", "scores + labels"),
        "not squared": (".square()", ".abs()"),
        "mask ignored": ("where, weights", "torch.ones_like(where), weights"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "huber": {
        "threshold ignored": ("delta=delta", "delta=1.0"),
        "labels ignored": ("(scores, labels, reduction", "(scores, 0 * labels, reduction"),
        "smooth l1": ("huber_loss(scores, labels, reduction=\"none\", delta=delta)",
                      "smooth_l1_loss(scores, labels, reduction=\"none\", beta=delta)"),
        "mask ignored": ("costs, where,", "costs, torch.ones_like(where),"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "ordinal": {
        "answers exchanged": ("-targets * log_odds(logits)", "-targets * log_odds(-logits)"),
        "thresholds ignored": ("logits = logits - torch", "logits = logits - 0 * torch"),
        "thresholds flipped": ("logits = logits - torch", "logits = logits + torch"),
        "grades from one on": ("labels.unsqueeze(-1) - steps", "labels.unsqueeze(-1) - steps - 1"),
        "targets not clipped": (".clamp(0, 1)", ".clamp(0)"),
        "mean over grades": ("costs.sum(-1)", "costs.mean(-1)"),
        "padding kept": ("torch.where(where.unsqueeze(-1), logits, 0.0)", "logits"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SAME = {
    ("ordinal", "separate = scores.ndim == labels.ndim - 1"): "one log-odds per grade has its own "
    "tests in test_regression.py",
}

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.ce.mse": Case("mse", on_list(), library=ST),
    "rax.pointwise_mse_loss.single": Case("mse", on_list(), library=RAX),
    "allrank.rmse.single": Case("mse", on_list(), library=ALLRANK),
    "allrank.ordinal": Case(
        "ordinal",
        lambda fn, x: fn(torch.logit(x["scores"]), x["labels"]),
        because="takes probabilities",
    ),
}

# The golden families of these losses.
FAMILIES = {"Pointwise MSE", "Pointwise RMSE", "Ordinal"}
