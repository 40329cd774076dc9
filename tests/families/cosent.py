"""CoSENT and AnglE: loop references, mutants, and the numbers of other libraries."""

import math

from peers import Case
from references import log1pexp, logsumexp

from rankbench.candidates import normalize as unit


def cosent(scores, labels, temperature=0.05, normalize=None):
    """Su 2022: all pairs with different labels, one by one."""
    terms = [
        (lower - higher) / temperature
        for lower, y in zip(scores, labels, strict=True)
        for higher, x in zip(scores, labels, strict=True)
        if y < x
    ]
    if not terms:
        return None
    value = log1pexp(logsumexp(terms))
    return value - math.log1p(len(terms)) if normalize == "pairs" else value


def angle_of(query, document):
    """The parts of a complex inner product, over the lengths (Li and Li 2024)."""
    half = len(query) // 2
    z = [complex(a, b) for a, b in zip(query[:half], query[half:], strict=True)]
    w = [complex(a, b) for a, b in zip(document[:half], document[half:], strict=True)]
    product = sum(x * y.conjugate() for x, y in zip(z, w, strict=True))
    lengths = math.hypot(*query) * math.hypot(*document)
    return abs(product.real + product.imag) / lengths if lengths > 0 else 0.0


def angle(queries, documents, labels, where=None, temperature=0.05, reduction="mean"):
    """One number whatever the reduction, because a batch is one list."""
    rows = [i for i in range(len(labels)) if where is None or where[i]]
    scores = [angle_of(queries[i], documents[i]) for i in rows]
    value = cosent(scores, [labels[i] for i in rows], temperature)
    return 0.0 if value is None else value


LISTS = {
    "cosent": (
        cosent,
        [
            {},
            {"temperature": 1.0},
            {"normalize": "pairs"},
            {"normalize": "pairs", "temperature": 2.0},
        ],
    ),
}
PAIRS = {"angle": (angle, [{}, {"temperature": 0.5}])}

MUTANTS = {
    "cosent": {
        "temperature ignored": ("scores / temperature", "scores"),
        "order reversed": ("label_levels(labels)", "label_levels(-labels)"),
        "tied labels compared": ("label_levels(labels)", 'label_levels(labels, "stable")'),
        "mask ignored": ("label_levels(labels), where)",
                         "label_levels(labels), torch.ones_like(where))"),
        "a maximum for the sum": ("masked_logsumexp(costs + (-torch.expm1(-costs)).log(), some)",
                                  "torch.where(some, costs + (-torch.expm1(-costs)).log(), "
                                  "-torch.inf).amax(-1)"),
        "the 1 of every item counted": (" + (-torch.expm1(-costs)).log()", ""),
        "no 1 in the logarithm": ("-logsigmoid(-total)", "total"),
        "number of pairs ignored": ('if normalize == "pairs":', "if False:"),
        "always over the number of pairs": ('if normalize == "pairs":', "if True:"),
        "padding among the pairs": ("count_pairs(labels, where)",
                                    "count_pairs(labels, torch.ones_like(where))"),
        "tied labels counted": ("has_order(labels, where)", "where.any(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "angle": {
        "temperature ignored": ("temperature=temperature, ", ""),
        "mask of the list ignored": ("where=real, ", ""),
        "padded vectors kept": ("torch.where(real[:, None], x, 0.0)", "x"),
        "sides exchanged": ("angle_similarity(queries, documents)",
                            "angle_similarity(documents, queries)"),
        "labels reversed": ("cosent_loss(scores, labels,", "cosent_loss(scores, -labels,"),
    },
}  # fmt: skip

SHARED = {
    ("losses.angle", "angle_similarity", "angle"): {
        "sign kept": (".abs()", ""),
        "turned the other way": ("real - imaginary, imaginary + real",
                                 "real + imaginary, imaginary - real"),
        "the cosine": ("(left * turned)", "(left * right)"),
        "only the imaginary part": ("real - imaginary, imaginary + real", "-imaginary, real"),
        "coordinates averaged": (".sum(-1)", ".mean(-1)"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def cosines(x):
    return (unit(x["q"]) * unit(x["p"])).sum(-1)


CASES = {
    "st.cosent": Case("cosent", lambda fn, x: fn(cosines(x), x["labels"])),
    "st.cosent.scale1.ties": Case(
        "cosent", lambda fn, x: fn(cosines(x), x["labels"], temperature=1.0)
    ),
    "st.angle": Case("angle", lambda fn, x: fn(x["q"], x["p"], x["labels"])),
    "st.cosinesim": Case(
        "mse", lambda fn, x: fn(cosines(x), x["labels"]), because="the scores are cosines"
    ),
}

# The golden families of these losses.
FAMILIES = {"CoSENT", "AnglE", "CosineSimilarity MSE"}
