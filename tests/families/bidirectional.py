"""Bidirectional losses: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case, on_pairs
from references import combine, hard_negatives, hardened, logsumexp, similarity_of


def bidirectional_terms(i, direction, queries, documents, negatives, negatives_where, exclude,
                        mask_own_negatives, similarity, temperature, weigh):  # fmt: skip
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
        s = similarity_of(row, column, similarity, temperature)
        fixed = i == j or direction != "query_to_doc"
        terms.append(s if fixed else hardened(s, False, *weigh, temperature))
    if direction.endswith("doc"):
        for owner, vector in hard_negatives(negatives, negatives_where):
            if direction == "doc_to_doc" and mask_own_negatives and owner == i:
                continue
            s = similarity_of(row, vector, similarity, temperature)
            fixed = direction != "query_to_doc"
            terms.append(s if fixed else hardened(s, owner == i, *weigh, temperature))
    return terms


def bidirectional_infonce(
    queries, documents, negatives=None, negatives_where=None, exclude=None, weights=None,
    directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    partition="joint", mask_own_negatives=True, positive_once=False, similarity="cosine",
    temperature=0.05, hardness=None, hardness_strength=0.0, reduction="mean",
):  # fmt: skip
    """Li et al. 2023: one partition function over up to four directions."""
    values = []
    for i in range(len(queries)):
        positive = similarity_of(queries[i], documents[i], similarity, temperature)
        blocks = [
            bidirectional_terms(i, d, queries, documents, negatives, negatives_where, exclude,
                                mask_own_negatives, similarity, temperature,
                                (hardness, hardness_strength))
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
            {
                "temperature": 0.5,
                "directions": ("query_to_query", "doc_to_doc"),
                "mask_own_negatives": False,
            },
            {"temperature": 0.5, "hardness": "in_batch", "hardness_strength": 2.0},
            {"temperature": 0.5, "hardness": "all", "hardness_strength": 2.0},
        ],
    ),
}

MUTANTS = {
    "bidirectional_infonce": {
        "hard negatives ignored": ("negatives=negatives, negatives_where=negatives_where,", ""),
        "mask of negatives ignored": ("negatives_where=negatives_where, ", ""),
        "exclusions ignored": ("exclude=exclude, ", ""),
        "own negatives always hidden": ("mask_own_negatives=mask_own_negatives,", ""),
        "temperature ignored": (", temperature=temperature", ""),
        "similarity ignored": ("similarity=similarity, ", ""),
        "always joint": ('partition == "joint"', "True"),
        "never joint": ('partition == "joint"', "False"),
        "positive always once": ("positive_once and joint and", "joint and"),
        "weights ignored": ("operands, counted, weights", "operands, counted, None"),
    },
}  # fmt: skip

SHARED = {
    ("losses.bidirectional", "_values", "bidirectional_infonce"): {
        "hardness ignored": ("weigh[0] is not None and", "False and"),
        "positive not subtracted": ("given - positive", "given"),
        "positive never once": ("where & ~back", "where"),
        "all directions": ("if name in wanted else []", ""),
    },
    ("losses.bidirectional", "_log_partitions", "bidirectional_infonce"): {
        "sum of partitions": (" / count.clamp(min=1)", ""),
        "mean over empty partitions": ("where.any(-1)", "where.any(-1) | True"),
    },
    ("losses.bidirectional", "_in_tiles", "bidirectional_infonce"): {
        "temperature ignored": ("temperature**-0.5", "1.0"),
        "similarity ignored": ("directions_of(x, similarity)", "x"),
        "mask of negatives ignored": ("real = columns if", "real = None if"),
        "one hard negative each": ("negatives.shape[1]", "1"),
    },
    ("scaling.bidirectional_tiles", "hidden_entries", "bidirectional_infonce"): {
        "own negatives never hidden": ("and sight.mask_own", "and False"),
        "queries do not see their negatives": ("block.left == 1 and ", ""),
        "mask of negatives ignored": ("~sight.real[None, columns]", "None"),
        "own text not hidden": ("own if hidden is None else own | hidden", "hidden"),
    },
    ("scaling.bidirectional_tiles", "own_entries", "bidirectional_infonce"): {
        "owners not found": (">= rows.stop or", ">= rows.start or"),
        "one hard negative each": ("sight.each if", "1 if"),
    },
    ("scaling.bidirectional_tiles", "looks_at", "bidirectional_infonce"): {
        "mirror image added": ("if not (block.left == block.right and rows == columns):",
                               "if True:"),
        "no columns": ("looks += [(block.column, columns, column, 0)]", "pass"),
        "hidden seen": ("if hidden is not None:", "if False:"),
    },
    ("scaling.bidirectional_tiles", "slopes_of", "bidirectional_infonce"): {
        "rows only": ("mul_(sum(forces))", "mul_(forces[0])"),
        "sums ignored": ("f / torch.where(z == 0, 1.0, z)", "f"),
    },
    ("scaling.bidirectional_tiles", "push_back", "bidirectional_infonce"): {
        "not mirrored": ("slope + slope.T if mirrored else slope", "slope"),
        "mirrored twice": (" and not mirrored", ""),
        "columns get nothing": ("if wanted[block.right]", "if False"),
    },
    ("scaling.bidirectional_tiles", "blocks_of", "bidirectional_infonce"): {
        "a sum for each direction": ("0 if joint else n", "n"),
        "documents do not see hard negatives": ("Block(1, 2, documents, None)",
                                                "Block(1, 2, None, None)"),
    },
    ("candidates", "_directional_masks", "bidirectional_infonce"): {
        "exclusion not transposed": ('direction == "doc_to_query"', 'direction == "query_to_doc"'),
        "own text not hidden": ("(torch.zeros_like(own), own)",
                                "(torch.zeros_like(own), torch.zeros_like(own))"),
        "twins one way only": ("(False, True) if inside", "(False,) if inside"),
        "own negatives never hidden": (" and mask_own", " and False"),
        "own negatives always hidden": (" and mask_own", ""),
    },
    ("candidates", "directional_candidates", "bidirectional_infonce"): {
        "negatives on the query side": ('if end == "doc" else None', 'if end == "query" else None'),
    },
    ("candidates", "pairs_of", "bidirectional_infonce"): {
        "exclusions turned": ('known["mask"] = exclude', 'known["mask"] = exclude.T'),
        "exclusions not turned back": ('known["size"]].T', 'known["size"]]'),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
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
}

# The golden families of these losses.
FAMILIES = {
    "Joint bidirectional InfoNCE",
    "GTE improved contrastive",
}
