"""Collections and examples from `datasets` and `ir_datasets`, in their layouts on local folders."""

import json
import sys

import pytest
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.data.collections import UnknownCollection, load_collection, write_beir
from rankbench.data.corpora import ArrowDocuments
from rankbench.data.examples import Example
from rankbench.data.hub import (
    example_of,
    from_datasets,
    from_ir_datasets,
    load_examples,
    roles_of,
    run_from_ir_datasets,
    targets_of,
)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """The library, imported once, without a network and with a cache of its own."""
    library = pytest.importorskip("datasets")
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(library.config, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        library.disable_progress_bars()
        yield library


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tables(datasets):
    """A small collection as the hub has it: corpus, queries, and judgments by split."""
    tiny = make_collection(topics=3, titles=True)
    made = datasets.Dataset.from_list
    corpus = [{"_id": k, "title": d.title, "text": d.text} for k, d in tiny.documents.items()]
    queries = [{"_id": k, "text": t} for k, t in tiny.queries.items()]
    qrels = {
        split: [
            {"query-id": q, "corpus-id": d, "score": g}
            for q, ds in j.items()
            for d, g in ds.items()
        ]
        for split, j in tiny.judgments.items()
    }
    return made(corpus), made(queries), {split: made(rows) for split, rows in qrels.items()}


def same(found, name):
    tiny = make_collection(topics=3, titles=True)
    assert found.name == name and found.notes == ()
    assert found.documents == tiny.documents and found.queries == tiny.queries
    assert found.judgments == tiny.judgments
    assert found.fingerprint == tiny.fingerprint


def write(folder, files):
    for path, table in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / path)


README = """---
configs:
- config_name: corpus
  data_files: [{split: corpus, path: corpus.parquet}]
- config_name: queries
  data_files: [{split: queries, path: queries.parquet}]
- config_name: default
  data_files: [{split: train, path: train.parquet}, {split: validation, path: dev.parquet},
               {split: test, path: test.parquet}]
---
"""


def test_a_repository_as_mteb_has_them(tables, tmp_path):
    corpus, queries, qrels = tables
    files = {"corpus.parquet": corpus, "queries.parquet": queries}
    write(tmp_path / "tea", files | {f"{split}.parquet": t for split, t in qrels.items()})
    (tmp_path / "tea" / "README.md").write_text(README)
    same(from_datasets(tmp_path / "tea"), "tea")


def test_judgments_in_a_repository_of_their_own_as_beir_has_them(tables, tmp_path):
    corpus, queries, qrels = tables
    folder = tmp_path / "tea"
    write(folder, {"corpus/corpus.parquet": corpus, "queries/queries.parquet": queries})
    write(tmp_path / "tea-qrels", {f"{split}.parquet": t for split, t in qrels.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        same(from_datasets("tea"), "tea")
    same(from_datasets(folder), "tea")
    same(from_datasets(folder, qrels=tmp_path / "tea-qrels"), "tea")
    same(load_collection(folder), "tea")


def test_what_save_to_disk_wrote(tables, datasets, tmp_path):
    corpus, queries, qrels = tables
    corpus.save_to_disk(tmp_path / "tea" / "corpus")
    queries.save_to_disk(tmp_path / "tea" / "queries")
    datasets.DatasetDict(qrels).save_to_disk(tmp_path / "tea" / "qrels")
    same(from_datasets(tmp_path / "tea"), "tea")
    same(load_collection(tmp_path / "tea", in_memory=False), "tea")


def test_tables_in_memory(tables):
    corpus, queries, qrels = tables
    same(from_datasets({"corpus": corpus, "queries": queries, "qrels": qrels}, name="t"), "t")
    with pytest.raises(ValueError, match="datasets has corpus; expected corpus, queries and qrels"):
        from_datasets({"corpus": corpus})


def test_documents_on_disk_are_built_once(tables, cache):
    corpus, queries, qrels = tables
    given = {"corpus": corpus, "queries": queries, "qrels": qrels}
    same(first := from_datasets(given, name="a/tea", in_memory=False), "a/tea")
    (built,) = (cache / "corpora").iterdir()
    assert isinstance(first.documents, ArrowDocuments) and built.name.startswith("a-tea-")
    before = (built / "info.json").stat().st_ino
    assert from_datasets(given, name="a/tea", in_memory=False) == first
    assert (built / "info.json").stat().st_ino == before


def test_everything_in_one_split_is_for_testing(datasets):
    made = datasets.Dataset.from_dict
    found = from_datasets({
        "corpus": {"train": made({"_id": [1, 2], "text": ["tea", None]})},
        "queries": {"train": made({"_id": [7], "text": ["what"]})},
        "qrels": {"train": made({"query-id": [7], "corpus-id": [["1", "2"]]})},
    })  # fmt: skip
    assert found.judgments == {"test": {"7": {"1": 1, "2": 1}}}
    assert found.documents["2"].text == ""


def test_one_of_several_corpora_is_chosen(datasets):
    def made(**columns):
        return {n: datasets.Dataset.from_dict({k: v(n) for k, v in columns.items()}) for n in "ab"}

    parts = {
        "corpus": made(_id=lambda n: ["1"], text=lambda n: [n]),
        "queries": made(_id=lambda n: ["q"], text=lambda n: [f"query {n}"]),
        "qrels": made(**{"query-id": lambda n: ["q"], "corpus-id": lambda n: ["1"]}),
    }
    found = from_datasets(parts, split="b")
    assert found.queries == {"q": "query b"} and found.documents["1"].text == "b"
    assert found.judgments == {"test": {"q": {"1": 1}}}
    with pytest.raises(ValueError, match="has the splits a, b; choose one with split="):
        from_datasets(parts)
    with pytest.raises(UnknownName, match="unknown split of the corpus of datasets 'c'"):
        from_datasets(parts, split="c")


@pytest.mark.parametrize(
    ("part", "columns", "expected"),
    [
        (
            "corpus",
            {"key": ["1"]},
            "the corpus of datasets has the columns key; expected one of _id",
        ),
        ("queries", {"_id": ["1"]}, "the queries of datasets has the columns _id; .* of text"),
        ("qrels", {"q": ["1"]}, "the judgments of datasets has the columns q; .* query-id"),
        ("qrels", {"qid": ["1"], "docid": ["1"], "score": [0.5]}, "has the grade 0.5; .* whole"),
        ("corpus", {"_id": ["1", "1"], "text": ["", ""]}, "has the document '1' twice"),
    ],
)
def test_columns_that_do_not_fit_are_named(tables, datasets, part, columns, expected):
    given = dict(zip(("corpus", "queries", "qrels"), tables, strict=True))
    with pytest.raises(ValueError, match=expected):
        from_datasets({**given, part: datasets.Dataset.from_dict(columns)})


def test_judgments_of_unknown_documents_are_counted(tables, datasets):
    corpus, queries, _ = tables
    rows = {"query-id": ["q0-0", "q0-0"], "corpus-id": ["d0-0", "nowhere"], "score": [1.0, 2.0]}
    qrels = {"test": datasets.Dataset.from_dict(rows)}
    found = from_datasets({"corpus": corpus, "queries": queries, "qrels": qrels})
    assert found.notes == ("test: 1 judgments name unknown documents and were left out",)


@pytest.mark.parametrize("name", ["hub:nobody/nothing", "hub:nobody/nothing#a"])
def test_no_network_is_one_sentence(datasets, name):
    with pytest.raises(UnknownCollection, match="^nobody/nothing could not be read: .*a network"):
        load_collection(name)
    with pytest.raises(UnknownCollection, match=r"^nobody/rows \(pair\) could not be read: "):
        load_examples("nobody/rows", config="pair")


def test_a_repository_of_rows_is_no_collection(tables, tmp_path):
    write(tmp_path / "rows", {"train.parquet": tables[1]})
    with pytest.raises(UnknownCollection, match="configurations default; expected corpus, queries"):
        from_datasets(tmp_path / "rows")


@pytest.mark.parametrize("module", ["datasets", "ir_datasets"])
def test_a_missing_library_names_the_command(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    kind = "hub" if module == "datasets" else module
    message = rf"this needs the library {module}: pip install 'rankbench\[hub\]'"
    with pytest.raises(ValueError, match=message):
        load_collection(f"{kind}:some/thing")


def test_an_unknown_collection_says_all_ways(tmp_path):
    with pytest.raises(UnknownCollection) as caught:
        load_collection("nowhere")
    for way in ("'pydocs'", "BEIR", "RANKBENCH_DATA", "'hub:", "'ir_datasets:"):
        assert way in str(caught.value)


ROWS = [
    ({"anchor": "q", "positive": "p"}, ("p",), None, "none"),
    ({"query": "q", "answer": "p", "negative": "n"}, ("p", "n"), None, "none"),
    ({"question": "q", "positive": "p", "negative_2": "b", "negative_1": "a"}, ("p", "a", "b"),
     None, "none"),
    ({"query": "q", "pos": ["p", "o"], "neg": ["n"]}, ("p", "o", "n"), (1.0, 1.0, 0.0), "binary"),
    ({"sentence1": "q", "sentence2": "p", "score": 0.5}, ("p",), (0.5,), "score"),
    ({"premise": "q", "hypothesis": "p", "label": 2}, ("p",), (2.0,), "relevance"),
    ({"query": "q", "docs": ["p", "n"], "labels": [1, 0]}, ("p", "n"), (1.0, 0.0), "binary"),
    ({"query": "q", "positive": "p", "negative": "n", "scores": [3.5, -1.0]}, ("p", "n"),
     (3.5, -1.0), "score"),
    ({"text": "q", "label": 4}, (), (4.0,), "class"),
    ({"query": {"text": "q"}, "positive": {"title": "t", "text": "p"}}, ("t p",), None, "none"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "documents", "labels", "targets"), ROWS)
def test_rows_become_examples(row, documents, labels, targets):
    example = example_of(row, roles_of(list(row)))
    assert example == Example("q", documents, labels)
    assert targets_of([example]) == targets


def test_ids_are_kept():
    row = {"query_id": 3, "query": "q", "docs": ["a", "b"], "doc_ids": [1, 2], "labels": [1, 0]}
    example = example_of(row, roles_of(list(row)), "rows")
    assert (example.query_id, example.document_ids, example.source) == ("3", ("1", "2"), "rows")
    row = {"query": "q", "positive": {"docid": "d1", "text": "a"}}
    assert example_of(row, roles_of(list(row))).document_ids == ("d1",)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"query": "q", "positive": None}, None),
        ({"query": None, "positive": "p"}, "r, row 5: expected a text, but there is 'None'"),
        ({"query": "q", "positive": 3}, "r, row 5: expected a text, but there is '3'"),
        ({"query": "q", "docs": ["a"], "labels": [1, 0]}, "r, row 5: query 'q' has 1 documents"),
        ({"query": "q", "docs": ["a"], "labels": ["x"]}, "r, row 5: expected a number as label"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row, expected):
    if expected is None:
        assert example_of(row, roles_of(list(row))).documents == ()
        return
    with pytest.raises(ValueError, match=f"^{expected}"):
        example_of(row, roles_of(list(row)), "r", 5)


def test_columns_can_be_given():
    given = {"query": "input", "positives": "output", "negatives": ["b", "a"]}
    roles = roles_of(["input", "output", "a", "b", "score"], given)
    row = {"input": "q", "output": "p", "a": "1", "b": "2", "score": 3}
    assert example_of(row, roles) == Example("q", ("p", "2", "1"))
    with pytest.raises(UnknownName, match="unknown role of a column 'positive'.* positives"):
        roles_of(["a"], {"positive": "a"})
    with pytest.raises(UnknownName, match="unknown column of the rows 'quary'.* query"):
        roles_of(["query"], {"query": "quary"})
    with pytest.raises(
        ValueError, match="has the columns a, b: no query with documents or a label"
    ):
        roles_of(["a", "b"], where="x")


def test_labels_must_be_there_or_not():
    with pytest.raises(ValueError, match="some rows have labels and some have none"):
        targets_of([Example("q", ("a",)), Example("q", ("a",), (1.0,))])
    assert targets_of([]) == "none"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder", "saved", "loaded"])
def test_examples_from_files_streamed_or_not(datasets, tmp_path, kind):
    rows = [{"query": f"q{i}", "docs": [f"a{i}", f"b{i}"], "labels": [2, 0]} for i in range(5)]
    table = datasets.Dataset.from_list(rows)
    source = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        table.to_parquet(source)
    elif kind == "folder":
        write(source, {"train.parquet": table})
    elif kind == "saved":
        table.save_to_disk(source)
    else:
        source = table
    held = load_examples(source, name="rows")
    expected = [Example(f"q{i}", (f"a{i}", f"b{i}"), (2.0, 0.0), source="rows") for i in range(5)]
    assert held.targets == "relevance" and [held[i] for i in range(len(held))] == expected
    given = table.to_iterable_dataset() if kind == "loaded" else source
    stream = load_examples(given, name="rows", targets="score", streaming=True)
    assert stream.targets == "score" and not hasattr(stream, "__len__")
    assert list(stream) == list(stream) == expected
    stream.set_epoch(1)
    with pytest.raises(UnknownName, match="unknown split of rows 'dev'"):
        load_examples(source, name="rows", split="dev")
    with pytest.raises(UnknownName, match="unknown kind of target 'grade'"):
        load_examples(source, targets="grade")


LAYOUTS = [
    ([{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [2.5], "neg_scores": [1.0]}],
     ("p", "n"), (2.5, 1.0), "score"),
    ([{"query": "q", "passages": {"passage_text": ["p", "n"], "is_selected": [1, 0]}}],
     ("p", "n"), (1.0, 0.0), "binary"),
    ([{"query": "q", "positive_passages": [{"text": "p", "title": "t", "docid": "1"}],
       "negative_passages": [{"text": "n", "docid": "2"}]}], ("t p", "n"), (1.0, 0.0), "binary"),
    ([{"query": "q", "documents": ["p", "n"], "labels": [1.0, 0.0], "targets": "rank"}],
     ("p", "n"), (1.0, 0.0), "rank"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "documents", "labels", "targets"), LAYOUTS)
def test_layouts_of_rows_are_read_as_from_files(datasets, given, documents, labels, targets):
    from rankbench.data import rows

    found = load_examples(datasets.Dataset.from_list(given), name="")
    assert (found[0].documents, found[0].labels) == (documents, labels)
    assert found.targets == targets and found[0].source == "the rows"
    assert rows.example_of(given[0])[0].documents == documents
    broken = datasets.Dataset.from_list([{**given[0], "query": None}])
    with pytest.raises(ValueError, match="the rows"):
        load_examples(broken)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    library = pytest.importorskip("ir_datasets")
    formats = library.formats
    folder = tmp_path_factory.mktemp("ir")
    tiny = make_collection(topics=3)
    write_beir(tiny, folder)

    class Scored(formats.BaseScoredDocs):
        def scoreddocs_iter(self):
            yield formats.GenericScoredDoc("q0-0", "d0-0", 1.5)
            yield formats.GenericScoredDoc("q0-0", "d0-1", 0.5)

    def made(name, text):
        (folder / name).write_text(text)
        return str(folder / name)

    docs = made("docs", "".join(f"{k}\t{d.text}\n" for k, d in tiny.documents.items()))
    for split, judged in tiny.judgments.items():
        asked = made(f"q-{split}", "".join(f"{q}\t{tiny.queries[q]}\n" for q in judged))
        qrels = "".join(f"{q} 0 {d} {g}\n" for q, ds in judged.items() for d, g in ds.items())
        part = library.create_dataset(docs, asked, made(f"j-{split}", qrels))
        last = {"dev": "dev/small", "test": "test"}.get(split, split)
        parts = [part, Scored()] if split == "test" else [part]
        library.registry.register(f"rankbench-tiny/{last}", library.Dataset(*parts))
        if split == "dev":
            library.registry.register("rankbench-tiny/dev", library.Dataset(part))
    library.registry.register("rankbench-tiny", library.create_dataset(docs, made("q", "")))
    library.registry.register("rankbench-docs", library.create_dataset(docs))
    return library


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("dev/small", "dev"), ("dev", "dev"), ("test", "test")],
)
def test_an_id_of_ir_datasets(library, name, split):
    tiny = make_collection(topics=3)
    found = load_collection(f"ir_datasets:rankbench-tiny/{name}", in_memory=True)
    assert found.name == f"rankbench-tiny/{name}" and isinstance(found.documents, dict)
    assert found.documents == tiny.documents
    assert found.judgments == {split: tiny.judgments[split]}
    assert found.queries == {q: tiny.queries[q] for q in tiny.judgments[split]}


def test_an_id_stands_for_the_splits_below_it(library, cache):
    tiny = make_collection(topics=3)
    found = from_ir_datasets("rankbench-tiny", name="tiny")
    assert isinstance(found.documents, ArrowDocuments)  # how many there are is not known
    assert found == tiny and found.fingerprint == tiny.fingerprint
    from_ir_datasets("rankbench-tiny/test", name="tiny")
    assert len(list((cache / "corpora").iterdir())) == 1


def test_what_ir_datasets_lacks_is_named(library):
    with pytest.raises(UnknownName, match="'rankbench-tine'; did you mean rankbench-tiny"):
        load_collection("ir_datasets:rankbench-tine")
    with pytest.raises(ValueError, match="rankbench-docs has no documents or no queries"):
        from_ir_datasets("rankbench-docs")
    made = library.registry["rankbench-tiny"]
    with pytest.raises(ValueError, match="has no judgments; expected an id such as beir/scifact"):
        from_ir_datasets(library.Dataset(*made._constituents[1:]))
    with pytest.raises(ValueError, match="rankbench-tiny/train has no scored documents"):
        run_from_ir_datasets("rankbench-tiny/train")


def test_scored_documents_are_a_run(library):
    run = run_from_ir_datasets("rankbench-tiny/test")
    assert run == {"q0-0": {"d0-0": 1.5, "d0-1": 0.5}}


def test_a_download_that_fails_is_one_sentence(library, monkeypatch):
    part = library.registry["rankbench-tiny/test"]

    def fail(*_):
        raise ConnectionError("no route to\nhost")
        yield

    monkeypatch.setattr(library.formats.TsvDocs, "docs_iter", fail)
    with pytest.raises(UnknownCollection, match="could not be read: no route to host. Without"):
        from_ir_datasets(part, in_memory=True)
    monkeypatch.setattr(library.formats.TsvQueries, "queries_iter", fail)
    with pytest.raises(UnknownCollection, match="rankbench-tiny/test could not be read"):
        from_ir_datasets(part, in_memory=True)


def test_an_id_without_a_folder_is_asked_of_ir_datasets(library, monkeypatch, tmp_path):
    tiny = make_collection(topics=3)
    found = load_collection("rankbench-tiny")
    assert found.name == "rankbench-tiny" and found.fingerprint == tiny.fingerprint
    library.registry.register("beir/rankbench-short", library.registry["rankbench-tiny/test"])
    short = load_collection("rankbench-short")  # sets of BEIR may be given without beir/
    assert short.name == "rankbench-short" and short.judgments == {"test": tiny.judgments["test"]}
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    write_beir(make_collection(topics=2), tmp_path / "rankbench-tiny")  # a folder comes first
    assert len(load_collection("rankbench-tiny").queries) == 12


def test_an_id_that_cannot_be_downloaded_says_both_ways(library, monkeypatch):
    def fail(*_):
        raise ConnectionError("no route to\nhost")
        yield

    monkeypatch.setattr(library.formats.TsvQueries, "queries_iter", fail)
    with pytest.raises(UnknownCollection) as caught:
        load_collection("rankbench-tiny")
    said = str(caught.value)
    assert "could not download rankbench-tiny (ConnectionError). Give" in said and "\n" not in said
    assert "RANKBENCH_DATA or --data-dir" in said and "pip install 'rankbench[hub]'" in said
