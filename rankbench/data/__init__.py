"""Data: collections, runs, examples to train on, and batches of them."""

from rankbench.data.collections import Collection, Document, load_collection, read_beir, write_beir
from rankbench.data.examples import Example, Examples, TrainingSet
from rankbench.data.formats import (
    Judgments,
    Run,
    read_qrels,
    read_run,
    read_topics,
    write_qrels,
    write_run,
)
from rankbench.data.rows import read_rows, read_triples, write_rows, write_triples
from rankbench.data.training_sets import (
    ClassSet,
    LabelledPairs,
    ListSet,
    PairSet,
    RunSet,
    TripleSet,
)

__all__ = [
    "ClassSet",
    "Collection",
    "Document",
    "Example",
    "Examples",
    "Judgments",
    "LabelledPairs",
    "ListSet",
    "PairSet",
    "Run",
    "RunSet",
    "TrainingSet",
    "TripleSet",
    "load_collection",
    "read_beir",
    "read_qrels",
    "read_rows",
    "read_run",
    "read_topics",
    "read_triples",
    "write_beir",
    "write_qrels",
    "write_rows",
    "write_run",
    "write_triples",
]
