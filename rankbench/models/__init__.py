"""Models: texts in, vectors or scores out."""

from rankbench.models.base import Encoder, Reranker
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.static_encoder import StaticEncoder

__all__ = ["BiEncoder", "Encoder", "Reranker", "StaticEncoder"]
