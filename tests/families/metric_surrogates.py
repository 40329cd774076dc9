"""Metric surrogates: loop references, mutants, and the numbers of other libraries."""

import math

from peers import ALLRANK, LIR, RAX, ST, Case, on_list
from references import dcg


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def soft_rank(scores, i, temperature, among=None):
    """1 + Σ over rivals j ≠ i of sigmoid((sⱼ - sᵢ)/τ)."""
    rank = 1.0
    for j, s in enumerate(scores):
        if j != i and (among is None or among[j]):
            rank += sigmoid((s - scores[i]) / temperature)
    return rank


def gain_of(y, gain):
    return 2.0**y - 1 if gain == "exp2" else y


def top_shares(scores, k, temperature):
    """How surely each score is above the middle between the k-th and the next; at most k in all."""
    if len(scores) <= k:
        return [1.0] * len(scores)
    ordered = sorted(scores, reverse=True)
    middle = (ordered[k - 1] + ordered[k]) / 2
    shares = [sigmoid((s - middle) / temperature) for s in scores]
    total = math.fsum(shares)
    return [c * k / total for c in shares] if total > k else shares


def approx_ndcg(scores, labels, temperature=1.0, gain="exp2", k=None):
    """Qin et al. 2010: 1 - DCG of soft ranks over the DCG of the best order."""
    ideal = dcg(sorted(labels, reverse=True), k, gain)
    if ideal <= 0:
        return None
    shares = [1.0] * len(scores) if k is None else top_shares(scores, k, temperature)
    found = 0.0
    for i, y in enumerate(labels):
        rank = soft_rank(scores, i, temperature)
        found += shares[i] * gain_of(y, gain) / math.log2(1 + rank)
    return 1 - found / ideal


def bound_ndcg(scores, labels, margin=1.0, gain="exp2"):
    """Jagerman et al. 2022: 1 - NDCG with ranks 1 + Σ max(0, 1 + (sⱼ - sᵢ)/m)."""
    ideal = dcg(sorted(labels, reverse=True), None, gain)
    if ideal <= 0:
        return None
    found = 0.0
    for i, y in enumerate(labels):
        rank = 1.0
        for j, s in enumerate(scores):
            if j != i:
                rank += max(0.0, 1 + (s - scores[i]) / margin)
        found += gain_of(y, gain) / math.log2(1 + rank)
    return 1 - found / ideal


def approx_rank_mse(scores, labels, temperature=1.0, discount="log2"):
    """Schlatt et al. 2025: weighted mean of (soft rank - rank of the label)², ties averaged."""
    if len(set(labels)) < 2:
        return None
    total = 0.0
    for i, y in enumerate(labels):
        above = sum(1 for x in labels if x > y)
        tied = sum(1 for x in labels if x == y)
        target = sum(above + t for t in range(1, tied + 1)) / tied
        weight = {"log2": 1 / math.log2(1 + target), "reciprocal": 1 / target, "none": 1.0}
        total += weight[discount] * (soft_rank(scores, i, temperature) - target) ** 2
    return total / len(labels)


def approx_mrr(scores, labels, temperature=1.0, mode="max"):
    """Qin et al. 2010: 1 - the largest, or the mean, reciprocal soft rank of a relevant item."""
    found = [(y, 1 / soft_rank(scores, i, temperature)) for i, y in enumerate(labels) if y > 0]
    if not found:
        return None
    if mode == "max":
        return 1 - max(r for _, r in found)
    return 1 - math.fsum(y * r for y, r in found) / math.fsum(y for y, _ in found)


def approx_ap(scores, labels, temperature=1.0):
    """Qin et al. 2010: 1 - mean of (soft rank among the relevant) / (soft rank)."""
    relevant = [y > 0 for y in labels]
    if not any(relevant):
        return None
    ratios = [
        soft_rank(scores, i, temperature, relevant) / soft_rank(scores, i, temperature)
        for i in range(len(scores))
        if relevant[i]
    ]
    return 1 - math.fsum(ratios) / len(ratios)


def smooth_ap(scores, labels, temperature=0.01):
    """Brown et al. 2020: 1 - mean over positives of R(i, +) / (R(i, +) + Σ over negatives)."""
    ratios = []
    for i, y in enumerate(labels):
        if y > 0:
            among, ahead = 1.0, 0.0
            for j, z in enumerate(labels):
                if j != i:
                    share = sigmoid((scores[j] - scores[i]) / temperature)
                    among, ahead = (among + share, ahead) if z > 0 else (among, ahead + share)
            ratios.append(among / (among + ahead))
    return 1 - math.fsum(ratios) / len(ratios) if ratios else None


LISTS = {
    "approx_ndcg": (
        approx_ndcg,
        [{}, {"temperature": 0.3}, {"gain": "linear"}, {"k": 1}, {"k": 2, "temperature": 2.0},
         {"k": 4, "gain": "linear"}],
    ),
    "bound_ndcg": (bound_ndcg, [{}, {"margin": 0.7}, {"gain": "linear"}]),
    "approx_rank_mse": (
        approx_rank_mse,
        [{}, {"temperature": 0.3}, {"discount": "none"}, {"discount": "reciprocal"}],
    ),
    "approx_mrr": (
        approx_mrr,
        [{}, {"temperature": 0.3}, {"mode": "mean"}, {"mode": "mean", "temperature": 2.0}],
    ),
    "approx_ap": (approx_ap, [{}, {"temperature": 0.3}]),
    "smooth_ap": (smooth_ap, [{}, {"temperature": 1.0}]),
}  # fmt: skip

MUTANTS = {
    "approx_ndcg": {
        "sign flipped": ("values = 1 - found", "values = 1 + found"),
        "temperature of the ranks dropped": ("soft_ranks(scores, where, temperature)",
                                             "soft_ranks(scores, where)"),
        "temperature multiplies": ("soft_ranks(scores, where, temperature)",
                                   "soft_ranks(scores, where, 1 / temperature)"),
        "temperature of the cutoff dropped": ("where, k, temperature)", "where, k)"),
        "cutoff ignored": ("if k is not None", "if False"),
        "best order of the whole list": ("where), k, gain)", "where), None, gain)"),
        "mask of the ranks ignored": ("soft_ranks(scores, where,",
                                      "soft_ranks(scores, torch.ones_like(where),"),
        "order of the scores taken as ideal": ("sort_by_scores(labels, labels, where)",
                                               "sort_by_scores(scores, labels, where)"),
        "gain ignored": ("GAINS[gain](labels)", "labels"),
        "natural discount": (".log2()", ".log()"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevant items cost 1": ("reduce_lists(values, ideal > 0",
                                                "reduce_lists(values, ideal >= 0"),
    },
    "bound_ndcg": {
        "sign flipped": ("values = 1 - found", "values = 1 + found"),
        "margin ignored": ("hinge_ranks(scores, where, margin)", "hinge_ranks(scores, where)"),
        "soft ranks": ("hinge_ranks(scores, where, margin)",
                       "1 + hinge_ranks(scores, where, margin).sigmoid()"),
        "mask ignored": ("hinge_ranks(scores, where,",
                         "hinge_ranks(scores, torch.ones_like(where),"),
        "ideal gain ignored": (", gain=gain)", ")"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevant items cost 1": ("reduce_lists(values, ideal > 0",
                                                "reduce_lists(values, ideal >= 0"),
    },
    "approx_rank_mse": {
        "absolute error": ("errors**2", "errors.abs()"),
        "weight ignored": ("RANK_WEIGHTS[discount](targets) * ", ""),
        "weight of the soft rank": ("RANK_WEIGHTS[discount](targets)",
                                    "RANK_WEIGHTS[discount](errors + targets)"),
        "temperature dropped": ("soft_ranks(scores, where, temperature)",
                                "soft_ranks(scores, where)"),
        "mask of the labels ignored": ("average_ranks(labels, where)",
                                       "average_ranks(labels, torch.ones_like(where))"),
        "mask of the ranks ignored": ("soft_ranks(scores, where,",
                                      "soft_ranks(scores, torch.ones_like(where),"),
        "order reversed": ("average_ranks(labels,", "average_ranks(-labels,"),
        "sum over items": (" / where.sum(-1).clamp(min=1)", ""),
        "tied labels counted": ("has_order(labels, where)", "where.any(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "approx_mrr": {
        "sign flipped": ("reduce_lists(1 - found", "reduce_lists(1 + found"),
        "temperature dropped": ("soft_ranks(scores, where, temperature)",
                                "soft_ranks(scores, where)"),
        "mask ignored": ("soft_ranks(scores, where,",
                         "soft_ranks(scores, torch.ones_like(where),"),
        "irrelevant items count": ("torch.where(gains > 0,", "torch.where(gains >= 0,"),
        "the last for the first": (".amax(-1)", ".amin(-1)"),
        "sum for mean": (" / torch.where(total > 0, total, 1.0)", ""),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevant items cost 1": ("total > 0, weights", "total >= 0, weights"),
    },
    "approx_ap": {
        "sign flipped": ("values = 1 - ", "values = 1 + "),
        "all rivals in the numerator": (", among=relevant", ""),
        "irrelevant rivals in the numerator": ("among=relevant", "among=~relevant"),
        "irrelevant items averaged": ("torch.where(relevant, ratios, 0.0)", "ratios"),
        "mean over slots": (".sum(-1) / count.clamp(min=1)", ".mean(-1)"),
        "temperature of the numerator dropped": ("temperature, among=relevant", "among=relevant"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevant items cost 1": ("(values, count > 0", "(values, count >= 0"),
    },
    "smooth_ap": {
        "sign flipped": ("reduce_lists(1 - ", "reduce_lists(1 + "),
        "negatives doubled": ("ratios = torch.where(relevant, among / (among + ahead)",
                              "ratios = torch.where(relevant, among / (among + 2 * ahead)"),
        "own place counted twice": ("among=~relevant) - 1", "among=~relevant)"),
        "odds for shares": ("among / (among + ahead)", "among / ahead.clamp(min=1)"),
        "temperature of the negatives dropped": ("temperature, among=~relevant",
                                                 "among=~relevant"),
        "mask ignored": ("soft_ranks(scores, where, temperature, among=~relevant)",
                         "soft_ranks(scores, torch.ones_like(where), temperature, "
                         "among=~relevant)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without relevant items cost 1": ("count > 0, weights", "count >= 0, weights"),
    },
}  # fmt: skip

SHARED = {
    ("losses.metric_surrogates", "soft_top_k", "approx_ndcg"): {
        "mask ignored": ("scores.masked_fill(~where, -torch.inf)", "scores"),
        "one item too many": ("topk(k + 1)", "topk(k + 2)"),
        "above the k-th only": ("(upper + lower) / 2", "upper"),
        "above the next only": ("(upper + lower) / 2", "lower"),
        "shares not scaled": (" / share.sum(-1, keepdim=True).clamp(min=k)", " / k"),
        "always scaled to k": (".clamp(min=k)", ""),
        "temperature dropped": ("(scores - middle) / temperature", "scores - middle"),
    },
    ("losses.rank_surrogates", "average_ranks", "approx_rank_mse"): {
        "smallest first": ("torch.where(where, -labels,", "torch.where(where, labels,"),
        "padding first": ("torch.inf", "-torch.inf"),
        "ties take the best rank": ("(before + 1 + through).to(labels.dtype) / 2",
                                    "(before + 1).to(labels.dtype)"),
        "ties take the worst rank": ("(before + 1 + through).to(labels.dtype) / 2",
                                     "through.to(labels.dtype)"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "allrank.approxndcg.single": Case("approx_ndcg", on_list(), library=ALLRANK),
    "allrank.approxndcg.alpha10.single": Case(
        "approx_ndcg", on_list(temperature=0.1), library=ALLRANK, because="alpha is 1/temperature"
    ),
    "lir.approxndcg.single": Case("approx_ndcg", on_list(), library=LIR),
    "lir.approxndcg.T0.1.linear.single": Case(
        "approx_ndcg", on_list(temperature=0.1, gain="linear"), library=LIR
    ),
    "rax.approx_ndcg.single": Case("approx_ndcg", on_list(), library=RAX),
    "rax.approx_ndcg.T0.1.single": Case("approx_ndcg", on_list(temperature=0.1), library=RAX),
    "rax.bound_ndcg.single": Case("bound_ndcg", on_list(), library=RAX),
    "lir.approxmrr.single": Case("approx_mrr", on_list(), library=LIR),
    "lir.approxmrr.T0.1.single": Case("approx_mrr", on_list(temperature=0.1), library=LIR),
    "rax.approx_mrr.single": Case("approx_mrr", on_list(), library=RAX),
    "st.ce.adrmse.single": Case("approx_rank_mse", on_list(), library=ST),
    "st.ce.adrmse.alpha5.single": Case(
        "approx_rank_mse", on_list(temperature=0.2), library=ST, because="alpha is 1/temperature"
    ),
    "lir.approxrankmse.None.single": Case("approx_rank_mse", on_list(discount="none")),
    "lir.approxrankmse.log2.single": Case("approx_rank_mse", on_list(), library=LIR),
    "lir.approxrankmse.reciprocal.single": Case("approx_rank_mse", on_list(discount="reciprocal")),
}

LATER = {
    "rax.approx_ap.single": "its numerator is a hard count, which no factor makes ours; "
    "test_the_average_precision_of_rax_has_a_hard_numerator reproduces the number",
}

# The golden families of these losses.
FAMILIES = {
    "ApproxNDCG", "Bounded NDCG", "ApproxAP", "ApproxMRR", "ApproxRankMSE", "ADR-MSE",
}  # fmt: skip
