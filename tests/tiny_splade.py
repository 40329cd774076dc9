"""Tiny language models with random weights, with and without a head."""

from pathlib import Path

import torch

TEXTS = [
    "natural logarithm of a number", "sort the items of a list", "x",
    "open a file for reading or for writing, and close it when done", "wait for a network reply",
]  # fmt: skip


def make_models(folder: Path) -> Path:
    """Folders "mlm" and "plain" of transformers, with one vocabulary."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    from rankbench.models.static_encoder import train_pieces

    pieces = train_pieces(TEXTS * 3, 80)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(pieces), intermediate_size=32, **sizes)
    for seed, name, kind in ((0, "mlm", BertForMaskedLM), (1, "plain", BertModel)):
        torch.manual_seed(seed)
        model = kind(config)
        if name == "mlm":
            torch.nn.init.normal_(model.get_output_embeddings().bias)
            torch.nn.init.normal_(model.cls.predictions.transform.dense.weight)
        model.save_pretrained(folder / name)
        pieces.save_pretrained(folder / name)
    return folder
