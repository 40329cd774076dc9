"""Every loss once more, from the papers: plain floats, plain loops, nothing of the library.

A list is two Python lists of floats; padding has been dropped before it gets here. A function
returns the loss of the list, or None where the list has nothing to learn from.
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


def bce(scores, labels, pos_weight=1.0):
    """Cox 1958: mean over items of -ω y log p - (1 - y) log(1 - p)."""
    if not scores:
        return None
    total = 0.0
    for s, y in zip(scores, labels, strict=True):
        total += pos_weight * y * log1pexp(-s) + (1 - y) * log1pexp(s)
    return total / len(scores)


def ranknet(scores, labels, sigma=1.0):
    """Burges et al. 2005: mean over pairs with yᵢ > yⱼ of log(1 + e^(-σ(sᵢ - sⱼ)))."""
    total, count = 0.0, 0
    for si, yi in zip(scores, labels, strict=True):
        for sj, yj in zip(scores, labels, strict=True):
            if yi > yj:
                total += log1pexp(-sigma * (si - sj))
                count += 1
    return total / count if count else None


def softmax(scores, labels, temperature=1.0, normalize=True):
    """Bruch et al. 2019: cross entropy of the labels, as shares, and the softmax of the scores."""
    mass = math.fsum(labels)
    if not scores or mass <= 0:
        return None
    logs = log_softmax(scores, temperature)
    total = 0.0
    for y, log_p in zip(labels, logs, strict=True):
        total -= y * log_p
    return total / mass if normalize else total


def listnet(scores, labels, temperature=1.0, label_temperature=1.0):
    """Cao et al. 2007: cross entropy of the top-one probabilities of labels and of scores."""
    if not scores:
        return None
    total = 0.0
    for log_q, log_p in zip(
        log_softmax(labels, label_temperature), log_softmax(scores, temperature), strict=True
    ):
        total -= math.exp(log_q) * log_p
    return total


def kl(scores, labels, student_temperature=1.0, teacher_temperature=None,
       square_temperature=False, direction="forward"):  # fmt: skip
    """Hinton et al. 2015: Σ p_t (log p_t - log p_s), or the same with the two exchanged."""
    if len(scores) < 2:
        return None
    student = log_softmax(scores, student_temperature)
    teacher = log_softmax(
        labels, student_temperature if teacher_temperature is None else teacher_temperature
    )
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    total = math.fsum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True))
    return total * student_temperature**2 if square_temperature else total


def margin_mse(scores, labels, pairs="all", margin=None):
    """Hofstätter et al. 2020: mean over pairs of ((sᵢ - sⱼ) - (tᵢ - tⱼ))²."""
    n = len(scores)
    if n < 2:
        return None
    if pairs == "all":
        chosen = [(i, j) for i in range(n) for j in range(i + 1, n)]
    elif pairs == "ordered":
        chosen = [(i, j) for i in range(n) for j in range(n) if labels[i] > labels[j]]
    else:
        best = max(labels)
        chosen = [(i, j) for i in range(n) for j in range(n) if labels[i] == best > labels[j]]
    if not chosen:
        return None
    total = 0.0
    for i, j in chosen:
        target = labels[i] - labels[j] if margin is None else margin
        total += ((scores[i] - scores[j]) - target) ** 2
    return total / len(chosen)


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


def on_lists(fn, scores, labels, where, weights=None, reduction="mean", **settings):
    """A loss of one list applied to padded lists."""
    values = []
    for s, y, real in zip(scores, labels, where, strict=True):
        values.append(
            fn(
                [x for x, r in zip(s, real, strict=True) if r],
                [x for x, r in zip(y, real, strict=True) if r],
                **settings,
            )
        )
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


def infonce(queries, documents, negatives=None, negatives_where=None, positives=None,
            exclude=None, weights=None, similarity="cosine", temperature=0.05,
            multi_positive="mean", reduction="mean"):  # fmt: skip
    """van den Oord et al. 2018, with in-batch negatives (Karpukhin et al. 2020)."""
    values = []
    for i, query in enumerate(queries):
        good, bad = [], []
        for j, document in enumerate(documents):
            s = similarity_of(query, document, similarity, temperature)
            if i == j or (positives is not None and positives[i][j]):
                good.append(s)
            elif exclude is None or not exclude[i][j]:
                bad.append(s)
        for _, row in hard_negatives(negatives, negatives_where):
            bad.append(similarity_of(query, row, similarity, temperature))
        if multi_positive == "mean":
            value = logsumexp(good + bad) - math.fsum(good) / len(good)
        elif multi_positive == "union":
            value = logsumexp(good + bad) - logsumexp(good)
        else:
            value = math.fsum(logsumexp([p, *bad]) - p for p in good) / len(good)
        values.append(value)
    return combine(values, weights, reduction)


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


# Activations ------------------------------------------------------------------------------------


def flops(activations, where=None, row_threshold=None):
    """Paria et al. 2020: Σ over dimensions of the squared mean absolute activation."""
    real = [row for r, row in enumerate(activations) if where is None or where[r]]
    if not real:
        return 0.0
    total = 0.0
    for v in range(len(real[0])):
        mass = 0.0
        for row in real:
            active = sum(1 for x in row if x != 0)
            if row_threshold is None or active > row_threshold:
                mass += abs(row[v])
        total += (mass / len(real)) ** 2
    return total


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
