"""Collections: documents, queries and graded judgments."""

from rankbench.data.collections import Collection, Document, load_collection

__all__ = ["Collection", "Document", "load_collection"]
