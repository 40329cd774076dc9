"""LambdaLoss: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import ALLRANK, PYTORCHLTR, RAX, ST, Case, on_list
from references import dcg as dcg_of
from references import log1pexp, mrr, precision


def swapped(scores, i, j):
    """The scores of two items exchanged."""
    scores = list(scores)
    scores[i], scores[j] = scores[j], scores[i]
    return scores


def distinct(scores):
    """Scores with the same order, where ties are broken by position."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [float(-order.index(i)) for i in range(len(scores))]


def pair_weight(i, j, scores, labels, weighting, k, mu, gain):
    """wᵢⱼ from the table of the LambdaLoss paper; the metrics' weights by actually swapping."""
    places = distinct(scores)
    r = [1 - int(p) for p in places]
    g = [2.0**y - 1 if gain == "exp2" else y for y in labels]
    best = dcg_of(sorted(labels, reverse=True), k, gain)
    G = [x / best if best > 0 else 0.0 for x in g]
    if weighting == "none":
        return 1.0
    if weighting == "arp1":
        return labels[i]
    if weighting == "arp2":
        return labels[i] - labels[j]
    if weighting == "ndcg1":
        return G[i] / math.log2(1 + r[i])
    if weighting == "precision":
        y = [float(x >= 1) for x in labels]
        return abs(precision(places, y, k) - precision(swapped(places, i, j), y, k))
    if weighting == "mrr":
        y = [float(x >= 1) for x in labels]
        return abs(mrr(places, y) - mrr(swapped(places, i, j), y))
    rho = abs(1 / math.log2(1 + r[i]) - 1 / math.log2(1 + r[j]))
    apart = abs(r[i] - r[j])
    delta = 1 / math.log2(1 + apart) - 1 / math.log2(2 + apart)
    if weighting == "dcg":
        return rho * abs(g[i] - g[j])
    factor = {"lambdarank": rho, "ndcg2": delta, "ndcg2pp": rho + mu * delta}[weighting]
    return factor * abs(G[i] - G[j])


def lambda_(
    scores, labels, weighting="ndcg2pp", k=None, sigma=1.0, mu=10.0, gain="exp2", both=False
):
    """Wang et al. 2018: Σ over pairs of wᵢⱼ log(1 + e^(-σ(sᵢ - sⱼ))), hard ranks in w.

    `both` keeps only pairs with both items among the first k, as allRank does.
    """
    r = [1 - int(p) for p in distinct(scores)]
    n = len(scores)
    grades = [float(y >= 1) for y in labels] if weighting in ("precision", "mrr") else labels
    total, counted = 0.0, False
    for i in range(n):
        for j in range(n):
            if weighting in ("arp1", "ndcg1"):
                counted = counted or labels[i] > 0
            elif grades[i] > grades[j]:
                counted = True
            else:
                continue
            kept = k is None or weighting == "precision" or (max if both else min)(r[i], r[j]) <= k
            if kept:
                w = pair_weight(i, j, scores, labels, weighting, k, mu, gain)
                total += w * log1pexp(-sigma * (scores[i] - scores[j]))
    return total if counted else None


LISTS = {
    "lambda": (lambda_, [
        {}, {"k": 2}, {"k": 1, "sigma": 2.5}, {"mu": 0.0}, {"mu": 3.0, "gain": "linear"},
        *({"weighting": w, "sigma": 0.5} for w in ("none", "arp1", "arp2", "ndcg1", "mrr")),
        *({"weighting": w, "k": 2} for w in ("none", "arp1", "arp2", "ndcg1")),
        *({"weighting": "mrr", "k": k} for k in (1, 2)),
        *({"weighting": w, "gain": "linear"} for w in ("ndcg1", "ndcg2", "dcg")),
        {"weighting": "lambdarank"}, {"weighting": "lambdarank", "k": 1},
        {"weighting": "ndcg2", "k": 3}, {"weighting": "dcg"}, {"weighting": "dcg", "k": 1},
        {"weighting": "precision", "k": 1}, {"weighting": "precision", "k": 3},
    ]),
}  # fmt: skip

# Ranks of tied scores go by position, and the weights with them.
TIES_BY_POSITION = {"lambda": "the weights of tied items come from their positions"}

MUTANTS = {
    "lambda": {
        "not sorted": ("by_rank(*prepare_lists(scores, labels, where))",
                       "prepare_lists(scores, labels, where)"),
        "steepness ignored": ("sigma * scores, labels", "scores, labels"),
        "cutoff ignored": ("where, k, mu, gain)", "where, k if weighting == 'precision' else None, "
                           "mu, gain)"),
        "share of ndcg2 ignored": ("k, mu, gain)", "k, 10.0, gain)"),
        "gain ignored": ("k, mu, gain)", 'k, mu, "exp2")'),
        "graded labels for binary metrics": ('("precision", "mrr")', "()"),
        "relevant from 2 on": ("labels >= 1", "labels >= 2"),
        "padding gives a list its order": ("has_order(labels, where)",
                                           "has_order(labels, where | True)"),
        "lists without order counted": ("has_order(labels, where)", "where.any(-1)"),
        "order asked of item weights": ('("arp1", "ndcg1")', "()"),
        "list weights ignored": ("counted, weights, reduction", "counted, None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("lambda_sums", "by_rank", "lambda"): {
        "worst first": ("descending=True", "descending=False"),
        "padding among the items": (".masked_fill(~where, -torch.inf)", ""),
        "labels not moved": ("labels.gather(-1, order)", "labels"),
    },
    ("lambda_sums", "rank_factors", "lambda"): {
        "discount one rank off": ("(1 + ranks).log2()", "(2 + ranks).log2()"),
        "distance one off": ("(rows, 0)", "(rows - 1, 1)"),
        "distances reversed": (".flip(0)", ""),
        "every pair twice": (".triu(1)", ""),
        "signs of ranks": ("discounts[first:last, None] - discounts[first:]",
                           "discounts[first:last, None] + discounts[first:]"),
    },
    ("lambda_sums", "_tile", "lambda"): {
        "signs of grades": ("pulls.abs()", "pulls.clone()"),
        "padding compared": (".mul_(real[:, None, top:])", ""),
        "inverted pairs free": ("lead.mul_(pulls)", "lead.mul_(0)"),
        "rows for columns": ("pulls.sum(-2), pulls.sum(-1)", "pulls.sum(-1), pulls.sum(-2)"),
    },
    ("lambda_sums", "_sweep", "lambda"): {
        "gradient reversed": ("columns\n", "-columns\n"),
        "upper items left alone": ("-= their_rows", "-= 0 * their_rows"),
    },
    ("lambda_sums", "rank_pair_sum", "lambda"): {
        "cutoff ignored": ("count if k is None else min(k, count)", "count"),
        "cutoff one too low": ("min(k, count)", "min(k + 1, count)"),
    },
    ("losses.lambdarank", "normalized_gains", "lambda"): {
        "not normalised": (" / torch.where(best > 0, best, 1.0)", ""),
        "order of the list": ("labels.sort(descending=True).values", "labels"),
        "maximum of the whole list": ("k, gain)", "None, gain)"),
    },
    ("losses.lambdarank", "item_pairs", "lambda"): {
        "intersection": ("below, first", "0 * below, first"),
        "cutoff one off": ("device=scores.device) < k", "device=scores.device) <= k"),
        "padding compared": ("everything = where", "everything = torch.ones_like(where)"),
    },
    ("losses.lambdarank", "precision_pairs", "lambda"): {
        "sum of hits": (" / k", ""),
        "only rises": ("outside + inside", "outside"),
        "padding compared": ("torch.where(where, 1 - relevant, 0.0)", "(1 - relevant)"),
    },
    ("losses.lambdarank", "mrr_pairs", "lambda"): {
        "only the first rises": ("scores, relevant, above)", "scores, first, above)"),
        "the second forgotten": ("torch.maximum(1 / ranks, then)", "1 / ranks"),
        "padding compared": ("torch.where(where, 1 - relevant, 0.0)", "(1 - relevant)"),
    },
    ("losses.lambdarank", "weighted_pairs", "lambda"): {
        "lambdarank without ranks": ("swap=swap", "swap=1 - swap"),
        "ndcg2 for ndcg2pp": ('"ndcg2pp": mu', '"ndcg2pp": 1.0'),
        "labels alike": ('alike = weighting == "none"', "alike = True"),
        "dcg normalised": ('GAINS[gain](labels) if weighting == "dcg" else ', ""),
        "ndcg1 without discount": ("gains / (1 + ranks).log2()", "gains"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def unit(labels):
    """maxDCG of the golden list."""
    return dcg_of(sorted(labels[0].tolist(), reverse=True))


def times_best(**settings):
    """Undo the division by maxDCG, the way rax counts: n times the mean over the six pairs."""
    return lambda fn, x: fn(x["scores"], x["labels"], **settings) * unit(x["labels"]) * 4 / 6


def ragged(**settings):
    return lambda fn, x: torch.stack(
        [fn(x["scores"][0], x["labels"][0], **settings),
         fn(x["scores"][1, :3], x["labels"][1, :3], **settings)]
    )  # fmt: skip


OURS = {"None": "none", "rankNet_scheme": "none", "ndcgLoss1_scheme": "ndcg1",
        "ndcgLoss2_scheme": "ndcg2", "lambdaRank_scheme": "lambdarank",
        "ndcgLoss2PP_scheme": "ndcg2pp", "rankNetWeightedByGTDiff_scheme": "arp2"}  # fmt: skip


def mean_over(pairs, **settings):
    return lambda fn, x: fn(x["scores"], x["labels"], **settings) / pairs / math.log(2)


CASES = {
    **{f"st.ce.lambdaloss.{w}.single": Case("lambda", on_list(weighting=w), library=ST)
       for w in ("none", "ndcg2", "lambdarank", "ndcg2pp")},
    "st.ce.lambdaloss.ndcg1.single": Case(
        "lambda", mean_over(16, weighting="ndcg1"), because="a mean over all 16 ordered pairs"
    ),
    "st.ce.lambdaloss.ndcg2pp.mu5.natural.sigma2.single": Case(
        "lambda", lambda fn, x: fn(x["scores"], x["labels"], mu=5.0, sigma=2.0) / 6,
        because="natural logarithm; a mean over 6 pairs"
    ),
    **{f"allrank.lambdaloss.{theirs}.sum.single": Case("lambda", on_list(weighting=w),
                                                       library=ALLRANK)
       for theirs, w in OURS.items()},
    **{f"allrank.lambdaloss.{theirs}.mean.single": Case(
        "lambda", mean_over(16 if w == "ndcg1" else 6, weighting=w), because="a mean over pairs")
       for theirs, w in OURS.items()},
    "pytorchltr.LambdaARPLoss1": Case("lambda", ragged(weighting="arp1"), library=PYTORCHLTR),
    "pytorchltr.LambdaARPLoss2": Case("lambda", ragged(weighting="arp2"), library=PYTORCHLTR),
    "pytorchltr.LambdaNDCGLoss1": Case("lambda", ragged(weighting="ndcg1"), library=PYTORCHLTR),
    "rax.logistic.dcg_lambdaweight.single": Case("lambda", on_list(weighting="dcg"), library=RAX),
    "rax.logistic.dcg2_lambdaweight.single": Case(
        "lambda", times_best(weighting="ndcg2"), because="gains are not normalised; n / |P|"
    ),
    "rax.logistic.dcg_lambdaweight.norm.single": Case(
        "lambda", on_list(weighting="lambdarank"), library=RAX
    ),
    "rax.logistic.dcg2_lambdaweight.norm.single": Case(
        "lambda", on_list(weighting="ndcg2"), library=RAX
    ),
}  # fmt: skip

LATER = {
    "allrank.lambdaloss.rankNetWeightedByGTDiffPowed_scheme.sum.single":
        "weights pairs by squared label difference",
    "allrank.lambdaloss.rankNetWeightedByGTDiffPowed_scheme.mean.single":
        "weights pairs by squared label difference",
    "pytorchltr.LambdaNDCGLoss2": "its distances are off by one; see test_lambdarank",
}  # fmt: skip

# The golden families of these losses.
FAMILIES = {"LambdaLoss", "LambdaRank/LambdaLoss", "pytorchltr pairwise/lambda"}
