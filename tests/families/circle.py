"""Circle losses: loop references, mutants, and the numbers of other libraries."""

from peers import Case
from references import combine, log1pexp, logsumexp, similarity_of


def circle(scores, labels, margin=0.25, gamma=256.0):
    """Sun et al. 2020, Eq. 6: every pair of a positive and a negative, one by one."""
    terms = []
    for p, y in zip(scores, labels, strict=True):
        for n, x in zip(scores, labels, strict=True):
            if y > 0 and x <= 0:
                push, pull = max(n + margin, 0.0), max(1 + margin - p, 0.0)
                terms.append(gamma * (push * (n - margin) - pull * (p - (1 - margin))))
    return log1pexp(logsumexp(terms)) if terms else None


def class_circle(embeddings, labels, where=None, weights=None, margin=0.25, gamma=256.0,
                 reduction="mean"):  # fmt: skip
    """The loss of the list that each embedding makes of the others."""
    real = [True] * len(labels) if where is None else where
    values = []
    for i, embedding in enumerate(embeddings):
        others = [j for j in range(len(labels)) if j != i and real[i] and real[j]]
        scores = [similarity_of(embedding, embeddings[j], temperature=1.0) for j in others]
        same = [float(labels[j] == labels[i]) for j in others]
        values.append(circle(scores, same, margin, gamma))
    return combine(values, weights, reduction)


SETTINGS = [{}, {"margin": 0.4}, {"gamma": 8.0}, {"margin": -0.2, "gamma": 10.0}]
LISTS = {"circle": (circle, SETTINGS)}
PAIRS = {"class_circle": (class_circle, SETTINGS)}

MUTANTS = {
    "circle": {
        "margin ignored": ("margin=margin, ", ""),
        "scale ignored": (", gamma=gamma", ""),
        "labels shifted": ("labels > 0", "labels >= 0"),
        "padding among the negatives": ("values(scores, positive, where,",
                                        "values(scores, positive, torch.ones_like(where),"),
        "lists without a positive counted": ("positive.any(-1) & ", ""),
        "lists without a negative counted": (" & (where & ~positive).any(-1)", ""),
        "weights ignored": ("counted, weights,", "counted, None,"),
    },
    "class_circle": {
        "margin ignored": ("margin=margin, ", ""),
        "scale ignored": (", gamma=gamma", ""),
        "mask of candidates ignored": ("where=where, temperature", "temperature"),
        "mask of counts ignored": ("class_sizes(labels, where, gather)",
                                   "class_sizes(labels, None, gather)"),
        "a temperature left over": ("temperature=1.0", "temperature=0.1"),
        "rows without a positive counted": ("(alike > 0) & ", ""),
        "weights ignored": ('"weights": weights, ', ""),
    },
}  # fmt: skip

SHARED = {
    ("losses.circle", "circle_values", "circle"): {
        "pace of positives not cut at 0": ("torch.relu(1 + margin - scores.detach())",
                                           "(1 + margin - scores.detach())"),
        "pace of negatives not cut at 0": ("torch.relu(scores.detach() + margin)",
                                           "(scores.detach() + margin)"),
        "optimum of positives": ("1 + margin - scores", "1 - margin - scores"),
        "optimum of negatives": ("scores.detach() + margin", "scores.detach() - margin"),
        "boundary of positives": ("1 - margin - scores)", "1 + margin - scores)"),
        "boundary of negatives": ("(scores - margin)", "(scores + margin)"),
        "scale of positives ignored": ("pull = gamma *", "pull ="),
        "scale of negatives ignored": ("push = gamma *", "push ="),
        "positives among the negatives": ("where & ~positive", "where"),
        "sign flipped": ("-logsigmoid(-(low + high))", "-logsigmoid(low + high)"),
        "hinge for the softplus": ("-logsigmoid(-(low + high))", "torch.relu(low + high)"),
    },
}  # fmt: skip

CASES = {
    "pml.circle": Case(
        "class_circle",
        lambda fn, x: fn(x["e"], x["labels"], margin=0.4, gamma=80.0),
        because="its defaults are others",
        atol=2e-8,
    ),
}

# The golden families of these losses.
FAMILIES = {"Circle"}
