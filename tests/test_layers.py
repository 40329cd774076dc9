"""Modules import only from lower layers, and importing the losses stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "rankbench"

# Row of every module; a folder's row holds for all modules in it. See ARCHITECTURE, layers.
ROWS = {
    "core": 0,
    "cards": 1, "metrics": 1, "scaling": 1,
    "writing": 1, "pair_sums": 1, "lambda_sums": 1, "ordered_sums": 1, "squared_gaps": 1,
    "candidates": 2, "late_interaction": 2, "embedding_metrics": 2, "activations": 2,
    "losses": 3,
    "checks": 4, "lint": 4, "plots": 4, "systems": 4, "peers": 4,
    "models": 5, "data": 5, "recipes": 5, "records": 5, "papers": 5,
    "training": 6, "evaluation": 6, "comparing": 6, "bench": 6, "bench_batches": 6,
    "capstones": 7, "adapters": 7,
    "cli": 8,
}  # fmt: skip

# Imports that the rule would refuse. An entry that is not needed any more fails a test.
ALLOWED = {
    ("bench", "cli"): "python -m rankbench.bench is the command",
    ("bench_batches", "bench"): "times and records as for lists",
    ("late_interaction", "candidates"): "the same batch, with a vector per token",
    ("cards", "losses"): "inside cards(): defining the losses files their cards",
    ("cards", "_modidx"): "inside LossCard.page: nbdev's index says which notebook derives what",
    ("data.collections", "data.pydocs"): "inside load_collection: pydocs is built on this module",
    ("data.collections", "data.corpora"): "inside read_beir: documents on disk are documents",
    ("data.collections", "data.hub"): "inside load_collection: a hub's collections are collections",
    ("training.pairs", "training.trainer"): "inside fit(): transformers is slow to import",
    ("records", "recipes"): "a record holds a recipe and checks its digest",
    ("plots", "checks"): "pictures draw the gradient that the checks compare",
    ("losses.written_order", "losses.position_aware"): "weights of places, as in p-ListMLE",
    ("losses.nested", "losses.combining"): "wrappers know each other",
    ("losses.specs", "losses.combining"): "a written loss is a weighted sum",
    ("losses.neural_ndcg", "losses.sorting"): "NeuralNDCG balances the matrix of NeuralSort",
    ("losses.angle", "losses.cosent"): "AnglE is CoSENT on another similarity",
    ("losses.conan", "losses.contrastive"): "Conan is InfoNCE plus CoSENT",
    ("losses.conan", "losses.cosent"): "Conan is InfoNCE plus CoSENT",
    ("losses.two_views", "losses.bidirectional"): "the symmetric loss is two of its directions",
    ("losses.npairs", "losses.contrastive"): "N-pairs is InfoNCE on dot products",
    (
        "losses.in_batch_lists",
        "losses.contrastive",
    ): "a group of a retriever has the softmax values",
    ("losses.in_batch_lists", "losses.psl"): "PSL on a batch has the activations of PSL on a list",
    ("losses.teacher_order", "losses.rank_surrogates"): "ranks in which ties share",
    (
        "losses.preference_lists",
        "losses.preference",
    ): "preferences with degrees rank the same implicit rewards",
    ("losses.embedding_distillation", "losses.distances"): "a target is the other half of a pair",
    ("losses.triplet", "losses.distances"): "triplets compare the distances of pairs",
}
LAZY = {
    ("bench", "cli"),
    ("cards", "losses"),
    ("cards", "_modidx"),
    ("data.collections", "data.pydocs"),
    ("data.collections", "data.corpora"),
    ("data.collections", "data.hub"),
    ("training.pairs", "training.trainer"),
    ("training.systems", "training.trainer"),
}  # never at the top of the module

HEAVY = ("transformers", "pandas", "matplotlib", "datasets", "scipy")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"}


def exists(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules of the package that a file imports, and whether at the top level."""
    tree = ast.parse(path.read_text("utf-8"))
    package = ["rankbench", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for full in names:
            if full == "rankbench" or not full.startswith("rankbench."):
                continue
            name = full.removeprefix("rankbench.")
            while name and not exists(name):
                name = name.rpartition(".")[0]
            if name:
                found.append((name, node in tree.body))
    return found


def row(name: str) -> int:
    return ROWS[name.split(".")[0]]


IMPORTS = [(name, *imported) for name, path in MODULES.items() for imported in imports(path)]


@pytest.mark.parametrize("name", [n for n in MODULES if n])
def test_every_module_has_a_layer(name):
    assert name.split(".")[0] in ROWS


@pytest.mark.parametrize(("importer", "imported", "top"), IMPORTS)
def test_imports_point_downwards(importer, imported, top):
    if (importer, imported) in ALLOWED or not importer:
        return
    if importer.split(".")[0] == imported.split(".")[0]:
        return  # within a folder; losses have their own test
    assert row(imported) < row(importer), f"{importer} imports {imported}, which is not below it"


@pytest.mark.parametrize(
    ("importer", "imported", "top"),
    [i for i in IMPORTS if i[0].startswith("losses.") and i[1].startswith("losses")],
)
def test_losses_do_not_import_each_other(importer, imported, top):
    assert (importer, imported) in ALLOWED


@pytest.mark.parametrize(("importer", "imported", "top"), IMPORTS)
def test_what_must_be_imported_lazily_is(importer, imported, top):
    assert not (top and (importer, imported) in LAZY)


@pytest.mark.parametrize(("importer", "imported", "top"), IMPORTS)
def test_only_named_imports_hide_in_a_function(importer, imported, top):
    downwards = lambda: importer and row(importer) > row(imported)  # noqa: E731
    assert top or (importer, imported) in LAZY or downwards()


@pytest.mark.parametrize("pair", ALLOWED, ids=" imports ".join)
def test_every_exception_is_still_needed(pair):
    assert pair in {(importer, imported) for importer, imported, _ in IMPORTS}


def test_an_upward_import_would_be_seen(tmp_path, monkeypatch):
    (tmp_path / "losses").mkdir()
    for name in ("core.py", "losses/__init__.py", "losses/pairwise.py", "cli.py"):
        (tmp_path / name).touch()
    guilty = tmp_path / "losses" / "pairwise.py"
    guilty.write_text("from ..cli import main\nimport rankbench.core\nfrom .. import losses\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert imports(guilty) == [("cli", True), ("core", True), ("losses", True)]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_losses_loads_nothing_heavy():
    code = f"import rankbench.losses, sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    assert python(code) == ""


def test_importing_the_package_loads_no_torch():
    assert python("import rankbench, sys; print('torch' in sys.modules)") == "False"


def test_every_module_can_be_imported_first():
    names = [n for n in MODULES if n]
    code = f"""
import importlib, sys
for name in {names}:
    for loaded in [m for m in sys.modules if m.startswith("rankbench")]:
        del sys.modules[loaded]
    importlib.import_module("rankbench." + name)
    print(name)
"""
    assert python(code).split() == names


@pytest.mark.parametrize("package", ["data", "models"])
def test_public_names_come_from_their_package(package):
    code = f"""
import sys
import rankbench.{package} as package
for name in package.__all__:
    assert getattr(package, name) is not None and name in dir(package), name
from rankbench.{package} import *
print(*[m for m in {HEAVY} if m in sys.modules])
"""
    assert python(code) == ""


def test_collections_load_no_loss():
    code = "import rankbench.data.collections, sys; print('rankbench.losses' in sys.modules)"
    assert python(code) == "False"
