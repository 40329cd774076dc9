import importlib.util

import numpy
import pytest

from rankbench.core import UnknownName
from rankbench.data import pydocs
from rankbench.data.collections import positive_pairs, read_beir
from rankbench.data.pydocs import Entry, collect_entries, load_pydocs, resolve, see_also, split_of


@pytest.fixture(scope="module")
def collection():
    return load_pydocs()


@pytest.fixture(scope="module")
def judged(collection):
    return {q: grades for split in collection.judgments.values() for q, grades in split.items()}


def test_a_query_is_judged_for_what_its_author_listed(judged):
    assert judged["numpy.log"]["numpy.log1p"] >= 1
    assert judged["numpy.sin"]["numpy.arcsin" if "numpy.arcsin" in judged else "numpy.asin"] >= 1


def test_a_mutual_listing_is_graded_above_a_one_way_listing(judged):
    assert judged["numpy.sort"]["numpy.argsort"] == 1 or judged["numpy.sort"]["numpy.argsort"] == 2
    two = [(q, d) for q, grades in judged.items() for d, g in grades.items() if g == 2]
    assert two
    for q, d in two[:200]:
        assert judged.get(d, {q: 2}).get(q, 2) >= 2


def test_an_object_that_nobody_listed_is_not_judged(judged):
    assert not {"numpy.abs", "numpy.absolute"} & judged["numpy.log"].keys()


def test_every_ufunc_is_a_document(collection):
    names = {n for e in collect_entries(("numpy",)) if e.name in collection.documents
             for n in e.names}  # fmt: skip
    ufuncs = {f"numpy.{k}" for k, f in vars(numpy).items() if isinstance(f, numpy.ufunc)}
    assert len(ufuncs) >= 90
    assert ufuncs <= names


def test_ufuncs_that_share_their_parameters_are_different_documents(collection):
    assert {"numpy.log", "numpy.log10", "numpy.log1p", "numpy.cos"} <= collection.documents.keys()


def test_every_query_has_its_own_document_at_grade_three(judged):
    assert all(grades[q] == 3 for q, grades in judged.items())


def test_same_last_names_share_a_split(collection):
    for split, queries in collection.judgments.items():
        assert all(split_of(q) == split for q in queries)
    assert split_of("numpy.sum") == split_of("pandas.DataFrame.sum") == split_of("numpy.ma.sum")


def test_a_document_does_not_contain_its_own_dotted_name(collection):
    assert not [k for k, d in collection.documents.items() if f" {k}(" in f" {d.text}"]


def test_a_query_does_not_stand_in_its_document(collection, judged):
    leaked = [q for q in judged if collection.queries[q].lower().rstrip(".")
              in collection.documents[q].text.lower()]  # fmt: skip
    assert not leaked


def test_names_resolve_in_the_nearest_namespace():
    known = {n: n for n in ("numpy.sum", "pandas.DataFrame.sum", "pandas.sum", "scipy.fft.fft")}
    method = Entry("pandas.DataFrame.mean", ("pandas.DataFrame.mean",), "")
    assert resolve("sum", method, known) == "pandas.DataFrame.sum"
    assert resolve("DataFrame.sum", method, known) == "pandas.DataFrame.sum"
    assert resolve("numpy.sum", method, known) == "numpy.sum"
    assert resolve("fft", method, known) is None


def test_see_also_is_read_in_all_its_forms():
    doc = "Summary.\n\nSee Also\n--------\na, b : Two.\n:func:`c.d` : One,\n    e not this.\n~f\n"
    assert see_also(doc) == ["a", "b", "c.d", "f"]


def test_the_cache_gives_what_was_built(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path))
    built = load_pydocs(("numpy",))
    monkeypatch.setattr(pydocs, "build_pydocs", lambda *_: pytest.fail("built again"))
    assert load_pydocs(("numpy",)).fingerprint == built.fingerprint


def test_two_processes_may_build_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path))
    build = pydocs.build_pydocs

    def build_while_another_finishes(*arguments):
        monkeypatch.setattr(pydocs, "build_pydocs", build)
        load_pydocs(("numpy",))
        return build(*arguments)

    monkeypatch.setattr(pydocs, "build_pydocs", build_while_another_finishes)
    assert not load_pydocs(("numpy",)).notes
    assert len(list(tmp_path.iterdir())) == 1  # no temporary folder is left


def test_the_library_of_python_is_collected():
    entries = collect_entries(("python",))
    names = {name for entry in entries for name in entry.names}
    assert {"json.dumps", "os.path.join", "builtins.str.split", "heapq.heappush"} <= names
    assert "logging.Logger.info" in names and not any(name.startswith("posix") for name in names)


def test_what_a_package_imports_is_not_its_own():
    assert not any(
        e.name.endswith((".deque", ".defaultdict")) for e in collect_entries(("networkx",))
    )
    assert not pydocs._own(numpy.array_equal, "networkx")
    assert pydocs._own(sum, "builtins") and not pydocs._own(sum, "torch")


def test_a_missing_package_names_the_command(monkeypatch):
    there = importlib.util.find_spec
    absent = ("sklearn", "sympy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else there(n))
    with pytest.raises(
        ValueError, match=r"sklearn, sympy is not .*: pip install scikit-learn sympy"
    ):
        load_pydocs("pydocs-large")


def test_a_namespace_that_a_version_lacks_is_passed_over(monkeypatch):
    monkeypatch.setitem(pydocs.MORE, "networkx", "utils, later")
    with pytest.raises(UnknownName, match="package of PyDocs 'nmupy'; did you mean numpy"):
        collect_entries(("nmupy",))
    assert "networkx.utils.UnionFind" in {e.name for e in collect_entries(("networkx",))}


def test_unknown_collections_of_docstrings_are_named():
    with pytest.raises(UnknownName, match="did you mean pydocs"):
        load_pydocs("pydocs-larger")


def test_the_large_one_has_enough_to_train_on():
    kept = [p for p in pydocs.cache_folder().glob("pydocs-large-*") if (p / "info.json").is_file()]
    if not kept:
        pytest.skip("pydocs-large was not built on this machine; a build takes half a minute")
    assert len(positive_pairs(read_beir(kept[0]))) >= 8192


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "file"))
    assert "could not be cached" in load_pydocs(("numpy",)).notes[-1]
