"""What a comparison with another library is: which loss, called how, converted by which claim."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

ST, LIR, ALLRANK, RAX = "sentence_transformers", "lightning_ir", "allrank", "rax"
TFR, PYTORCHLTR, PTRANKING = "tensorflow_ranking", "pytorchltr", "ptranking"


@dataclass(frozen=True)
class Case:
    """How to get a peer's number from ours."""

    loss: str
    call: Callable  # (loss function, inputs) -> our value
    library: str | None = None  # Key of `elsewhere` on the card that states the conversion.
    because: str = ""  # What `call` converts, where it converts something.
    grad: bool = True  # Compare gradients.
    atol: float = 1e-6  # More where the peer's float32 gradient is mostly rounding.


def on_list(**settings):
    return lambda fn, x: fn(x["scores"], x["labels"], **settings)


def on_pairs(**settings):
    def call(fn, x):
        hard = {"negatives": x["n"][:, None]} if "n" in x else {}
        return fn(x["q"], x["p"], **hard, **settings)

    return call


def two(x):
    """[B, 2] scores of positive and negative, given as columns or as vectors."""
    return torch.stack([x["pos"].flatten(), x["neg"].flatten()], -1)


def first_is_relevant(scores):
    return torch.zeros_like(scores).index_fill(-1, torch.tensor(0), 1.0)
