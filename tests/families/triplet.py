"""Triplet and pair losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import Case
from references import combine, hard_negatives, log1pexp, similarity_of


def distance_of(a, b, distance="euclidean"):
    if distance == "cosine":
        return 1 - similarity_of(a, b, "cosine", 1.0)
    if distance == "manhattan":
        return math.fsum(abs(x - y) for x, y in zip(a, b, strict=True))
    squared = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return squared if distance == "squared_euclidean" else math.sqrt(squared)


def mean_cost(gaps, margin, soft, average):
    """The mean over some triplets; None where there are none."""
    if not gaps:
        return None
    costs = [log1pexp(g) if soft else max(0.0, g + margin) for g in gaps]
    count = sum(1 for c in costs if c > 0) if average == "active" else len(costs)
    return math.fsum(costs) / max(count, 1)


def triplet(embeddings, labels, where=None, weights=None, mining="all", margin=0.2, soft=False,
            distance="euclidean", average="active", reduction="mean"):  # fmt: skip
    """Schroff et al. 2015, Hermans et al. 2017: each anchor averages its own triplets."""
    size = len(embeddings)
    real = [where is None or where[i] for i in range(size)]
    values = []
    for a in range(size):
        near, far = [], []  # distances of positives, of negatives
        for j in range(size):
            if j != a and real[a] and real[j]:
                side = near if labels[j] == labels[a] else far
                side.append(distance_of(embeddings[a], embeddings[j], distance))
        if not near or not far:
            gaps = []
        elif mining == "all":
            gaps = [p - n for p in near for n in far]
        elif mining == "hard":
            gaps = [max(near) - min(far)]
        else:
            gaps = [p - min((n for n in far if n > p), default=max(far)) for p in near]
        values.append(mean_cost(gaps, margin, soft, average))
    return combine(values, weights, reduction)


def given_triplet(queries, documents, negatives=None, negatives_where=None, weights=None,
                  margin=0.2, soft=False, distance="euclidean", average="active",
                  reduction="mean"):  # fmt: skip
    values = []
    for i, (query, document) in enumerate(zip(queries, documents, strict=True)):
        own = [n for owner, n in hard_negatives(negatives, negatives_where) if owner == i]
        near = distance_of(query, document, distance)
        gaps = [near - distance_of(query, n, distance) for n in own]
        values.append(mean_cost(gaps, margin, soft, average))
    return combine(values, weights, reduction)


def contrastive(queries, documents, labels, where=None, weights=None, margin=0.5,
                distance="cosine", online=False, reduction="mean"):  # fmt: skip
    """Hadsell et al. 2006."""
    ds = [distance_of(q, d, distance) for q, d in zip(queries, documents, strict=True)]
    real = [i for i in range(len(ds)) if where is None or where[i]]
    same = [ds[i] for i in real if labels[i] > 0]
    different = [ds[i] for i in real if labels[i] < 1]
    values = []
    for i, (d, y) in enumerate(zip(ds, labels, strict=True)):
        pull, push = y * d**2, (1 - y) * max(0.0, margin - d) ** 2
        if online and not (different and d > min(different)):
            pull = 0.0
        if online and not (same and d < max(same)):
            push = 0.0
        values.append((pull + push) / 2 if i in real else None)
    return combine(values, weights, reduction)


PAIRS = {
    "triplet": (
        triplet,
        [
            {},
            {"average": "valid", "margin": 0.4},
            {"mining": "semi_hard", "margin": 0.1},
            {"mining": "semi_hard", "average": "valid", "margin": 0.4},
            {"mining": "hard", "margin": 1.5},
            {"soft": True},
            {"soft": True, "mining": "hard"},
            {"soft": True, "mining": "semi_hard"},
            {"distance": "squared_euclidean", "margin": 1.0},
            {"distance": "cosine", "margin": 0.5},
            {"distance": "cosine", "mining": "semi_hard"},
        ],
    ),
    "given_triplet": (
        given_triplet,
        [
            {},
            {"margin": 1.5, "average": "valid"},
            {"soft": True},
            {"distance": "squared_euclidean", "margin": 1.0},
            {"distance": "cosine", "margin": 0.5},
            {"distance": "manhattan", "margin": 1.0},
        ],
    ),
    "contrastive": (
        contrastive,
        [
            {},
            {"margin": 1.5},
            {"distance": "euclidean", "margin": 1.0},
            {"distance": "squared_euclidean", "margin": 1.0},
            {"distance": "manhattan", "margin": 2.0},
            {"online": True, "margin": 2.0, "distance": "euclidean"},
        ],
    ),
}

MUTANTS = {
    "triplet": {
        "anchors without a positive count": ("alike > 0", "alike >= 0"),
        "padding ignored": ("class_sizes(labels, where, gather)",
                            "class_sizes(labels, None, gather)"),
        "padding among the candidates": ("_distance_lists(embeddings, labels, where,",
                                         "_distance_lists(embeddings, labels, None,"),
        "mining ignored": ("partial(_triplets, mining", 'partial(_triplets, "all"'),
        "margin ignored": ("margin, soft, distance, average)", "0.2, soft, distance, average)"),
        "never soft": ("margin, soft, distance, average)", "margin, False, distance, average)"),
        "always over the active": ("soft, distance, average)", 'soft, distance, "active")'),
        "weights ignored": ("weights=weights,", ""),
    },
    "given_triplet": {
        "mask of negatives ignored": ("real = negatives_where", "real = None"),
        "padding kept": ("torch.where(real[..., None], negatives, 0.0)", "negatives"),
        "sign flipped": ("[:, None] - far", "[:, None] * -1 + far"),
        "one distance Euclidean": ("distances(queries, documents, distance)",
                                   "distances(queries, documents)"),
        "queries without negatives count": ("real.any(-1), w", "real.any(-1) | True, w"),
        "weights ignored": ("real.any(-1), weights", "real.any(-1), None"),
        "documents for queries": ("distances(queries[:, None],", "distances(documents[:, None],"),
    },
    "contrastive": {
        "hinge not squared": (".relu().square()", ".relu()"),
        "no hinge": ("(margin - d).relu()", "(margin - d)"),
        "labels turned": ("pull, push = same * d.square(), (1 - same)",
                          "pull, push = (1 - same) * d.square(), same"),
        "padding kept": ("torch.where(real[:, None], x, 0.0)", "x"),
        "online keeps everything": ("if online:", "if False:"),
        "half forgotten": ("(pull + push) / 2", "(pull + push)"),
        "weights ignored": ("real, weights, reduction", "real, None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.distances", "root", "triplet"): {
        "no guard below the root": ("torch.where(nothing, 1.0, squared).sqrt()", "squared.sqrt()"),
    },
    ("losses.distances", "_out_of_order", "contrastive"): {
        "against the farthest": ("d > nearest", "d > farthest"),
        "all pairs are different": ("(same < 1)", "(same < 2)"),
        "all pairs are the same": ("(same > 0)", "(same > -1)"),
    },
    ("losses.distances", "distances", "given_triplet"): {
        "halves kept": ("as_float(left) - as_float(right)", "left - right"),
        "root forgotten": ("return root(squared)", "return squared"),
        "root of the square": ('distance == "squared_euclidean"', "False"),
        "cosine not normalized": ("normalize(left) * normalize(right)", "left * right"),
        "manhattan signed": ("gaps.abs()", "gaps"),
    },
    ("losses.triplet", "_distance_lists", "triplet"): {
        "left length forgotten": ("[-2 * left, sides[0],", "[-2 * left, 0 * sides[0],"),
        "right length forgotten": ("torch.ones_like(sides[1]), sides[1]]",
                                   "torch.ones_like(sides[1]), 0 * sides[1]]"),
        "one side shifted": ("lists.left - center", "lists.left"),
        "dot for cosine": ('"cosine" if distance == "cosine" else "dot"', '"dot"'),
    },
    ("losses.triplet", "_as_distances", "triplet"): {
        "cosine for its distance": ("1 - scores", "scores"),
        "always squared": ('root(squared) if distance == "euclidean" else squared', "squared"),
        "always rooted": ('root(squared) if distance == "euclidean" else squared',
                          "root(squared)"),
    },
    ("losses.distances", "triplet_cost", "triplet"): {
        "sign of the soft form": ("-logsigmoid(-gaps)", "-logsigmoid(gaps)"),
        "margin subtracted": ("gaps + margin", "gaps - margin"),
        "no hinge": (".relu()", ""),
    },
    ("losses.distances", "mean_cost", "triplet"): {
        "always over the active": ('if average == "active" else which', ""),
        "always over the valid": ('average == "active"', "False"),
        "others cost": ("torch.where(which, costs, 0.0)", "costs"),
        "sum": (" / count.sum(-1).clamp(min=1)", ""),
    },
    ("losses.triplet", "_all_hinges", "triplet"): {
        "one negative too few": ("pad(near.cumsum(-1), (1, 0))", "near.cumsum(-1)"),
        "sums not taken away": ("inside * reach - sums", "inside * reach"),
    },
    ("losses.triplet", "_semi_hard", "triplet"): {
        "no fallback": ("torch.minimum(beyond, negatives - 1)", "beyond"),
        "nearest as the fallback": ("torch.minimum(beyond, negatives - 1)",
                                    "torch.where(beyond < negatives, beyond, 0)"),
    },
    ("losses.triplet", "_triplets", "triplet"): {
        "positives among the negatives": ("where & ~positive", "where"),
        "nearest positive": ("torch.where(positive, d, 0.0).amax(-1)",
                             "torch.where(positive, d, 9.0).amin(-1)"),
        "farthest negative": ("torch.where(negative, d, torch.finfo(d.dtype).max).amin(-1)",
                              "torch.where(negative, d, 0.0).amax(-1)"),
        "scores for distances": ('"logistic", -d', '"logistic", d'),
        "sum of soft triplets": ("total / triplets.clamp(min=1)", "total"),
        "negatives beside positives": ("torch.where(positive, costs, 0.0)", "costs"),
        "margin ignored": ("d + margin", "d"),
        "always over the valid": ('active if average == "active" else count', "count"),
        "always over the active": ('active if average == "active" else count', "active"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def on_triplets(**settings):
    return lambda fn, x: fn(x["q"], x["p"], negatives=x["n"][:, None], **settings)


def on_classes(unit=False, **settings):
    """Labelled embeddings, scaled to unit length where the peer does that."""

    def call(fn, x):
        e = torch.nn.functional.normalize(x["e"], dim=-1) if unit else x["e"]
        return fn(e, x["labels"], **settings)

    return call


def on_marked(times=1, **settings):
    return lambda fn, x: times * fn(x["q"], x["p"], x["labels"], **settings)


CASES = {
    "st.triplet.euclid": Case("given_triplet", on_triplets(margin=5.0)),
    "st.triplet.cos.0.5": Case("given_triplet", on_triplets(margin=0.5, distance="cosine")),
    "st.triplet.manhattan": Case("given_triplet", on_triplets(margin=5.0, distance="manhattan")),
    "st.batchall": Case("triplet", on_classes(margin=5.0)),
    "st.batchall.m0.3": Case("triplet", on_classes(margin=0.3)),
    "st.batchhard": Case("triplet", on_classes(margin=5.0, mining="hard")),
    "st.batchsemihard": Case("triplet", on_classes(margin=5.0, mining="semi_hard")),
    "st.batchhardsoft": Case("triplet", on_classes(soft=True, mining="hard")),
    "pml.triplet": Case("triplet", on_classes(unit=True, margin=0.05)),
    "pml.triplet.m0.5": Case("triplet", on_classes(unit=True, margin=0.5)),
    "st.contrastive": Case("contrastive", on_marked()),
    "st.contrastive.margin1.5": Case("contrastive", on_marked(margin=1.5)),
    "st.onlinecontrastive": Case(
        "contrastive",
        on_marked(times=2, online=True, reduction="sum"),
        because="squares without the half, and their sum",
    ),
}

LATER = {
    "pml.triplet.smooth": "its soft form has a margin, softplus(d_ap - d_an + 0.05)",
    "pml.contrastive": "its hinges are not squared, and its pairs come from classes",
}

# The golden families of these losses.
FAMILIES = {"Triplet", "Batch triplet", "Contrastive (Hadsell)", "Online contrastive"}

# Without negatives it has no triplet, and says so.
ABSOLUTE = {"given_triplet"}
