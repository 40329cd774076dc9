"""Bidirectional losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case, on_pairs
from references import combine, hard_negatives, logsumexp, similarity_of


def bidirectional_terms(i, direction, queries, documents, negatives, negatives_where, exclude,
                        mask_own_negatives, similarity, temperature):  # fmt: skip
    """The similarities of row i in one direction, its positive included where there is one."""

    def hidden(a, b):  # query a and document b are neither positive nor negative
        return exclude is not None and a != b and exclude[a][b]

    terms = []
    row = queries[i] if direction.startswith("query") else documents[i]
    columns = queries if direction.endswith("query") else documents
    for j, column in enumerate(columns):
        if direction == "query_to_doc" and hidden(i, j):
            continue
        if direction == "doc_to_query" and hidden(j, i):
            continue
        if direction in ("query_to_query", "doc_to_doc") and (
            i == j or hidden(i, j) or hidden(j, i)
        ):
            continue
        terms.append(similarity_of(row, column, similarity, temperature))
    if direction.endswith("doc"):
        for owner, vector in hard_negatives(negatives, negatives_where):
            if direction == "doc_to_doc" and mask_own_negatives and owner == i:
                continue
            terms.append(similarity_of(row, vector, similarity, temperature))
    return terms


def bidirectional_infonce(
    queries, documents, negatives=None, negatives_where=None, exclude=None, weights=None,
    directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    partition="joint", mask_own_negatives=True, positive_once=False, similarity="cosine",
    temperature=0.05, reduction="mean",
):  # fmt: skip
    """Li et al. 2023: one partition function over up to four directions."""
    values = []
    for i in range(len(queries)):
        positive = similarity_of(queries[i], documents[i], similarity, temperature)
        blocks = [
            bidirectional_terms(i, d, queries, documents, negatives, negatives_where, exclude,
                                mask_own_negatives, similarity, temperature)
            for d in directions
        ]  # fmt: skip
        if partition == "joint":
            terms = [x for block in blocks for x in block]
            if positive_once and {"query_to_doc", "doc_to_query"} <= set(directions):
                terms.remove(positive)
            values.append(logsumexp(terms) - positive if terms else None)
        else:
            logs = [logsumexp(block) for block in blocks if block]
            values.append(math.fsum(logs) / len(logs) - positive if logs else None)
    return combine(values, weights, reduction)


def both_views(**settings):
    """NT-Xent: every text is an anchor once, so it is the mean of the two one-sided calls."""

    def call(fn, x):
        q, p = (x["q"], x["p"]) if "q" in x else (x["e"][:3], x["e"][3:])
        sides = {"directions": ("query_to_doc", "query_to_query"), "partition": "joint"}
        return (fn(q, p, **sides, **settings) + fn(p, q, **sides, **settings)) / 2

    return call


PAIRS = {
    "bidirectional_infonce": (
        bidirectional_infonce,
        [
            {},
            {"temperature": 0.5, "mask_own_negatives": False},
            {"temperature": 0.5, "positive_once": True},
            {"temperature": 0.5, "partition": "per_direction"},
            {"similarity": "dot", "temperature": 1.0},
            {"temperature": 0.5, "directions": ("query_to_doc", "doc_to_query")},
            {
                "temperature": 0.5,
                "directions": ("doc_to_query", "query_to_query"),
                "partition": "per_direction",
            },
            {"temperature": 0.5, "directions": ("query_to_doc", "doc_to_doc")},
            {"temperature": 0.5, "directions": ("query_to_query",)},
        ],
    ),
}

MUTANTS = {
    "bidirectional_infonce": {
        "hard negatives ignored": ("negatives=negatives,\n        "
                                   "negatives_where=negatives_where, ", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where, ", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "own negatives always hidden": ("mask_own_negatives=mask_own_negatives,", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "always joint": ('joint = partition == "joint"', "joint = True"),
        "never joint": ('joint = partition == "joint"', "joint = False"),
        "sum of partitions": (" / count.clamp(min=1)", ""),
        "empty rows counted": ("count > 0", "count >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.bidirectional", "_relative_blocks", "bidirectional_infonce"): {
        "positive not subtracted": ("blocks[d][0] - positive", "blocks[d][0]"),
        "positive always once": ("positive_once and {", "{"),
        "positive never once": ("where & ~own", "where"),
        "only the positive is left": ("where & ~own", "where & own"),
    },
    ("candidates", "directional_candidates", "bidirectional_infonce"): {
        "exclusion not transposed": ('"doc_to_query": ~hidden.T', '"doc_to_query": ~hidden'),
        "exclusion kept on the diagonal": ("exclude & ~own", "exclude"),
        "own text not hidden": ("hidden | hidden.T | own", "hidden | hidden.T"),
        "twins one way only": ("hidden | hidden.T | own", "hidden | own"),
        "own negatives never hidden": (" and mask_own_negatives", " and False"),
        "own negatives always hidden": (" and mask_own_negatives", ""),
        "negatives on the query side": ('if end == "doc" else {}', 'if end == "query" else {}'),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CLIP = {"directions": ("query_to_doc", "doc_to_query"), "partition": "per_direction"}

CASES = {
    "st.mnrl.symmetric": Case("bidirectional_infonce", on_pairs(**CLIP)),
    "st.mnrl.symmetric.hardneg": Case("bidirectional_infonce", on_pairs(**CLIP)),
    "openclip.clip": Case("bidirectional_infonce", on_pairs(similarity="dot", **CLIP)),
    "openclip.hard.clip.s20": Case("bidirectional_infonce", on_pairs(similarity="dot", **CLIP)),
    "st.mnrl.gte": Case("bidirectional_infonce", on_pairs(), atol=2e-6),
    "st.mnrl.gte.hardneg": Case("bidirectional_infonce", on_pairs()),
    "st.mnrl.dot.scale1.gte.hardneg": Case(
        "bidirectional_infonce", on_pairs(similarity="dot", temperature=1.0)
    ),
    "st.mnrl.qd_dq.joint": Case(
        "bidirectional_infonce", on_pairs(directions=("query_to_doc", "doc_to_query")), atol=2e-6
    ),
    "pr3607.gte.s2.hardneg": Case(
        "bidirectional_infonce",
        on_pairs(temperature=0.5, mask_own_negatives=False),
        because="the draft hides only the document itself from doc_to_doc",
    ),
    "pml.selfsup.ntxent": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.hard.selfsup.ntxent": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.ntxent.T0.5": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.supcon.T0.5": Case("bidirectional_infonce", both_views(temperature=0.5)),
    "pml.supcon": Case("bidirectional_infonce", both_views(temperature=0.1)),
}

# The golden families of these losses.
FAMILIES = {
    "Symmetric InfoNCE",
    "Joint bidirectional InfoNCE",
    "GTE improved contrastive",
    "Symmetric InfoNCE (NT-Xent)",
    "NT-Xent",
    "SupCon",
}
