"""Symmetric losses of two views: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import Case, on_pairs
from references import combine, hard_negatives, hardened, logsumexp, similarity_of


def symmetric_infonce(queries, documents, negatives=None, negatives_where=None, exclude=None,
                      weights=None, similarity="cosine", temperature=0.05, hardness=None,
                      hardness_strength=0.0, reduction="mean"):  # fmt: skip
    """Radford et al. 2021: the cross-entropy of rows and that of columns; negatives are rows'."""
    weigh = (hardness, hardness_strength, temperature)
    values = []
    for i in range(len(queries)):
        there, back = [], []
        for j in range(len(documents)):
            forth = similarity_of(queries[i], documents[j], similarity, temperature)
            if i == j:
                positive = forth
                there.append(forth)
                back.append(forth)
                continue
            if exclude is None or not exclude[i][j]:
                there.append(hardened(forth, False, *weigh))
            if exclude is None or not exclude[j][i]:
                back.append(similarity_of(documents[i], queries[j], similarity, temperature))
        for owner, row in hard_negatives(negatives, negatives_where):
            s = similarity_of(queries[i], row, similarity, temperature)
            there.append(hardened(s, owner == i, *weigh))
        values.append((logsumexp(there) + logsumexp(back)) / 2 - positive)
    return combine(values, weights, reduction)


def ntxent(queries, documents, exclude=None, weights=None, similarity="cosine",
           temperature=0.07, reduction="mean"):  # fmt: skip
    """Chen et al. 2020, Algorithm 1: 2B anchors, each against the 2B - 1 other views."""
    views = [*queries, *documents]
    count = len(queries)

    def hidden(a, b):  # view a must not see view b
        i, j = a % count, b % count
        if exclude is None or i == j:
            return False
        if a < count <= b:
            return exclude[i][j]
        if b < count <= a:
            return exclude[j][i]
        return exclude[i][j] or exclude[j][i]

    def anchor(a):
        other = (a + count) % (2 * count)
        seen = [b for b in range(2 * count) if b != a and not hidden(a, b)]
        terms = [similarity_of(views[a], views[b], similarity, temperature) for b in seen]
        return logsumexp(terms) - similarity_of(views[a], views[other], similarity, temperature)

    values = [(anchor(i) + anchor(i + count)) / 2 for i in range(count)]
    return combine(values, weights, reduction)


def npairs(queries, documents, negatives=None, negatives_where=None, exclude=None, weights=None,
           l2_weight=0.0, reduction="mean"):  # fmt: skip
    """Sohn 2016, Eq. 7, and the squared lengths of Sec. 3.2.2."""

    def lead(i, x):  # of x over document i, for query i
        return math.fsum(a * (b - c) for a, b, c in zip(queries[i], x, documents[i], strict=True))

    values = []
    for i, query in enumerate(queries):
        others = [
            lead(i, d)
            for j, d in enumerate(documents)
            if j != i and (exclude is None or not exclude[i][j])
        ]
        others += [lead(i, row) for _, row in hard_negatives(negatives, negatives_where)]
        squares = math.fsum(x * x for x in [*query, *documents[i]])
        values.append(logsumexp([0.0, *others]) + l2_weight * squares)
    return combine(values, weights, reduction)


PAIRS = {
    "symmetric_infonce": (
        symmetric_infonce,
        [
            {},
            {"temperature": 0.5},
            {"similarity": "dot", "temperature": 1.0},
            {"temperature": 0.5, "hardness": "in_batch", "hardness_strength": 2.0},
            {"temperature": 0.5, "hardness": "hard", "hardness_strength": 3.0},
            {"temperature": 0.5, "hardness": "all", "hardness_strength": 2.0},
        ],
    ),
    "ntxent": (
        ntxent,
        [{}, {"temperature": 0.5}, {"similarity": "dot", "temperature": 1.0}],
    ),
    "npairs": (npairs, [{}, {"l2_weight": 0.02}, {"l2_weight": 1.0}]),
}

MUTANTS = {
    "symmetric_infonce": {
        "one direction only": ('("query_to_doc", "doc_to_query")', '("query_to_doc",)'),
        "one partition": ('"per_direction"', '"joint"'),
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where, ", ""),
        "exclusions ignored": ("exclude=exclude,", ""),
        "weights ignored": ("weights=weights, ", ""),
        "temperature ignored": ("temperature=temperature, ", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "hardness ignored": ("hardness=hardness,", ""),
        "reduction ignored": ("reduction=reduction,", ""),
    },
    "ntxent": {
        "exclusions ignored": ("exclude=exclude, ", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "temperature ignored": (" temperature=temperature,", ""),
        "weights ignored": ("None, weights, reduction", "None, None, reduction"),
        "reduction ignored": ("weights, reduction, chunk", 'weights, "mean", chunk'),
        "a view twice": ("list(directional", "2 * list(directional"),
    },
    "npairs": {
        "cosine": ('"dot"', '"cosine"'),
        "a temperature": ("temperature=1.0", "temperature=0.5"),
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where, ", ""),
        "exclusions ignored": ("exclude=exclude,", ""),
        "weights ignored": ("weights=weights, ", ""),
        "weights of lengths ignored": ("lengths, weights, reduction", "lengths, None, reduction"),
        "lengths of one side": (" + as_float(documents).square().sum(-1)", ""),
        "lengths are free": (" + l2_weight * lengths", ""),
        "lengths always summed": ('reduction != "none"', "True"),
    },
}  # fmt: skip

SHARED = {
    ("losses.two_views", "_views", "ntxent"): {
        "positive not subtracted": (" - positive", ""),
        "sum of both views": (".mean(0)", ".sum(0)"),
        "mask ignored": ("for _, where in masks", "for where in [w | True for _, w in masks]"),
        "joint partition": ("leads.chunk(2, 1), where.chunk(2, 1)", "[leads], [where]"),
    },
}

# Numbers of other libraries ----------------------------------------------------------------------


def halves(**settings):
    """The rows of `e` are both views of three classes, one after the other."""

    def call(fn, x):
        q, p = (x["q"], x["p"]) if "q" in x else (x["e"][:3], x["e"][3:])
        return fn(q, p, **settings)

    return call


def normalized(fn, x):
    """Both halves on the unit sphere."""
    e = torch.nn.functional.normalize(x["e"], dim=-1)
    return fn(e[:3], e[3:])


CASES = {
    "st.mnrl.symmetric": Case("symmetric_infonce", on_pairs()),
    "st.mnrl.symmetric.hardneg": Case("symmetric_infonce", on_pairs()),
    "openclip.clip": Case("symmetric_infonce", on_pairs(similarity="dot")),
    "openclip.hard.clip.s20": Case("symmetric_infonce", on_pairs(similarity="dot")),
    "pml.selfsup.ntxent": Case("ntxent", halves(temperature=0.5)),
    "pml.hard.selfsup.ntxent": Case("ntxent", halves(temperature=0.5)),
    "pml.ntxent.T0.5": Case("ntxent", halves(temperature=0.5)),
    "pml.npairs": Case("npairs", normalized, because="the peer normalizes by default"),
}

# The golden families of these losses.
FAMILIES = {"Symmetric InfoNCE", "Symmetric InfoNCE (NT-Xent)", "NT-Xent", "N-pairs"}
