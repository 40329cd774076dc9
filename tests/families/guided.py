"""Guided losses: loop references, mutants, and the numbers of other libraries."""

from peers import Case
from references import combine, hard_negatives, logsumexp, similarity_of


def gist(queries, documents, guide_queries, guide_documents, negatives=None, negatives_where=None,
         guide_negatives=None, exclude=None, weights=None, margin=0.0, mode="absolute",
         directions=("query_to_doc", "query_to_query", "doc_to_doc"), similarity="cosine",
         temperature=0.01, reduction="mean"):  # fmt: skip
    """Solatorio 2024: what the guide finds closer than the positive is no negative."""

    def out(a, b):
        return exclude is not None and a != b and exclude[a][b]

    def cosine(a, b):
        return similarity_of(a, b, "cosine", 1.0)

    values = []
    for i in range(len(queries)):
        known = cosine(guide_queries[i], guide_documents[i])
        limit = known - margin if mode == "absolute" else known - abs(known) * margin
        positive = similarity_of(queries[i], documents[i], similarity, temperature)
        terms = [positive]
        for j in range(len(queries)):
            looks = {
                "query_to_doc": (queries[i], documents[j], guide_queries[i], guide_documents[j]),
                "query_to_query": (queries[i], queries[j], guide_queries[i], guide_queries[j]),
                "doc_to_doc": (documents[i], documents[j], guide_documents[i], guide_documents[j]),
            }
            for direction in directions:
                a, b, guide_a, guide_b = looks[direction]
                hidden = out(i, j) or (direction != "query_to_doc" and out(j, i))
                if i != j and not hidden and not cosine(guide_a, guide_b) > limit:
                    terms.append(similarity_of(a, b, similarity, temperature))
        seen = hard_negatives(guide_negatives, negatives_where)
        for (_, hard), (_, guide) in zip(
            hard_negatives(negatives, negatives_where), seen, strict=True
        ):
            if not cosine(guide_queries[i], guide) > limit:
                terms.append(similarity_of(queries[i], hard, similarity, temperature))
        values.append(logsumexp(terms) - positive)
    return combine(values, weights, reduction)


PAIRS = {
    "gist": (
        gist,
        [
            {},
            {"temperature": 0.5},
            {"temperature": 0.5, "margin": 0.3},
            {"temperature": 0.5, "margin": 0.4, "mode": "relative"},
            {"temperature": 0.5, "directions": ("query_to_doc",)},
            {"temperature": 0.5, "directions": ("doc_to_doc", "query_to_doc")},
            {"temperature": 1.0, "similarity": "dot"},
        ],
    ),
}

MUTANTS = {
    "gist": {
        "exclusions ignored": ("negatives_where, exclude, gather", "negatives_where, None, gather"),
        "mask of negatives ignored": ("directions, negatives_where", "directions, None"),
        "the student guides": ("guides = build(guide_queries, guide_documents, guide_negatives,",
                               "guides = build(queries, documents, negatives,"),
        "margin ignored": ("guides, margin, mode", "guides, 0.0, mode"),
        "mode ignored": ("margin, mode)", 'margin, "absolute")'),
        "temperature ignored": ("similarity, temperature)", "similarity, 0.5)"),
        "weights ignored": ("None, weights, reduction", "None, None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.guided", "false_negative_mask", "gist"): {
        "negatives kept instead": ("scores > positive - slack", "scores < positive - slack"),
        "margin the other way": ("positive - slack", "positive + slack"),
        "a share without its sign": ("positive.abs()", "positive"),
    },
    ("losses.guided", "_values", "gist"): {
        "positive left out": ("positive | (where & ~false)", "where & ~false"),
        "guide ignored": ("where & ~false", "where"),
        "masks ignored": ("where & ~false", "~false"),
        "positive not subtracted": ("block - positive", "block"),
    },
    ("losses.guided", "_blocks", "gist"): {
        "all directions": ("directions=others", "directions=DIRECTIONS[1:]"),
        "negatives for documents too": ("=others, **common",
                                        "=others, **hard, **common"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def guided(**settings):
    def call(fn, x):
        hard = {}
        if "n" in x:
            hard = {"negatives": x["n"][:, None], "guide_negatives": x["gn"][:, None]}
        return fn(x["q"], x["p"], x["gq"], x["gp"], **hard, **settings)

    return call


CASES = {
    "st.gist": Case("gist", guided()),
    "st.gist.T0.05": Case("gist", guided(temperature=0.05)),
    "st.gist.hardneg.T0.05": Case("gist", guided(temperature=0.05)),
    "st.gist.rel0.05.hardneg.T0.05": Case(
        "gist", guided(temperature=0.05, margin=0.05, mode="relative")
    ),
    "st.gist.abs0.1.noanchor.nopos.T0.05": Case(
        "gist", guided(temperature=0.05, margin=0.1, directions=("query_to_doc",))
    ),
}

# The golden families of these losses.
FAMILIES = {"GISTEmbed"}
