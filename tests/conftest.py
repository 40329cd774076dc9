"""Fixtures and settings that all tests share."""

import gc
import json
import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("rankbench", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("rankbench")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of material that is not part of the repository."""
    folder = Path(os.environ.get("RANKBENCH_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared folder; {folder} does not exist. Set RANKBENCH_SHARED.")
    return folder


@pytest.fixture(scope="session")
def golden(shared) -> dict[str, dict]:
    """Values and gradients that other libraries returned, by id."""
    path = shared / "golden" / "golden.json"
    if not path.exists():
        pytest.skip(f"needs golden values; {path} does not exist")
    return {case["id"]: case for case in json.loads(path.read_text("utf-8"))["cases"]}


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory) -> Path:
    """A tiny transformer with random weights, in the layout that the hub uses."""
    from tiny import make_collection
    from transformers import BertConfig, BertModel

    from rankbench.models.static_encoder import train_pieces

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_pieces([d.full for d in make_collection().documents.values()], 200)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def without_shape_checks(monkeypatch):
    """Calls as a user makes them: the tests wrap every function in a type checker.

    torch.compile cannot trace the checker, and it refuses some arguments before our own errors do.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def blank_pictures(monkeypatch):
    """Figures are laid out but saved blank: drawing is nine tenths of a tiny comparison.

    Fixtures of a wider scope are made before this one, so their figures are real.
    """
    from matplotlib.figure import Figure

    def blank(self, file, **_):
        file.write("<svg></svg>") if hasattr(file, "write") else Path(file).touch()

    monkeypatch.setattr(Figure, "savefig", blank)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny rerankers by the names of `make_model`, made when asked for."""
    from tiny_rerankers import build

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = build(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def pytest_collection_finish():
    """What is imported by now stays: the collector need not look at it in every training run."""
    gc.collect()
    gc.freeze()
