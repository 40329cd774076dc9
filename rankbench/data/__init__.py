"""Data: collections, runs, examples to train on, and batches of them; loaded when asked for."""

from importlib import import_module

_HOMES = {
    "batches": "GroupByLabelBatches LengthBatches MixedBatches NoDuplicateBatches RandomBatches",
    "collections": "Collection Document load_collection read_beir write_beir",
    "examples": "Example Examples TrainingSet",
    "features": "FeatureData read_letor write_letor",
    "formats": "Judgments Run read_qrels read_run read_topics write_qrels write_run write_topics",
    "hub": "from_datasets from_ir_datasets load_examples",
    "mining": "mine_hard_negatives",
    "rows": "read_rows read_triples write_rows write_triples",
    "training_sets": "ClassSet LabelledPairs ListSet PairSet RunSet TripleSet",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """A public name, from the module that it is defined in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
