"""Small models of every kind, which learn from words."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from rankbench.candidates import normalize
from rankbench.models.base import Encoder, Reranker


class Words:
    """Token ids of words; 0 is for padding."""

    def __init__(self, texts):
        words = sorted({word for text in texts for word in text.split()})
        self.numbers = {word: i + 1 for i, word in enumerate(words)}

    def __call__(self, text):
        return [self.numbers.get(word, len(self.numbers) + 1) for word in text.split()]

    def __len__(self):
        return len(self.numbers) + 2


def pad(ids):
    width = max(max(map(len, ids)), 1)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])


def write(model, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), Path(folder) / "model.safetensors")
    (Path(folder) / "rankbench.json").write_text(json.dumps({"kind": model.kind}), "utf-8")


class WordEncoder(Encoder):
    """The mean of word vectors, with dropout if asked for."""

    kind = "words"

    def __init__(self, texts, dim=8, dropout=0.0, seed=0):
        super().__init__()
        self.words = Words(texts)
        torch.manual_seed(seed)
        self.vectors = torch.nn.Embedding(len(self.words), dim)
        self.dropout = torch.nn.Dropout(dropout)

    def tokenize(self, texts, role="document"):
        return [self.words(text) for text in texts]

    def tokens(self, input_ids):
        return self.dropout(self.vectors(input_ids))

    def forward(self, input_ids, attention_mask, role="document"):
        mask = attention_mask[..., None].to(self.vectors.weight.dtype)
        return normalize((self.tokens(input_ids) * mask).sum(1))

    def save(self, folder):
        write(self, folder)


class SparseEncoder(WordEncoder):
    """The largest activation of each of some words."""

    kind, similarity, sparse = "sparse words", "dot", True

    def forward(self, input_ids, attention_mask, role="document"):
        found = self.tokens(input_ids).relu() * attention_mask[..., None]
        return found.amax(1).log1p()


class LateEncoder(WordEncoder):
    """A vector per word."""

    kind, similarity = "late words", "maxsim"

    def forward(self, input_ids, attention_mask, role="document"):
        return normalize(self.tokens(input_ids)), attention_mask.bool()


class WordReranker(Reranker):
    """The dot product of the means of two texts' words."""

    kind = "word pairs"

    def __init__(self, texts, dim=8, seed=0):
        super().__init__()
        self.words = Words(texts)
        torch.manual_seed(seed)
        self.vectors = torch.nn.Embedding(len(self.words), dim)

    def tokenize(self, queries, documents):
        pairs = zip(queries, documents, strict=True)
        return [{"query": self.words(q), "document": self.words(d)} for q, d in pairs]

    def batch(self, pairs):
        return {side: pad([pair[side] for pair in pairs]) for side in ("query", "document")}

    def forward(self, where, **features):
        sides = []
        for name in ("query", "document"):
            mask = (features[name] > 0)[..., None]
            sides.append((self.vectors(features[name]) * mask).sum(1) / mask.sum(1).clamp(min=1))
        scores = (sides[0] * sides[1]).sum(-1)
        return scores.new_zeros(where.shape).masked_scatter(where, scores)

    def save(self, folder):
        write(self, folder)
