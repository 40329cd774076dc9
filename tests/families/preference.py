"""Preference losses on pairs: loop references and mutants."""

from references import log1pexp


def moves(log_probs, labels, ref_log_probs):
    """(h, yᵢ, yⱼ) of every pair with yᵢ > yⱼ: nats by which i has moved ahead of j."""
    reference = [0.0] * len(labels) if ref_log_probs is None else ref_log_probs
    both = list(zip(log_probs, reference, labels, strict=True))
    return [
        ((pi - pj) - (qi - qj), yi, yj) for pi, qi, yi in both for pj, qj, yj in both if yi > yj
    ]


def pair_cost(h, beta, variant):
    """What a pair costs by the three papers."""
    if variant == "ipo":  # Azar et al. 2024, Eq. 17
        return (h - 1 / (2 * beta)) ** 2
    if variant == "hinge":  # Zhao et al. 2023, on log-ratios
        return max(0.0, 1 - beta * h)
    return log1pexp(-beta * h)  # Rafailov et al. 2023, Eq. 7


def dpo(log_probs, labels, ref_log_probs=None, beta=0.1, variant="sigmoid", label_smoothing=0.0):
    """Mean over pairs with yᵢ > yⱼ; Mitchell 2023: a share of the pairs is the other way round."""
    costs = [
        (1 - label_smoothing) * pair_cost(h, beta, variant)
        + label_smoothing * pair_cost(-h, beta, variant)
        for h, _, _ in moves(log_probs, labels, ref_log_probs)
    ]
    return sum(costs) / len(costs) if costs else None


LISTS = {
    "dpo": (
        dpo,
        [
            {},
            {"beta": 0.7},
            {"variant": "ipo"},
            {"variant": "ipo", "beta": 0.7},
            {"variant": "hinge"},
            {"variant": "hinge", "beta": 0.7},
            {"label_smoothing": 0.2},
            {"label_smoothing": 0.3, "variant": "ipo", "beta": 0.7},
            {"label_smoothing": 0.5, "variant": "hinge"},
        ],
    ),
}

MUTANTS = {
    "dpo": {
        "reference ignored": ("(log_probs, ref_log_probs, beta", "(log_probs, None, beta"),
        "reference exchanged": (
            "implicit_rewards(log_probs, ref_log_probs, beta=beta)",
            "-implicit_rewards(log_probs, ref_log_probs, beta=beta)",
        ),
        "strength fixed": ("ref_log_probs, beta=beta)", "ref_log_probs)"),
        "variant ignored": ("preference_costs(variant, rewards",
                            'preference_costs("sigmoid", rewards'),
        "variant of wrong judgements ignored": ("preference_costs(variant, -rewards",
                                                'preference_costs("sigmoid", -rewards'),
        "shares exchanged": ("(1 - label_smoothing) * total + label_smoothing * flipped",
                             "label_smoothing * total + (1 - label_smoothing) * flipped"),
        "smoothing adds": ("(1 - label_smoothing) * total", "total"),
        "wrong judgements are right": ("(variant, -rewards", "(variant, rewards"),
        "pairs reversed": ("rewards, labels, where, beta)\n    if",
                           "rewards, -labels, where, beta)\n    if"),
        "mask of the sum ignored": ("rewards, labels, where, beta)\n    if",
                                    "rewards, labels, where | True, beta)\n    if"),
        "mask of the count ignored": ("count_pairs(labels, where)",
                                      "count_pairs(labels, where | True)"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "empty lists counted": ("count > 0", "count >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.preference", "implicit_rewards", "dpo"): {
        "reference added": ("rewards - ref_log_probs", "rewards + ref_log_probs"),
        "strength divides": ("return beta * rewards", "return rewards / beta"),
        "halves kept": ("as_float(log_probs)", "log_probs"),
    },
    ("losses.preference", "preference_costs", "dpo"): {
        "target of the rewards, not of the log-ratios": ("rewards / beta", "rewards"),
        "target twice as far": ("1 / (2 * beta)", "1 / beta"),
        "target on the wrong side": ("1 / (2 * beta)", "-1 / (2 * beta)"),
        "squared hinge": ('"hinge" if', '"squared_hinge" if'),
        "sigmoid, not its logarithm": ('else "logistic"', 'else "sigmoid"'),
    },
}  # fmt: skip
