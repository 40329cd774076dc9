"""Focusing losses: loop references and mutants."""

import math

from references import log1pexp


def mean(costs):
    return sum(costs) / len(costs) if costs else None


def binary(scores, labels, cost):
    """The mean of cost(score of the right answer, is it relevant), mixed where a label is soft."""
    return mean(
        [y * cost(s, True) + (1 - y) * cost(-s, False) for s, y in zip(scores, labels, strict=True)]
    )


def wrong(s):
    """1 - p of the answer that has log-odds s."""
    return math.exp(-log1pexp(s))


def poly1(scores, labels, epsilon=1.0):
    """Leng et al. 2022."""
    return binary(scores, labels, lambda s, _: log1pexp(-s) + epsilon * wrong(s))


def focal(scores, labels, gamma=2.0, alpha=0.25):
    """Lin et al. 2017."""

    def cost(s, relevant):
        share = 1.0 if alpha is None else alpha if relevant else 1 - alpha
        return share * wrong(s) ** gamma * log1pexp(-s)

    return binary(scores, labels, cost)


def asymmetric(scores, labels, gamma_pos=0.0, gamma_neg=4.0, margin=0.05):
    """Ridnik et al. 2021."""

    def cost(s, relevant):
        if relevant:
            return wrong(s) ** gamma_pos * log1pexp(-s)
        if margin == 0:
            return wrong(s) ** gamma_neg * log1pexp(-s)
        shifted = max(wrong(s) - margin, 0.0)
        return shifted**gamma_neg * -math.log(1 - shifted) if shifted > 0 else 0.0

    return binary(scores, labels, cost)


LISTS = {
    "poly1": (poly1, [{}, {"epsilon": 0.0}, {"epsilon": -1.0}, {"epsilon": 3.0}]),
    "focal": (
        focal,
        [{}, {"gamma": 0.5}, {"alpha": None}, {"alpha": 0.75, "gamma": 0.0}],
    ),
    "asymmetric": (
        asymmetric,
        [
            {},
            {"gamma_pos": 1.5},
            {"gamma_neg": 1.0},
            {"margin": 0.2},
            {"margin": 0.0, "gamma_pos": 1.0, "gamma_neg": 2.0},
        ],
    ),
}

COMMON = {
    "mask ignored": ("irrelevant, where, weights",
                     "irrelevant, torch.ones_like(where), weights"),
    "weights ignored": ("weights, reduction", "None, reduction"),
}  # fmt: skip
MUTANTS = {
    "poly1": {
        "epsilon ignored for relevant": ("epsilon * torch.sigmoid(-scores)", "0"),
        "epsilon ignored for irrelevant": ("epsilon * torch.sigmoid(scores)", "0"),
        "the wrong probability": ("torch.sigmoid(-scores)", "torch.sigmoid(scores)"),
        "answers exchanged": ("- log_odds(scores)", "- log_odds(-scores)"),
        **COMMON,
    },
    "focal": {
        "alpha ignored": ("(alpha, 1 - alpha)", "(1.0, 1.0)"),
        "alpha exchanged": ("(alpha, 1 - alpha)", "(1 - alpha, alpha)"),
        "alpha always": ("if alpha is None", "if False"),
        "hard items fade": ("(gamma * log_not).exp()", "(gamma * log_p).exp()"),
        "power ignored": ("(gamma * log_p).exp()", "log_p.exp()"),
        **COMMON,
    },
    "asymmetric": {
        "powers exchanged": ("(gamma_pos * log_odds", "(gamma_neg * log_odds"),
        "margin ignored": ("torch.sigmoid(scores) - margin", "torch.sigmoid(scores)"),
        "never a margin": ("if margin > 0:", "if False:"),
        "easy items cost": ("torch.where(hard, costs, 0.0)", "costs"),
        "unsafe power": ("torch.where(hard, shifted, 0.5)", "shifted"),
        **COMMON,
    },
}  # fmt: skip
