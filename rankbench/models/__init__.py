"""Encoders: text in, unit vectors out."""

from rankbench.models.base import Encoder, Reranker
from rankbench.models.bi_encoder import BiEncoder, StaticEncoder, load_encoder

__all__ = ["BiEncoder", "Encoder", "Reranker", "StaticEncoder", "load_encoder"]
