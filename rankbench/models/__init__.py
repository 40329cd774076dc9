"""Encoders: text in, unit vectors out."""

from rankbench.models.bi_encoder import BiEncoder, Encoder, StaticEncoder, load_encoder

__all__ = ["BiEncoder", "Encoder", "StaticEncoder", "load_encoder"]
