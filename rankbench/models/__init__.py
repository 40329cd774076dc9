"""Models: texts in, vectors or scores out."""

from rankbench.models.asymmetric import Asymmetric
from rankbench.models.base import Encoder, Reranker
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.late_interaction import LateInteractionEncoder
from rankbench.models.loading import load_model
from rankbench.models.static_encoder import StaticEncoder

__all__ = [
    "Asymmetric",
    "BiEncoder",
    "Encoder",
    "LateInteractionEncoder",
    "Reranker",
    "StaticEncoder",
    "load_model",
]
