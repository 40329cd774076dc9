"""Models: texts in, vectors or scores out."""

from rankbench.models.asymmetric import Asymmetric
from rankbench.models.base import Encoder, Reranker
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.cross_encoder import CrossEncoder
from rankbench.models.feature_ranker import AttentionRanker, FeatureRanker
from rankbench.models.inference_free import InferenceFreeSplade
from rankbench.models.late_interaction import LateInteractionEncoder
from rankbench.models.loading import load_model
from rankbench.models.splade import SpladeEncoder
from rankbench.models.static_encoder import StaticEncoder

__all__ = [
    "Asymmetric",
    "AttentionRanker",
    "BiEncoder",
    "CrossEncoder",
    "Encoder",
    "FeatureRanker",
    "InferenceFreeSplade",
    "LateInteractionEncoder",
    "Reranker",
    "SpladeEncoder",
    "StaticEncoder",
    "load_model",
]
