"""Embedding distillation: loop reference, mutants, and the numbers of other libraries."""

import math

from peers import Case
from references import combine, similarity_of


def embedding_distillation(embeddings, targets, where=None, weights=None, projection=None,
                           distance="cosine", reduction="mean"):  # fmt: skip
    """Kim et al. 2023: the distance of every row to the teacher's row."""
    values = []
    for b, (e, f) in enumerate(zip(embeddings, targets, strict=True)):
        if where is not None and not where[b]:
            values.append(None)
            continue
        if projection is not None:
            columns = zip(*projection, strict=True)
            e = [math.fsum(x * p for x, p in zip(e, column, strict=True)) for column in columns]
        squared = math.fsum((x - y) ** 2 for x, y in zip(e, f, strict=True))
        values.append({
            "cosine": 1 - similarity_of(e, f, temperature=1.0),
            "mse": squared / len(f),
            "l2": math.sqrt(squared),
        }[distance])  # fmt: skip
    return combine(values, weights, reduction)


PAIRS = {
    "embedding_distillation": (
        embedding_distillation,
        [{}, {"distance": "mse"}, {"distance": "l2"}],
    ),
}

MUTANTS = {
    "embedding_distillation": {
        "a sum over coordinates": ("values / targets.shape[-1]", "values"),
        "a mean of the cosine": ('if distance == "mse":', 'if distance != "l2":'),
        "always squared": ("DISTANCES[distance])", '"squared_euclidean")'),
        "no projection": ("where, projection)", "where)"),
        "padding counted": ("reduce_lists(values, where", "reduce_lists(values, values >= 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.embedding_distillation", "prepare_targets", "embedding_distillation"): {
        "padded embeddings kept": ("torch.where(where[:, None], as_float(embeddings), 0.0)",
                                   "as_float(embeddings)"),
        "the other side of the projection": ("projection.to(x.dtype).mT", "projection.to(x.dtype)"),
    },
}  # fmt: skip


def at(distance):
    return lambda fn, x: fn(x["q"], x["p"], distance=distance)


CASES = {
    f"st.embeddistill.{distance}": Case("embedding_distillation", at(distance))
    for distance in ("cosine", "mse", "l2")
}

# The golden families of these losses.
FAMILIES = {"Embedding distillation"}
