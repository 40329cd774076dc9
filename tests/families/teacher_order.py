"""Losses on the order of a teacher: loop references and mutants. No library has golden values."""

import math

from references import log1pexp, logsumexp

from families.permutation import shared_places, sums_to


def weighted_ranknet(scores, labels, sigma=1.0, weighting="inverse_rank_sum", normalize="pairs"):
    """Reddy et al. 2024; tied items share the mean of their ranks."""
    ranks = [1 + sum(z > y for z in labels) + (sum(z == y for z in labels) - 1) / 2 for y in labels]
    total, mass, count = 0.0, 0.0, 0
    for i, y in enumerate(labels):
        for j, z in enumerate(labels):
            if y > z:
                w = 1 / (ranks[i] + ranks[j]) if weighting == "inverse_rank_sum" else 1.0
                total += w * log1pexp(-sigma * (scores[i] - scores[j]))
                mass, count = mass + w, count + 1
    if count == 0:
        return None
    return total / (count if normalize == "pairs" else mass)


def importance_aware(scores, labels, offset=1.0, normalize="sum"):
    """Liu et al. 2025, on scores; tied items compete with their group and share its weights."""
    if len(set(labels)) < 2:
        return None
    by_place = [offset + 1 / math.log2(r + 1) for r in range(1, len(scores) + 1)]
    total = sum(
        w * (logsumexp([scores[j] for j in who]) - s)
        for w, s, who in zip(
            shared_places(by_place, labels), scores, sums_to(labels, "group"), strict=True
        )
    )
    return total / sum(by_place) if normalize == "weights" else total


LISTS = {
    "weighted_ranknet": (
        weighted_ranknet,
        [
            {},
            {"sigma": 2.0},
            {"weighting": "none"},
            {"normalize": "weights"},
            {"weighting": "none", "normalize": "weights", "sigma": 0.5},
        ],
    ),
    "importance_aware": (
        importance_aware,
        [{}, {"offset": 0.0}, {"normalize": "weights"}, {"normalize": "weights", "offset": 2.5}],
    ),
}

MUTANTS = {
    "weighted_ranknet": {
        "sign flipped": ("costs = -logsigmoid(sigma * (", "costs = -logsigmoid(-sigma * ("),
        "sigma dropped": ("sigma * (scores", "(scores"),
        "ties compared": ("> known", ">= known"),
        "order reversed": ("known.unsqueeze(-1) > known.unsqueeze(-2)",
                           "known.unsqueeze(-1) < known.unsqueeze(-2)"),
        "ranks from the worst": ("average_ranks(labels,", "average_ranks(-labels,"),
        "padding has a rank": ("average_ranks(labels, where)",
                               "average_ranks(labels, torch.ones_like(where))"),
        "ranks by position": ("average_ranks(labels, where)",
                              "(1.0 + labels.masked_fill(~where, -1e9).argsort(dim=-1, "
                              "descending=True, stable=True).argsort(dim=-1))"),
        "ranks from 0": ("average_ranks(labels, where)", "average_ranks(labels, where) - 1"),
        "product of ranks": ("ranks.unsqueeze(-1) + ranks", "ranks.unsqueeze(-1) * ranks"),
        "never weighted": ("pair_weights = pairs / (ranks", "pair_weights = 0 + pairs # (ranks"),
        "padding compared": (".masked_fill(~where, torch.nan)", ""),
        "padding below all": ("torch.nan", "-torch.inf"),
        "padding above all": ("torch.nan", "torch.inf"),
        "always divided by pairs": ('pairs if normalize == "pairs" else pair_weights', "pairs"),
        "sum over pairs": (" / torch.where(mass > 0, mass, 1.0)", ""),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without a pair counted": ("mass > 0, weights", "where.any(-1), weights"),
    },
    "importance_aware": {
        "sign flipped": ("(shares *", "(-shares *"),
        "mean over places": ("tied=True)).sum(-1)", "tied=True)).mean(-1)"),
        "order reversed": ("label_levels(labels)", "label_levels(-labels)"),
        "ties do not compete": ("tied=True", "tied=False"),
        "places from 2": ("partial(importance_weights, offset=offset)",
                          "lambda r: importance_weights(r + 1, offset=offset)"),
        "offset ignored": ("offset=offset", "offset=1.0"),
        "never normalized": ('normalize == "weights"', "False"),
        "padding has a weight": ("torch.where(where, tied_means(by_place, levels, where), 0.0)",
                                 "tied_means(by_place, levels, where)"),
        "mask of sums ignored": ("(scores, levels, where, ",
                                 "(scores, levels, torch.ones_like(where), "),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without an order counted": ("has_order(labels, where)", "where.any(-1)"),
    },
}  # fmt: skip

SHARED = {
    ("losses.written_order", "importance_weights", "importance_aware"): {
        "natural logarithm": (".log2()", ".log()"),
        "one rank late": ("(1 + torch.where", "(2 + torch.where"),
        "weights grow": ("1 / (1 +", "(1 +"),
        "offset dropped": ("offset + discounts", "discounts"),
    },
    ("losses.rank_surrogates", "average_ranks", "weighted_ranknet"): {
        "best of the tied": ("(before + 1 + through)", "(2 * before + 2)"),
        "worst first": ("torch.where(where, -labels", "torch.where(where, labels"),
        "padding has a rank": ("torch.where(where, -labels, torch.inf)", "-labels"),
    },
}  # fmt: skip
