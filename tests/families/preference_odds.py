"""Preference losses on odds: loop references and mutants."""

import math

from references import log1pexp

EPSILON = 2.0**-52  # What certainty lacks in float64.


def odds(u):
    """log p / (1 - p)."""
    u = min(u, -EPSILON)
    rest = math.log(-math.expm1(u)) if u > -math.log(2) else math.log1p(-math.exp(u))
    return u - rest


def sides(log_probs, labels):
    """The log-probabilities of good and of bad responses."""
    good = [u for u, y in zip(log_probs, labels, strict=True) if y > 0]
    bad = [u for u, y in zip(log_probs, labels, strict=True) if y <= 0]
    return good, bad


def mean(xs):
    xs = list(xs)
    return math.fsum(xs) / len(xs) if xs else 0.0


def orpo(log_probs, labels, lam=0.1, beta=1.0, nll=True):
    """Hong et al. 2024, the mean over pairs: -log p_w - λ log σ(β(odds_w - odds_l))."""
    good, bad = sides(log_probs, labels)
    if not good or not (bad or nll):
        return None
    pairs = mean(log1pexp(-beta * (odds(w) - odds(b))) for w in good for b in bad)
    return lam * pairs - (mean(good) if nll else 0.0)


def asft(log_probs, labels, lam=1.0, beta=1.0, nll=True):
    """Wang et al. 2024: -log p_w - λ log σ(β odds_w) - λ log σ(-β odds_l), a mean per side."""
    good, bad = sides(log_probs, labels)
    if not log_probs:
        return None
    judged = mean(log1pexp(-beta * odds(w)) for w in good)
    judged += mean(log1pexp(beta * odds(b)) for b in bad)
    return lam * judged - (mean(good) if nll else 0.0)


LISTS = {
    "orpo": (orpo, [{}, {"lam": 2.0, "beta": 0.5}, {"lam": 0.7, "nll": False}, {"lam": 0.0}]),
    "asft": (asft, [{}, {"lam": 0.3, "beta": 2.0}, {"nll": False, "beta": 0.5}, {"lam": 0.0}]),
}

MUTANTS = {
    "orpo": {
        "pairs reversed": ("good.to(odds.dtype), bad.to(odds.dtype)",
                           "bad.to(odds.dtype), good.to(odds.dtype)"),
        "log-probabilities in place of odds": ("beta * log_odds(log_probs)", "beta * log_probs"),
        "steepness divides": ("beta * log_odds", "1 / beta * log_odds"),
        "sum over pairs": (" / pairs.clamp(min=1)", ""),
        "likelihood of the bad": ("mean_over(log_probs, good)", "mean_over(log_probs, bad)"),
        "likelihood always": ("if nll:", "if True:"),
        "padding is bad": ("where & (labels <= 0)", "labels <= 0"),
        "lists of good responses dropped": ("good.any(-1) if nll else pairs > 0", "pairs > 0"),
        "lists of bad responses counted": ("good.any(-1) if nll", "where.any(-1) if nll"),
    },
    "asft": {
        "bad responses are good": ("logsigmoid(-odds)", "logsigmoid(odds)"),
        "one mean for both sides": (
            "mean_over(logsigmoid(odds), good) + mean_over(logsigmoid(-odds), bad)",
            "mean_over(torch.where(good, logsigmoid(odds), logsigmoid(-odds)), where)",
        ),
        "log-probabilities in place of odds": ("beta * log_odds(log_probs)", "beta * log_probs"),
        "steepness divides": ("beta * log_odds", "1 / beta * log_odds"),
        "likelihood always": ("if nll:", "if True:"),
        "lists without a good response dropped": ("where.any(-1)", "good.any(-1)"),
        "empty lists counted": ("where.any(-1)", "where.any(-1) | True"),
    },
}  # fmt: skip

SHARED = {
    ("losses.preference_odds", "log_odds", "orpo"): {
        "no cap": (" - (log_probs + epsilon).clamp(min=0).detach()", ""),
        "odds against": ("log_probs - torch.log", "torch.log"),
        "probability for log-probability": ("torch.expm1(log_probs)", "log_probs"),
    },
    ("losses.preference_odds", "mean_over", "asft"): {
        "sum": (" / chosen.sum(-1).clamp(min=1)", ""),
        "mean over slots": ("chosen.sum(-1).clamp(min=1)", "chosen.shape[-1]"),
        "all items": ("torch.where(chosen, values, 0.0)", "values"),
    },
}
