"""Pairwise losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import ALLRANK, LIR, RAX, ST, Case, first_is_relevant, on_list, two
from references import log1pexp


def weight(better, worse, pair_weights):
    """What a pair weighs, by its labels."""
    return {
        "none": 1.0,
        "label_diff": better - worse,
        "squared_label_diff": abs(better**2 - worse**2),
    }[pair_weights]


def ordered(scores, labels):
    """(sᵢ - sⱼ, yᵢ, yⱼ) for every pair with yᵢ > yⱼ."""
    both = list(zip(scores, labels, strict=True))
    return [(si - sj, yi, yj) for si, yi in both for sj, yj in both if yi > yj]


def mean(costs):
    return math.fsum(costs) / len(costs) if costs else None


def ranknet(scores, labels, sigma=1.0, pair_weights="none"):
    """Burges et al. 2005: mean over pairs with yᵢ > yⱼ of wᵢⱼ log(1 + e^(-σ(sᵢ - sⱼ)))."""
    return mean(
        [
            weight(yi, yj, pair_weights) * log1pexp(-sigma * d)
            for d, yi, yj in ordered(scores, labels)
        ]
    )


LISTS = {
    "ranknet": (
        ranknet,
        [
            {},
            {"sigma": 2.5},
            {"pair_weights": "label_diff"},
            {"pair_weights": "squared_label_diff"},
        ],
    ),
}

PAIR_MEAN = {
    "pairs reversed": ("scores, labels, where", "scores, -labels, where"),
    "mask of the count ignored": ("count_pairs(labels, where)",
                                  "count_pairs(labels, where | True)"),
    "sum over pairs": (" / count.clamp(min=1)", ""),
    "weights ignored": ("weights, reduction", "None, reduction"),
    "empty lists counted": ("count > 0", "count >= 0"),
}  # fmt: skip

MUTANTS = {
    "ranknet": {
        **PAIR_MEAN,
        "sign flipped": ("sigma * scores", "-sigma * scores"),
        "pairs reversed": ("sigma * scores, labels, where", "sigma * scores, -labels, where"),
        "steepness ignored": ("sigma * scores", "scores"),
        "steepness divides": ("sigma * scores", "scores / sigma"),
        "pair weights ignored": ("where, pair_weights", 'where, "none"'),
        "mask of the sum ignored": ("where, pair_weights", "where | True, pair_weights"),
        "always weighted": ("where, pair_weights", 'where, "label_diff"'),
        "another cost": ('"logistic"', '"squared_hinge"'),
        "first list's labels": ("labels, where, pair_weights",
                                "labels[:1].expand_as(labels), where, pair_weights"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.ce.ranknet.single": Case("ranknet", on_list(), library=ST),
    "st.ce.ranknet.natural.sigma2.single": Case(
        "ranknet", on_list(sigma=2.0), because="reduction_log='natural' takes off the / ln 2"
    ),
    "allrank.ranknet.single": Case("ranknet", on_list(), library=ALLRANK),
    "lir.ranknet.single": Case("ranknet", on_list(), library=LIR),
    "lir.ranknet.T2.single": Case(
        "ranknet", on_list(sigma=2.0), library=LIR, because="its temperature multiplies"
    ),
    "rax.pairwise_logistic_loss.single": Case("ranknet", on_list(), library=RAX),
    "allrank.ranknet.gtdiff.single": Case("ranknet", on_list(pair_weights="label_diff")),
    "allrank.ranknet.gtdiffpow.single": Case("ranknet", on_list(pair_weights="squared_label_diff")),
    "rax.logistic.labeldiff_lambdaweight.single": Case(
        "ranknet", on_list(pair_weights="label_diff")
    ),
    "pytorchltr.PairwiseLogisticLoss": Case(
        "ranknet",
        lambda fn, x: torch.stack(
            [
                fn(x["scores"][0], x["labels"][0]) * 6 / math.log(2),  # six pairs
                fn(x["scores"][1, :3], x["labels"][1, :3]) * 2 / math.log(2),  # two pairs
            ]
        ),
        because="sums over pairs, base 2",
    ),
    "splade.pairwise_nll": Case(
        "ranknet",
        lambda fn, x: fn(two(x), first_is_relevant(two(x))),
        because="a softmax over two items is the logistic function of their margin",
    ),
}

# The golden families of these losses.
FAMILIES = {"RankNet", "Pairwise NLL"}
