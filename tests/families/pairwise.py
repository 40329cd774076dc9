"""Pairwise losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import ALLRANK, LIR, RAX, ST, Case, first_is_relevant, on_list, two
from references import log1pexp


def ranknet(scores, labels, sigma=1.0):
    """Burges et al. 2005: mean over pairs with yᵢ > yⱼ of log(1 + e^(-σ(sᵢ - sⱼ)))."""
    total, count = 0.0, 0
    for si, yi in zip(scores, labels, strict=True):
        for sj, yj in zip(scores, labels, strict=True):
            if yi > yj:
                total += log1pexp(-sigma * (si - sj))
                count += 1
    return total / count if count else None


LISTS = {
    "ranknet": (ranknet, [{}, {"sigma": 2.5}]),
}

MUTANTS = {
    "ranknet": {
        "sign flipped": ("-torch.nn.functional.logsigmoid(", "torch.nn.functional.logsigmoid("),
        "order reversed": (
            "labels.unsqueeze(-1) > labels.unsqueeze(-2)",
            "labels.unsqueeze(-1) < labels.unsqueeze(-2)",
        ),
        "ties trained": (
            "labels.unsqueeze(-1) > labels.unsqueeze(-2)",
            "labels.unsqueeze(-1) >= labels.unsqueeze(-2)",
        ),
        "mask ignored": (" & better.unsqueeze(-1) & where.unsqueeze(-2)", ""),
        "half of the mask ignored": (" & where.unsqueeze(-2)", ""),
        "steepness ignored": ("sigma * margins", "margins"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "mean over all slots": ("torch.where(pairs, costs, 0.0).sum((-1, -2)) / count.clamp(min=1)",
                                "torch.where(pairs, costs, 0.0).mean((-1, -2))"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "empty lists counted": ("count > 0", "count >= 0"),
        "first list's labels": ("labels.unsqueeze(-2)", "labels[:1].unsqueeze(-2)"),
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

LATER = {
    "allrank.ranknet.gtdiff.single": "weights pairs by label difference",
    "allrank.ranknet.gtdiffpow.single": "weights pairs by squared label difference",
    "rax.logistic.labeldiff_lambdaweight.single": "weights pairs by label difference",
}

# The golden families of these losses.
FAMILIES = {"RankNet", "Pairwise NLL"}
