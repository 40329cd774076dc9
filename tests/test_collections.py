import json
import sys
from dataclasses import replace

import pytest
from tiny import make_collection

from rankbench.data.collections import (
    BadFile,
    Collection,
    Document,
    UnknownCollection,
    find_folder,
    known_answers,
    load_collection,
    positive_pairs,
    read_beir,
    training_documents,
    with_training,
    write_beir,
)


@pytest.fixture
def folder(tmp_path):
    write_beir(make_collection(), tmp_path / "tiny")
    return tmp_path / "tiny"


def append(path, line):
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def test_a_folder_reads_back_as_it_was_written(folder):
    assert read_beir(folder) == make_collection()
    assert read_beir(folder).fingerprint == make_collection().fingerprint


@pytest.mark.parametrize("part", ["documents", "queries", "judgments"])
def test_the_fingerprint_sees_every_part(part):
    tiny = make_collection()
    other = {
        "documents": {**tiny.documents, "new": Document("", "text")},
        "queries": {**tiny.queries, "new": "text"},
        "judgments": {**tiny.judgments, "test": {"q0-0": {"d0-0": 1}}},
    }[part]
    changed = Collection("tiny", **{**vars_of(tiny), part: other})
    assert changed.fingerprint != tiny.fingerprint


def vars_of(c):
    return {"documents": c.documents, "queries": c.queries, "judgments": c.judgments}


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("corpus.jsonl", '{"_id": "x"', r"corpus.jsonl, line 73: expected a JSON object with _id"),
        ("corpus.jsonl", '{"_id": "x"}', r"line 73: .*; text is missing or no text"),
        ("corpus.jsonl", '["x"]', r"line 73: .* as text, but it is a list"),
        ("corpus.jsonl", '{"_id": "d0-0", "text": "a"}', r"line 73: _id 'd0-0' is there twice"),
        ("queries.jsonl", "nonsense", r"queries.jsonl, line 73: expected a JSON object"),
        ("qrels/test.tsv", "q0-0\td0-0", r"test.tsv, line 74: expected query-id, corpus-id"),
        ("qrels/test.tsv", "q0-0\td0-0\thigh", r"line 74: .* but the line is 'q0-0\\td0-0\\thigh'"),
    ],
)
def test_a_broken_line_is_named_with_file_and_number(folder, file, line, expected):
    append(folder / file, line)
    with pytest.raises(BadFile, match=expected):
        read_beir(folder)


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(BadFile, match="corpus.jsonl, line 0: not found"):
        read_beir(tmp_path)


def test_judgments_of_unknown_documents_are_counted(folder):
    append(folder / "qrels/test.tsv", "q0-0\tnowhere\t1")
    append(folder / "qrels/test.tsv", "nobody\td0-0\t1")
    assert read_beir(folder).notes == (
        "test: 1 judgments name unknown documents and were left out",
        "test: 1 judgments name unknown queries and were left out",
    )


def test_a_query_without_a_relevant_document_is_counted(folder):
    append(folder / "queries.jsonl", json.dumps({"_id": "lost", "text": "lost"}))
    append(folder / "qrels/test.tsv", "lost\td0-0\t0")
    collection = read_beir(folder)
    assert collection.notes == ("test: 1 queries without a relevant document were left out",)
    assert "lost" not in collection.split("test")


def test_a_missing_dev_split_is_taken_from_train():
    tiny = make_collection(topics=40)
    two = {k: tiny.judgments[k] for k in ("train", "test")}
    split = with_training(Collection("tiny", tiny.documents, tiny.queries, two))
    train, dev = split.split("train"), split.split("dev")
    assert not train.keys() & dev.keys()
    assert train | dev == two["train"]
    assert 0.03 < len(dev) / len(two["train"]) < 0.2


def test_answers_that_train_and_test_share_are_counted():
    tiny = make_collection()
    judgments = {**tiny.judgments, "test": {"q0-0": {"d0-0": 1, "d0-2": 2}, "q1-0": {"d1-0": 1}}}
    shared = with_training(Collection("tiny", tiny.documents, tiny.queries, judgments))
    note = "test: 1 of 2 queries have a best document that train answers with"
    assert shared.notes == (note,)
    assert known_answers(shared) == {"q0-0"} and known_answers(tiny) == set()
    assert with_training(tiny).notes == ()
    # What is taken from train for dev is not trained on.
    one = {q: {"d0-2": 1} for q in judgments["train"] if q.startswith("q0") or q == "q1-2"}
    held = {"train": one, "test": judgments["test"]}
    ready = with_training(replace(shared, judgments=held, notes=()), dev=0.999)
    assert not ready.split("train") and known_answers(ready) == set() and len(ready.notes) == 1


def test_titles_train_where_there_are_no_judgments():
    tiny = make_collection(topics=40, titles=True)
    only_test = Collection("t", tiny.documents, tiny.queries, {"test": tiny.judgments["test"]})
    split = with_training(only_test)
    query, document = positive_pairs(split)[0]
    assert query == f"title:{document}"
    assert split.queries[query] == tiny.documents[document].title
    assert training_documents(split)[document] == tiny.documents[document].text
    assert split.split("test") == tiny.judgments["test"]


def test_nothing_to_train_on_is_an_error_with_a_remedy():
    tiny = make_collection()
    only_test = Collection("t", tiny.documents, tiny.queries, {"test": tiny.judgments["test"]})
    with pytest.raises(ValueError, match="needs qrels/train.tsv, or 100 documents with titles"):
        with_training(only_test)


def test_an_unknown_collection_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    with pytest.raises(UnknownCollection, match=f"no folder nowhere or {tmp_path}/nowhere"):
        load_collection("nowhere")


def test_a_collection_is_found_in_the_data_folder(monkeypatch, folder):
    monkeypatch.setenv("RANKBENCH_DATA", str(folder.parent))
    assert load_collection("tiny").name == "tiny"


def test_an_id_is_found_whole_or_by_its_last_part(monkeypatch, folder, tmp_path):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    assert find_folder("beir/tiny") == folder
    found = load_collection("beir/tiny")
    assert found.name == "beir/tiny" and found.fingerprint == make_collection().fingerprint
    assert load_collection("tiny").fingerprint == found.fingerprint
    write_beir(make_collection(topics=3), tmp_path / "beir" / "tiny")
    assert load_collection("beir/tiny").fingerprint == make_collection(topics=3).fingerprint


@pytest.mark.parametrize("name", ["tiny", "beir/tiny", "./tiny", "other/../tiny", None])
def test_no_name_holds_a_path_of_this_machine(monkeypatch, folder, tmp_path, name):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    found = load_collection(name or folder)
    assert found.name == ("beir/tiny" if name == "beir/tiny" else "tiny")


def test_the_folder_of_a_path_is_not_looked_for_elsewhere(monkeypatch, folder, tmp_path):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    assert find_folder(tmp_path / "elsewhere" / "tiny") is None
    with pytest.raises(UnknownCollection, match="/elsewhere/tiny. Give 'pydocs'"):
        load_collection(tmp_path / "elsewhere" / "tiny")


def test_without_ir_datasets_an_id_says_both_ways(monkeypatch, tmp_path):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(UnknownCollection) as caught:
        load_collection("beir/scifact")
    looked = ("beir/scifact", f"{tmp_path}/beir/scifact", f"{tmp_path}/scifact")
    assert f"no folder {' or '.join(looked)}, and ir_datasets is not inst" in str(caught.value)
    for way in ("RANKBENCH_DATA or --data-dir", "pip install 'rankbench[hub]'"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "expected"), [("cranfield", 0.4715), ("scifact", 0.6569)])
def test_bm25_has_its_known_value(shared, name, expected):
    from rankbench.training.evaluation import bm25_run, evaluate

    collection = read_beir(shared / "collections" / name)
    judged = collection.split("test")
    values = evaluate(bm25_run(collection, list(judged)), judged, ["nDCG@10"])["nDCG@10"]
    assert sum(values.values()) / len(values) == pytest.approx(expected, abs=0.005)


def test_grades_that_contradict_each_other_are_told():
    from rankbench.data.collections import usable

    rows = [("q0-0", "d0-0", 2), ("q0-0", "d0-0", 2), ("q0-0", "d0-0", 1), ("q0-0", "d9-9", 1)]
    tiny = make_collection(topics=1)
    kept, notes = usable(rows, tiny.queries, tiny.documents)
    assert kept == {"q0-0": {"d0-0": 2}}
    assert notes == ["1 judgments contradict an earlier one and were left out",
                     "1 judgments name unknown documents and were left out"]  # fmt: skip
