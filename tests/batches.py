"""Random batches of embeddings for any signature, as plain lists that references can read."""

import torch

# Losses whose vectors need an even number of coordinates.
EVEN = {"angle"}
# Losses that have nothing to compare without hard negatives, and refuse to.
NEGATIVES_NEEDED = {"given_triplet"}
MASKS = {"where", "documents_where", "negatives_where", "exclude", "positives"}


def batch(card, r, full: bool = False):
    """Data and keywords of one call; `full` has every keyword, four rows and a zero vector.

    `r` is a `random.Random`: coarse numbers, so that ties are common, unless `full`.
    """
    size, count, k = (4, 3, 2) if full else (r.randint(1, 4), r.randint(1, 3), r.randint(1, 2))
    dim = 2 * r.randint(1, 2) if card.name in EVEN else 3 if full else r.randint(1, 3)
    number = (lambda: r.uniform(-1, 1)) if full else (lambda: r.randint(-8, 8) / 8)

    def vectors(n, d=dim):
        return [[number() for _ in range(d)] for _ in range(n)]

    def coins(n, m, share=0.5):
        return [[r.random() < share for _ in range(m)] for _ in range(n)]

    queries, documents = vectors(size), vectors(size)
    if full:
        queries[-1] = [0.0] * dim
    grade = {
        "binary": lambda: float(r.randint(0, 1)),
        "graded": lambda: r.randint(0, 4) / 4,
    }.get(card.labels)
    real = [True] * size if full else [r.random() < 0.8 for _ in range(size)]
    data = {
        "embeddings": lambda: [queries, documents],
        "pairs": lambda: [queries, documents, [grade() for _ in range(size)]],
        "classes": lambda: [queries, [r.randint(0, 1 if full else 2) for _ in range(size)]],
        "guided": lambda: [queries, documents, vectors(size, 2), vectors(size, 2)],
        "targets": lambda: [queries, documents],
        "slots": lambda: [queries, [[float(r.randint(0, 3)) for _ in range(dim)] for _ in queries]],
        "activation_pairs": lambda: [queries, documents + vectors(1 if full else r.randint(0, 2))],
        "lists": lambda: [queries, [vectors(count) for _ in range(size)],
                          [[float(r.randint(0, 3)) for _ in range(count)] for _ in range(size)]],
    }[card.signature]()  # fmt: skip
    if card.signature == "lists":
        real = coins(size, count, 0.8)
    keywords = {
        "where": real,
        "documents_where": [r.random() < 0.8 for _ in data[1]] if len(data) > 1 else [],
        "negatives": [vectors(k) for _ in range(size)],
        "negatives_where": coins(size, k, 0.6),
        "guide_negatives": [vectors(k, 2) for _ in range(size)],
        "exclude": coins(size, size, 0.4),
        "positives": coins(size, size, 0.4),
        "weights": [r.choice([0.5, 1.0, 3.0]) for _ in range(size)],
        "projection": vectors(dim),
    }
    keywords = {n: v for n, v in keywords.items() if n in card.settings}
    if full:
        if "exclude" in keywords:  # the first row is compared with nothing but its own
            keywords["exclude"][0] = [True] * size
        return data, keywords
    chosen = {n: v for n, v in keywords.items() if r.random() < 0.5}
    if card.name in NEGATIVES_NEEDED:
        chosen["negatives"] = keywords["negatives"]
    hard = {n for n in keywords if "negatives" in n}
    if "negatives" not in chosen:
        chosen = {n: v for n, v in chosen.items() if n not in hard}
    elif "guide_negatives" in keywords:
        chosen["guide_negatives"] = keywords["guide_negatives"]
    return data, chosen


def tensors(card, data, keywords):
    """The same call with tensors."""
    data = [torch.tensor(x, dtype=torch.float64) for x in data]
    if card.signature == "classes":
        data[1] = data[1].long()
    return data, {
        n: torch.tensor(v, dtype=torch.bool if n in MASKS else torch.float64)
        for n, v in keywords.items()
    }
