"""Preferences with degrees: loop references and mutants."""

import math

from references import log1pexp

from families.preference import moves


def chance(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def mmpo(log_probs, labels, ref_log_probs=None, beta=0.1, gamma=1.0, include_ties=False):
    """Kim et al. 2024: -p log σ(βh) - (1 - p) log σ(-βh), p = σ(γ Δy), mean over pairs."""
    compared = [(beta * h, yi - yj) for h, yi, yj in moves(log_probs, labels, ref_log_probs)]
    if include_ties:
        reference = [0.0] * len(labels) if ref_log_probs is None else ref_log_probs
        rewards = [beta * (p - q) for p, q in zip(log_probs, reference, strict=True)]
        compared += [
            (rewards[i] - rewards[j], 0.0)
            for i in range(len(labels))
            for j in range(i)
            if labels[i] == labels[j]
        ]
    costs = [chance(gamma * d) * log1pexp(-m) + chance(-gamma * d) * log1pexp(m)
             for m, d in compared]  # fmt: skip
    return math.fsum(costs) / len(costs) if costs else None


GAIN = {"exp2": lambda y: 2**y - 1, "linear": lambda y: y}


def lipo(log_probs, labels, ref_log_probs=None, beta=0.05, gain="exp2", normalize_weights=False):
    """Liu et al. 2024: Σ Δᵢⱼ log(1 + e^(-(rᵢ - rⱼ))), Δ from gains and current ranks."""
    reference = [0.0] * len(labels) if ref_log_probs is None else ref_log_probs
    rewards = [beta * (p - q) for p, q in zip(log_probs, reference, strict=True)]
    places = sorted(range(len(rewards)), key=lambda i: -rewards[i])  # stable
    discount = {i: 1 / math.log2(2 + place) for place, i in enumerate(places)}
    total = mass = 0.0
    for i, yi in enumerate(labels):
        for j, yj in enumerate(labels):
            if yi > yj:
                delta = abs(GAIN[gain](yi) - GAIN[gain](yj)) * abs(discount[i] - discount[j])
                total += delta * log1pexp(-(rewards[i] - rewards[j]))
                mass += delta
    if not mass:
        return None
    return total / mass if normalize_weights else total


LISTS = {
    "mmpo": (
        mmpo,
        [
            {},
            {"beta": 0.7},
            {"gamma": 0.3},
            {"gamma": 4.0, "beta": 2.0},
            {"include_ties": True},
            {"include_ties": True, "gamma": 0.3, "beta": 0.7},
        ],
    ),
    "lipo": (
        lipo,
        [
            {},
            {"beta": 0.7},
            {"gain": "linear"},
            {"normalize_weights": True},
            {"normalize_weights": True, "gain": "linear", "beta": 2.0},
        ],
    ),
}

TIES_BY_POSITION = {"lipo": "the weights of tied items come from their positions"}

MUTANTS = {
    "mmpo": {
        "reference ignored": ("(log_probs, ref_log_probs, beta", "(log_probs, None, beta"),
        "strength fixed": ("ref_log_probs, beta=beta)", "ref_log_probs)"),
        "scale of grades ignored": ("soft_ranks(gamma * labels", "soft_ranks(labels"),
        "scale of grades divides": ("gamma * labels", "labels / gamma"),
        "ranks of rewards": ("soft_ranks(gamma * labels", "soft_ranks(gamma * rewards"),
        "hard judge": ("total = sum_pairs(\"logistic\", rewards, order, where) "
                       "+ (excess * rewards).sum(-1)",
                       "total = sum_pairs(\"logistic\", rewards, order, where)"),
        "correction twice": ("(excess * rewards)", "(2 * excess * rewards)"),
        "ties ignored": ('"stable" if include_ties else "group"', '"group"'),
        "ties always in": ('"stable" if include_ties else "group"', '"stable"'),
        "pairs reversed": ("rewards, order, where", "rewards, -order, where"),
        "mask of the sum ignored": ("rewards, order, where)", "rewards, order, where | True)"),
        "mask of the count ignored": ("count_pairs(order, where)",
                                      "count_pairs(order, where | True)"),
        "mask of the soft ranks ignored": ("gamma * labels, where)",
                                           "gamma * labels, where | True)"),
        "mask of the hard ranks ignored": ("levels, where)", "levels, where | True)"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "empty lists counted": ("count > 0", "count >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "lipo": {
        "reference ignored": ("(log_probs, ref_log_probs, beta", "(log_probs, None, beta"),
        "strength fixed": ("ref_log_probs, beta=beta)", "ref_log_probs)"),
        "not ranked": ('by_rank(*prepare_lists(rewards, labels, where, "log_probs"))',
                       "prepare_lists(rewards, labels, where)"),
        "sign flipped": ("values = weighted_sum(rewards)", "values = weighted_sum(-rewards)"),
        "gain ignored": ("GAINS[gain](labels)", "labels"),
        "gain fixed": ("GAINS[gain]", 'GAINS["exp2"]'),
        "discounts of distances": ("swap=1.0", "distance=1.0"),
        "no discounts": ("swap=1.0", "constant=1.0"),
        "half the weights": ("swap=1.0", "swap=0.5"),
        "weights of the rewards": ("torch.zeros_like(rewards)", "rewards"),
        "logarithm left in": (" / log(2)", ""),
        "mask ignored": ("where=where, swap", "where=where | True, swap"),
        "always normalised": ("if normalize_weights:", "if True:"),
        "never normalised": ("if normalize_weights:", "if False:"),
        "empty lists counted": ("has_order(labels, where)", "where.any(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip
