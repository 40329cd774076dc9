"""Documents on disk are the documents in memory, and cost no memory."""

import gzip
import json
import os
import pickle
import random
import shutil
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_collection

import rankbench.data.corpora as corpora
from rankbench.data.collections import (
    BadFile,
    Collection,
    Document,
    Texts,
    load_collection,
    read_beir,
    training_documents,
    with_training,
    write_beir,
)
from rankbench.data.corpora import ArrowDocuments, build_corpus, stored_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    write_beir(make_collection(titles=True), tmp_path / "tiny")
    return tmp_path / "tiny"


def numbered(count):
    return [(f"d{i}", Document(f"title {i}" if i % 3 else "", f"text {i}")) for i in range(count)]


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """Three blocks, the last one not full."""
    monkeypatch.setattr(corpora, "ROWS", 10)
    return build_corpus(numbered(25), tmp_path / "blocks")


def same_folder(a, b):
    return (a / "info.json").stat().st_ino == (b / "info.json").stat().st_ino


def test_documents_come_by_id_in_order_and_by_position(blocks):
    expected = dict(numbered(25))
    assert len(blocks) == 25
    assert list(blocks) == list(expected)
    assert list(blocks.items()) == list(expected.items())
    assert list(blocks.values()) == list(expected.values())
    assert {k: blocks[k] for k in reversed(expected)} == expected
    assert [blocks.row(k) for k in expected] == list(range(25))


@pytest.mark.parametrize(("start", "stop"), [(0, 25), (9, 11), (10, 20), (3, 4), (7, 99), (5, 5)])
def test_texts_of_a_range(blocks, start, stop):
    assert blocks.texts(start, stop) == [d.full for _, d in numbered(25)[start:stop]]
    assert list(blocks.pairs(start, stop)) == numbered(25)[start:stop]


def test_views_can_be_gone_through_twice_and_have_a_length(blocks):
    views = [blocks.items(), blocks.values(), blocks.keys()]
    assert [len(list(v)) for v in views * 2] == [25] * 6
    assert [len(v) for v in views] == [25] * 3
    assert ("d1", Document("title 1", "text 1")) in blocks.items()


@pytest.mark.parametrize("key", ["d25", "", "D1", "d1 ", 1, None, ("d1",)])
def test_an_unknown_id_is_a_key_error(blocks, key):
    assert key not in blocks
    if isinstance(key, str):
        with pytest.raises(KeyError):
            blocks[key]
        assert blocks.get(key) is None


def test_ids_with_the_same_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "hash_of", lambda key: len(key))
    stored = build_corpus(numbered(120), tmp_path / "same")
    assert dict(stored) == dict(numbered(120))
    assert "x1" not in stored
    with pytest.raises(ValueError, match="the id 'd3' is there twice; expected unique ids"):
        build_corpus([*numbered(9), ("d3", Document("", "again"))], tmp_path / "twice")


def test_hashes_are_sorted_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "BUCKET", 7)
    stored = build_corpus(numbered(100), tmp_path / "parts")
    hashes, rows = stored._index
    assert list(hashes) == sorted(corpora.hash_of(k) for k in stored)
    assert sorted(rows) == list(range(100))
    assert dict(stored) == dict(numbered(100))
    with pytest.raises(ValueError, match="'d90' is there twice"):
        build_corpus([*numbered(100), ("d90", Document("", ""))], tmp_path / "twice")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.dictionaries(texts, st.builds(Document, texts, texts), min_size=1, max_size=12))
def test_any_text_comes_back_and_hashes_alike(tmp_path_factory, documents):
    stored = build_corpus(documents.items(), tmp_path_factory.mktemp("any") / "corpus")
    assert dict(stored) == documents
    rest = {"q": "text"}, {"test": {"q": {next(iter(documents)): 1}}}
    on_disk, in_memory = Collection("a", stored, *rest), Collection("a", documents, *rest)
    assert on_disk.fingerprint == in_memory.fingerprint


def test_the_fingerprint_of_a_dict_is_what_records_hold():
    tiny = make_collection()
    content = [sorted(tiny.documents.items()), sorted(tiny.queries.items())]
    content += [
        (split, sorted((q, sorted(grades.items())) for q, grades in judged.items()))
        for split, judged in sorted(tiny.judgments.items())
    ]
    import hashlib

    expected = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    assert tiny.fingerprint == expected


def test_a_fingerprint_is_computed_once(folder, monkeypatch):
    collection = read_beir(folder, in_memory=False)
    first = collection.fingerprint
    monkeypatch.setattr(corpora, "sorted_items", lambda _: pytest.fail("hashed again"))
    assert read_beir(folder, in_memory=False).fingerprint == first
    other = Collection("tiny", collection.documents, {"q": "new"}, {})
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        _ = other.fingerprint


def test_a_fingerprint_needs_no_right_to_write(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.replace", refuse)
    expected = make_collection(titles=True).fingerprint
    assert read_beir(folder, in_memory=False).fingerprint == expected


def test_a_folder_on_disk_is_the_folder_in_memory(folder):
    stored, held = read_beir(folder, in_memory=False), read_beir(folder)
    assert isinstance(stored.documents, ArrowDocuments) and isinstance(held.documents, dict)
    assert stored == held and held == stored
    assert stored.stats() == held.stats()
    assert load_collection(folder, in_memory=False) == held
    less = dict(list(held.documents.items())[1:])
    assert stored.documents != less and stored.documents != {**less, "new": Document("", "")}


def test_training_sees_the_same(folder, tmp_path):
    stored, held = read_beir(folder, in_memory=False), read_beir(folder)
    assert with_training(stored) == with_training(held)
    assert training_documents(stored) == training_documents(held)
    write_beir(stored, tmp_path / "again")
    assert read_beir(tmp_path / "again").fingerprint == held.fingerprint


def test_texts_are_views():
    documents = make_collection(titles=True).documents
    with_titles, without = Texts(documents), Texts(documents, titles=False)
    assert dict(with_titles) == {k: d.full for k, d in documents.items()}
    assert list(without.values()) == [d.text for d in documents.values()]
    assert list(without.items()) == [(k, d.text) for k, d in documents.items()]
    assert len(without) == len(documents) and without["d0-0"] == documents["d0-0"].text


def test_bm25_ranks_the_same(folder):
    from rankbench.training.evaluation import bm25_run

    stored, held = read_beir(folder, in_memory=False), read_beir(folder)
    asked = list(held.split("test"))
    assert bm25_run(stored, asked) == bm25_run(held, asked)


def test_large_files_stay_on_disk(folder, monkeypatch):
    size = (folder / "corpus.jsonl").stat().st_size
    monkeypatch.setattr(corpora, "LARGE", size)
    assert isinstance(read_beir(folder).documents, dict)
    monkeypatch.setattr(corpora, "LARGE", size - 1)
    assert isinstance(read_beir(folder).documents, ArrowDocuments)
    assert isinstance(read_beir(folder, in_memory=True).documents, dict)
    with pytest.raises(ValueError, match="in_memory is 'no'; expected True, False or 'auto'"):
        read_beir(folder, in_memory="no")


def test_a_corpus_is_built_once_and_anew_when_it_changed(folder, cache):
    path = folder / "corpus.jsonl"
    first = stored_corpus(path)
    (built,) = (cache / "corpora").iterdir()
    before = (built / "info.json").stat().st_ino
    assert stored_corpus(path).folder == first.folder
    assert (built / "info.json").stat().st_ino == before
    with path.open("a") as file:
        file.write('{"_id": "new", "text": "t"}\n')
    assert len(stored_corpus(path)) == len(first) + 1
    assert list((cache / "corpora").iterdir()) == [built]


def test_a_corpus_beside_the_file_is_used_while_it_fits(folder, cache):
    path = folder / "corpus.jsonl"
    beside = build_corpus(path, folder / "corpus.arrow")
    assert stored_corpus(path).folder == beside.folder and not cache.exists()
    os.utime(path, ns=(1, 1))
    assert stored_corpus(path).folder.parent == cache / "corpora"


def test_pairs_with_a_key_are_built_once(tmp_path):
    def forbidden():
        pytest.fail("read again")
        yield

    build_corpus(numbered(5), tmp_path / "keyed", key={"version": 1})
    assert len(build_corpus(forbidden(), tmp_path / "keyed", key={"version": 1})) == 5
    assert len(build_corpus(numbered(6), tmp_path / "keyed", key={"version": 2})) == 6
    assert len(build_corpus(numbered(7), tmp_path / "keyed")) == 7


def test_a_compressed_file(folder, tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    assert build_corpus(path, tmp_path / "built") == read_beir(folder).documents


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"_id": "x"', "line 73: expected a JSON object with _id"),
        ('{"_id": "d0-0", "text": "again"}', "line 73: _id 'd0-0' is there twice"),
        ('{"_id": "x", "text": "\\ud800"}', "one of documents 1 to 73 is no Unicode text"),
        ('{"_id": "\\ud800", "text": ""}', "one of documents 1 to 73 is no Unicode text"),
        (
            '{"_id": "x", "text": "", "title": 3}',
            "line 73: expected a JSON object .*title is missing or no text",
        ),
    ],
)
def test_a_broken_corpus_leaves_nothing_behind(folder, tmp_path, line, expected):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(line + "\n")
    build_corpus(numbered(3), tmp_path / "stores" / "built")
    with pytest.raises(ValueError, match=expected):
        build_corpus(folder / "corpus.jsonl", tmp_path / "stores" / "built")
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["built"]
    assert len(ArrowDocuments(tmp_path / "stores" / "built")) == 3


@pytest.mark.parametrize("when", [1, 15, 25])
def test_an_interrupted_build_leaves_what_was_there(tmp_path, monkeypatch, when):
    monkeypatch.setattr(corpora, "ROWS", 10)

    def interrupted():
        yield from numbered(25)[:when]
        raise KeyboardInterrupt

    build_corpus(numbered(3), tmp_path / "built")
    for name in ("built", "fresh"):
        with pytest.raises(KeyboardInterrupt):
            build_corpus(interrupted(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["built"]
    assert dict(ArrowDocuments(tmp_path / "built")) == dict(numbered(3))


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="home is there and is no corpus; expected a new name"):
        build_corpus(numbered(3), tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").is_file()


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="corpus.jsonl, line 0: no rows"):
        build_corpus(tmp_path / "corpus.jsonl", tmp_path / "built")


def test_a_missing_or_older_folder_is_named(tmp_path):
    with pytest.raises(BadFile, match="nowhere/info.json, line 0: not found; build_corpus"):
        ArrowDocuments(tmp_path / "nowhere")
    build_corpus(numbered(3), tmp_path / "built")
    info = json.loads((tmp_path / "built" / "info.json").read_text())
    (tmp_path / "built" / "info.json").write_text(json.dumps({**info, "version": 0}))
    with pytest.raises(BadFile, match="version 0 of the files, expected 1; build anew"):
        ArrowDocuments(tmp_path / "built")


def test_a_copy_in_a_pickle_is_a_path(blocks):
    blocks["d3"]
    assert len(pickle.dumps(blocks)) < 300
    assert pickle.loads(pickle.dumps(blocks)) == blocks


def test_an_open_corpus_outlives_its_replacement(blocks, tmp_path):
    assert blocks["d3"].text == "text 3"
    build_corpus(numbered(2), tmp_path / "blocks")
    assert blocks["d24"].text == "text 24"
    shutil.rmtree(tmp_path / "blocks")
    assert list(blocks) == [k for k, _ in numbered(25)]


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "ROWS", 128)

    def peak(count):
        rng = random.Random(0)
        made = ((f"d{i}", Document("", str(rng.random()) * 20)) for i in range(count))
        name = tmp_path / f"of{count}"
        tracemalloc.start()
        try:
            documents = build_corpus(made, name)
            for document in documents.values():
                assert document.text
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)  # what is imported and cached at first use
    few, many = peak(500), peak(5000)
    assert many < few + 300_000  # 4 500 documents hold 1.7 MB of text
