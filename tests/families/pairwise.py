"""Pairwise losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import ALLRANK, LIR, RAX, ST, Case, first_is_relevant, on_list, two
from references import log1pexp, logsumexp


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


def hinge(scores, labels, margin=1.0):
    """Joachims 2002: mean over pairs with yᵢ > yⱼ of the slack max(0, m - (sᵢ - sⱼ))."""
    return mean([max(0.0, margin - d) for d, _, _ in ordered(scores, labels)])


def squared_hinge(scores, labels, margin=1.0):
    """Chapelle and Keerthi 2010: the same with squared slacks."""
    return mean([max(0.0, margin - d) ** 2 for d, _, _ in ordered(scores, labels)])


def soft_zero_one(scores, labels, temperature=1.0):
    """rax: mean over pairs with yᵢ > yⱼ of sigmoid(-(sᵢ - sⱼ) / τ)."""
    costs = []
    for d, _, _ in ordered(scores, labels):
        e = math.exp(-abs(d) / temperature)
        costs.append(e / (1 + e) if d > 0 else 1 / (1 + e))
    return mean(costs)


def pairwise_mse(scores, labels):
    """rax, without the pairs i = i: mean of ((sᵢ - sⱼ) - (yᵢ - yⱼ))²."""
    both = list(enumerate(zip(scores, labels, strict=True)))
    return mean(
        [((si - sj) - (yi - yj)) ** 2 for i, (si, yi) in both for j, (sj, yj) in both if i != j]
    )


def constant_margin_mse(scores, labels, margin=1.0):
    """Lightning IR: mean over pairs with yᵢ > yⱼ of ((sᵢ - sⱼ) - m)²."""
    return mean([(d - margin) ** 2 for d, _, _ in ordered(scores, labels)])


def supervised_margin_mse(scores, labels):
    """Lightning IR: mean over pairs with yᵢ > yⱼ of ((sᵢ - sⱼ) - (yᵢ - yⱼ))²."""
    return mean([(d - (yi - yj)) ** 2 for d, yi, yj in ordered(scores, labels)])


def kinds(scores, labels):
    """Scores of the relevant items, and of the others."""
    both = list(zip(scores, labels, strict=True))
    return [s for s, y in both if y > 0], [s for s, y in both if y <= 0]


SURROGATES = {
    "logistic": lambda d: log1pexp(-d),
    "hinge": lambda d: max(0.0, 1 - d),
    "squared_hinge": lambda d: max(0.0, 1 - d) ** 2,
    "sigmoid": lambda d: 1 - 1 / (1 + math.exp(-d)) if d < 30 else math.exp(-d),
}


def bpr(scores, labels):
    """Rendle et al. 2009: mean over relevant i and other j of -log σ(sᵢ - sⱼ)."""
    relevant, rest = kinds(scores, labels)
    return mean([log1pexp(sj - si) for si in relevant for sj in rest])


def macro_auc(scores, labels, surrogate="logistic", weighting="pairwise"):
    """Wu et al. 2023: φ over pairs, or over items against the threshold 0."""
    phi, (relevant, rest) = SURROGATES[surrogate], kinds(scores, labels)
    if not relevant or not rest:
        return None
    if weighting == "pairwise":
        return mean([phi(si - sj) for si in relevant for sj in rest])
    above, below = [phi(s) for s in relevant], [phi(-s) for s in rest]
    return mean(above + below) if weighting == "univariate" else mean(above) + mean(below)


def psl(scores, labels, activation="tanh", temperature=1.0, dro_temperature=1.0,
        include_positive=True):  # fmt: skip
    """Yang et al. 2024: mean over relevant i of log Σⱼ φ((sⱼ - sᵢ)/τ)^(1/τ*), with our 1."""
    phi = {
        "tanh": lambda x: 2 / (1 + math.exp(-2 * x)) if x > -300 else 0.0,
        "atan": lambda x: max(0.0, 1 + math.atan(x)),
        "relu": lambda x: max(0.0, 1 + x),
        "exp": math.exp,
    }[activation]
    relevant, rest = kinds(scores, labels)
    if not relevant or not rest:
        return None
    costs = []
    for si in relevant:
        powers = [phi((sj - si) / temperature) ** (1 / dro_temperature) for sj in rest]
        costs.append(math.log(include_positive + math.fsum(powers)))
    return mean(costs)


def ranklist(scores, labels, skips=(1,), min_margin=0.0, lse=False):
    """After Naini et al. 2025: log(1 + e^(-(sᵢ - sⱼ))) over pairs a skip of levels apart."""
    level = {y: k for k, y in enumerate(sorted(set(labels)))}
    leads = [
        d
        for d, yi, yj in ordered(scores, labels)
        if (skips is None or level[yi] - level[yj] in skips) and yi - yj > min_margin
    ]
    if lse:
        return logsumexp([0.0, *(-d for d in leads)]) if leads else None
    return mean([log1pexp(-d) for d in leads])


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
    "hinge": (hinge, [{}, {"margin": 2.5}, {"margin": 0.25}]),
    "squared_hinge": (squared_hinge, [{}, {"margin": 2.5}]),
    "soft_zero_one": (soft_zero_one, [{}, {"temperature": 0.5}]),
    "pairwise_mse": (pairwise_mse, [{}]),
    "constant_margin_mse": (constant_margin_mse, [{}, {"margin": 2.5}]),
    "supervised_margin_mse": (supervised_margin_mse, [{}]),
    "bpr": (bpr, [{}]),
    "macro_auc": (
        macro_auc,
        [
            {},
            {"surrogate": "hinge"},
            {"surrogate": "squared_hinge"},
            {"surrogate": "sigmoid"},
            {"weighting": "univariate"},
            {"weighting": "reweighted"},
            {"weighting": "reweighted", "surrogate": "hinge"},
        ],
    ),
    "psl": (
        psl,
        [
            {},
            {"temperature": 2.0},
            {"dro_temperature": 0.5},
            {"include_positive": False},
            {"activation": "exp"},
            {"activation": "exp", "include_positive": False, "dro_temperature": 2.0},
            {"activation": "atan"},
            {"activation": "relu", "temperature": 2.0},
        ],
    ),
    "ranklist": (
        ranklist,
        [
            {},
            {"skips": (1, 2)},
            {"skips": None},
            {"skips": None, "min_margin": 1.0},
            {"lse": True},
            {"lse": True, "skips": (1, 3)},
        ],
    ),
}

# What can go wrong in any mean over label-ordered pairs.
PAIR_MEAN = {
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
    "hinge": {
        **PAIR_MEAN,
        "pairs reversed": ("scores / margin, labels", "scores / margin, -labels"),
        "not scaled back": ("margin * sum_pairs", "sum_pairs"),
        "margin fixed": ("scores / margin", "scores"),
        "squared": ('"hinge"', '"squared_hinge"'),
        "mask of the sum ignored": ("where)\n    count", "where | True)\n    count"),
    },
    "squared_hinge": {
        **PAIR_MEAN,
        "pairs reversed": ("scores / margin, labels", "scores / margin, -labels"),
        "scaled back once": ("margin**2", "margin"),
        "margin fixed": ("scores / margin", "scores"),
        "not squared": ('"squared_hinge"', '"hinge"'),
        "mask of the sum ignored": ("where)\n    count", "where | True)\n    count"),
    },
    "soft_zero_one": {
        **PAIR_MEAN,
        "pairs reversed": ("temperature, labels", "temperature, -labels"),
        "temperature multiplies": ("scores / temperature", "scores * temperature"),
        "logistic": ('"sigmoid"', '"logistic"'),
        "mask of the sum ignored": ("where)\n    count", "where | True)\n    count"),
    },
    "pairwise_mse": {
        "sign flipped": ("scores - labels", "scores + labels"),
        "labels ignored": ("scores - labels", "scores"),
        "mask ignored": ("scores - labels, where", "scores - labels, where | True"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "constant_margin_mse": {
        **PAIR_MEAN,
        "pairs reversed": ("(scores, labels, where, margin)", "(scores, -labels, where, margin)"),
        "margin flipped": ("where, margin)", "where, -margin)"),
        "margin dropped": (", where, margin)", ", where)"),
        "mask of the sum ignored": ("where, margin)", "where | True, margin)"),
    },
    "supervised_margin_mse": {
        **PAIR_MEAN,
        "ties compared": ("scores - labels, labels, where",
                          "scores - labels, scores.argsort(-1).argsort(-1).double(), where"),
        "sign flipped": ("scores - labels", "scores + labels"),
        "labels ignored": ("scores - labels", "scores"),
        "mask of the sum ignored": ("where)\n    count", "where | True)\n    count"),
    },
    "bpr": {
        "kinds exchanged": ("scores, relevant, rest", "scores, rest, relevant"),
        "all pairs": ("scores, relevant, rest", "scores, relevant, where.to(scores.dtype)"),
        "another cost": ('"logistic"', '"squared_hinge"'),
        "mask ignored": ("relevant_and_rest(labels, where)",
                         "relevant_and_rest(labels, where | True)"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "empty lists counted": ("count > 0", "count >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "macro_auc": {
        "kinds exchanged": ("cross_pair_sum(surrogate, scores, relevant, rest)",
                            "cross_pair_sum(surrogate, scores, rest, relevant)"),
        "surrogate ignored": ("cross_pair_sum(surrogate", 'cross_pair_sum("logistic"'),
        "surrogate of the threshold ignored": ("threshold_sums(surrogate",
                                               'threshold_sums("logistic"'),
        "never reweighted": (' if weighting == "univariate" else (some, others)', ""),
        "classes exchanged": ("else (some, others)", "else (others, some)"),
        "sum over pairs": (" / (some * others)", ""),
        "mask ignored": ("relevant_and_rest(labels, where)",
                         "relevant_and_rest(labels, where | True)"),
        "one kind counted": (" & rest.any(-1)", ""),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "psl": {
        "lead reversed": ("scores.unsqueeze(-2) - scores.unsqueeze(-1)",
                          "scores.unsqueeze(-1) - scores.unsqueeze(-2)"),
        "temperature dropped": (") / temperature", ")"),
        "robust temperature dropped": ("logs / dro_temperature", "logs"),
        "one of all items": ("rest = where & ~relevant", "rest = where"),
        "mask of negatives ignored": ("rest = where & ~relevant", "rest = ~relevant"),
        "mask of relevant items ignored": ("where & (labels > 0)", "labels >= 0"),
        "terms of 0 kept": ("kept & rest", "torch.ones_like(kept) & rest"),
        "positive left out": ("value=include_positive", "value=False"),
        "positive always in": ("value=include_positive", "value=True"),
        "sum over relevant items": (" / relevant.sum(-1).clamp(min=1)", ""),
        "one kind counted": (" & rest.any(-1)", ""),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "ranklist": {
        "sign flipped": ("-torch.nn.functional.logsigmoid(margins)",
                         "torch.nn.functional.logsigmoid(margins)"),
        "sign of the log-sum-exp flipped": ("pad(-margins", "pad(margins"),
        "no 1 in the log-sum-exp": ("(0, 1), value=True", "(0, 1), value=False"),
        "skips ignored": ("where, skips, min_margin", "where, None, min_margin"),
        "margin ignored": ("where, skips, min_margin", "where, skips, 0.0"),
        "mask ignored": ("(labels, where, skips", "(labels, where | True, skips"),
        "mean over slots": ("costs.sum((-1, -2)) / count.clamp(min=1)", "costs.mean((-1, -2))"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
    },
}  # fmt: skip

SHARED = {
    ("losses.auc", "relevant_and_rest", "bpr"): {
        "all but the best relevant": ("labels > 0", "labels >= 0"),
        "padding is relevant": ("where & (labels > 0)", "(labels > 0) | ~where"),
        "padding is among the rest": ("(where & ~relevant)", "(~relevant)"),
    },
    ("losses.auc", "threshold_sums", "macro_auc"): {
        "threshold at 1": ("(0, 1)) for x in", "(0, 1), value=1.0) for x in"),
        "no threshold": ("value=1.0", "value=0.0"),
        "all items are thresholds": ("torch.zeros_like", "torch.ones_like"),
        "sides exchanged": ("scores, threshold, rest", "scores, rest, threshold"),
    },
    ("losses.ranklist", "levels", "ranklist"): {
        "one level per item": ("ordered != ordered.roll(1, -1)", "torch.ones_like(where)"),
        "levels stay sorted": (".gather(-1, order.argsort(-1))", ""),
        "levels scattered": ("order.argsort(-1)", "order"),
    },
    ("losses.ranklist", "skip_pairs", "ranklist"): {
        "order reversed": ("level.unsqueeze(-1) - level.unsqueeze(-2)",
                           "level.unsqueeze(-2) - level.unsqueeze(-1)"),
        "margin reached is enough": ("> min_margin", ">= min_margin"),
        "all of the skips": (".any(0)", ".all(0)"),
    },
    ("losses.psl", "log_activation", "psl"): {
        "logistic, not tanh": ("log(2) + ", ""),
        "width of tanh": ("2 * x", "x"),
        "atan is relu": ('x.atan() if activation == "atan" else x', "x"),
        "not cut": (".log(), phi > 0", ".log(), everywhere"),
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
    "rax.pairwise_hinge_loss.single": Case("hinge", on_list(), library=RAX),
    "rax.pairwise_soft_zero_one_loss.single": Case("soft_zero_one", on_list(), library=RAX),
    "rax.pairwise_mse_loss.single": Case("pairwise_mse", on_list(), library=RAX),
    "pytorchltr.PairwiseHingeLoss": Case(
        "hinge",
        lambda fn, x: torch.stack(
            [
                fn(x["scores"][0], x["labels"][0]) * 6,  # six pairs
                fn(x["scores"][1, :3], x["labels"][1, :3]) * 2,  # two pairs
            ]
        ),
        because="sums over pairs",
    ),
    "splade.bpr": Case(
        "bpr", lambda fn, x: fn(two(x), first_is_relevant(two(x))), library="splade"
    ),
    "splade.pairwise_nll": Case(
        "ranknet",
        lambda fn, x: fn(two(x), first_is_relevant(two(x))),
        because="a softmax over two items is the logistic function of their margin",
    ),
}

LATER = {
    "pytorchltr.PairwiseDCGHingeLoss": "-1 / log(2 + hinge): a transform of a sum of hinges",
    "rax.pairwise_qr_loss.single": "a quantile of margin errors, not asked for",
}

# The golden families of these losses.
FAMILIES = {"RankNet", "Pairwise NLL", "BPR", "Pairwise hinge", "Pairwise soft 0-1", "Pairwise MSE",
            "Pairwise quantile"}  # fmt: skip
