"""Plain floats and plain loops, nothing of the library: what the references of losses share.

The losses themselves are in families/, one file per family. A list is two Python lists of floats;
padding has been dropped before it gets there.
"""

import math

# One list ---------------------------------------------------------------------------------------


def log1pexp(x):
    """log(1 + e^x) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def logsumexp(xs):
    top = max(xs)
    return top + math.log(math.fsum(math.exp(x - top) for x in xs))


def log_softmax(xs, temperature=1.0):
    scaled = [x / temperature for x in xs]
    total = logsumexp(scaled)
    return [x - total for x in scaled]


# Lists ------------------------------------------------------------------------------------------


def combine(values, weights=None, reduction="mean"):
    """The lists together; None marks a list that does not count."""
    if reduction == "none":
        return [0.0 if v is None else v for v in values]
    weights = [1.0] * len(values) if weights is None else weights
    total = mass = 0.0
    for v, w in zip(values, weights, strict=True):
        if v is not None:
            total += w * v
            mass += w
    if reduction == "sum":
        return total
    return total / mass if mass > 0 else 0.0


def on_lists(fn, scores, labels, where, weights=None, reduction="mean", items=None, **settings):
    """A loss of one list applied to padded lists; `items`: keywords with a value per item."""
    values = []
    for i, real in enumerate(where):

        def kept(rows, i=i, real=real):
            return [x for x, r in zip(rows[i], real, strict=True) if r]

        more = {name: kept(rows) for name, rows in (items or {}).items()}
        values.append(fn(kept(scores), kept(labels), **more, **settings))
    return combine(values, weights, reduction)


def on_rows(fn, rows, where=None, weights=None, reduction="mean", **settings):
    """A loss of one row applied to the real rows of a batch."""
    real = [True] * len(rows) if where is None else where
    values = [fn(row, **settings) if r else None for row, r in zip(rows, real, strict=True)]
    return combine(values, weights, reduction)


# Batches of pairs -------------------------------------------------------------------------------


def similarity_of(a, b, similarity="cosine", temperature=0.05):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    if similarity == "cosine":
        lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
        dot = dot / lengths if lengths > 0 else 0.0
    return dot / temperature


def hard_negatives(negatives, negatives_where):
    """(owner, vector) of every real hard negative."""
    found = []
    for owner, rows in enumerate(negatives or []):
        for k, row in enumerate(rows):
            if negatives_where is None or negatives_where[owner][k]:
                found.append((owner, row))
    return found


def hardened(value, mined, hardness, strength, temperature):
    """The logit of a negative, mined for this very row or not, raised by its own similarity."""
    chosen = hardness == "all" or hardness == ("hard" if mined else "in_batch")
    return value + strength * value * temperature if chosen else value


# Metrics ----------------------------------------------------------------------------------------


def ranked(scores, labels):
    """Labels, best score first; ties keep their order."""
    return [labels[i] for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))]


def dcg(sorted_labels, k=None, gain="exp2"):
    total = 0.0
    for r, y in enumerate(sorted_labels[:k], start=1):
        total += (2.0**y - 1 if gain == "exp2" else y) / math.log2(1 + r)
    return total


def ndcg(scores, labels, k=None, gain="exp2"):
    ideal = dcg(sorted(labels, reverse=True), k, gain)
    return dcg(ranked(scores, labels), k, gain) / ideal if ideal > 0 else 0.0


def mrr(scores, labels, k=None):
    for r, y in enumerate(ranked(scores, labels)[:k], start=1):
        if y > 0:
            return 1 / r
    return 0.0


def average_precision(scores, labels, k=None):
    relevant = sum(1 for y in labels if y > 0)
    found = total = 0
    for r, y in enumerate(ranked(scores, labels)[:k], start=1):
        if y > 0:
            found += 1
            total += found / r
    return total / relevant if relevant else 0.0


def precision(scores, labels, k):
    return sum(1 for y in ranked(scores, labels)[:k] if y > 0) / k


def recall(scores, labels, k):
    relevant = sum(1 for y in labels if y > 0)
    found = sum(1 for y in ranked(scores, labels)[:k] if y > 0)
    return found / relevant if relevant else 0.0
