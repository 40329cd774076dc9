"""Search is exact, ties are in the order of the corpus, and a folder never lies."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping

import bm25s
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.data.collections import Document
from rankbench.models.base import Encoder, Reranker
from rankbench.models.static_encoder import StaticEncoder
from rankbench.training import retrieval
from rankbench.training.retrieval import (
    BM25Index,
    DenseIndex,
    IndexMismatch,
    build_bm25,
    build_index,
    fingerprint,
    load_bm25,
    load_index,
    rerank,
    retrieve,
    save_bm25,
    search,
    search_run,
    shared_terms,
)


class Letters(Encoder):
    """Small whole numbers, so that sums are exact however they are taken."""

    similarity = "dot"

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((6,), scale))
        self.seen = 0

    def tokenize(self, texts, role="document"):
        return [[min(ord(c) - 97, 5) for c in text if "a" <= c <= "z"] for text in texts]

    def counts(self, input_ids, attention_mask):
        return (torch.nn.functional.one_hot(input_ids, 6) * attention_mask[..., None]).sum(1)

    def forward(self, input_ids, attention_mask, role="document"):
        self.seen += len(input_ids) * (role == "document")
        return self.counts(input_ids, attention_mask) * self.scale


class SparseLetters(Letters):
    sparse = True

    def rows(self, features, role):
        return scipy.sparse.csr_array(self(**features, role=role).numpy())

    def join(self, chunks, order):
        return scipy.sparse.vstack(chunks).tocsr()[np.argsort(order)]


class LateLetters(Letters):
    similarity = "maxsim"

    def encode(self, texts, batch_size=256, progress=False, role="document"):
        features = self.batch(self.tokenize(texts))
        vectors = torch.nn.functional.one_hot(features["input_ids"], 6) * self.scale.detach()
        return vectors.float(), features["attention_mask"].bool()


KINDS = {"dense": Letters, "sparse": SparseLetters, "late": LateLetters}
RNG = np.random.default_rng(0)
TEXTS = ["".join(RNG.choice(list("abcdef"), RNG.integers(1, 6))) for _ in range(230)]
CORPUS = {f"d{i}": text for i, text in enumerate(TEXTS)}
ASKED = {f"q{i}": text for i, text in enumerate(["ab", "a", "fedcba", "cc", "f"])}


def brute_force(kind: str, query: str, depth: int) -> dict[str, float]:
    """By loops over letters; Python's sort keeps the order of the corpus."""
    scores = {}
    for name, text in CORPUS.items():
        if kind == "late":
            scores[name] = float(sum(letter in text for letter in query))
        else:
            there = Counter(text)
            scores[name] = float(sum(there[letter] for letter in query))
    found = sorted(scores, key=lambda d: -scores[d])[:depth]
    return {d: scores[d] for d in found if kind != "sparse" or scores[d] != 0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("block", "chunk", "depth"), [(7, 20, 3), (100, 5000, 10), (500, 2**24, 500)]
)
def test_search_is_brute_force_with_ties_in_corpus_order(kind, block, chunk, depth):
    index = build_index(KINDS[kind](), CORPUS, block=block)
    run = search_run(index, ASKED, depth, chunk=chunk)
    for name, query in ASKED.items():
        expected = brute_force(kind, query, depth)
        assert list(run[name].items()) == list(expected.items())


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_the_best_so_far_are_the_best_of_all(pieces, depth):
    best, start = retrieval._Best(1, depth), 0
    for piece in pieces:
        best.add(slice(0, 1), torch.tensor([piece], dtype=torch.float32), start)
        start += len(piece)
    every = [x for piece in pieces for x in piece]
    order = sorted(range(len(every)), key=lambda i: -every[i])[:depth]
    assert [p for p in best.positions[0].tolist() if p >= 0] == order
    assert best.scores[0, : len(order)].tolist() == [every[i] for i in order]


def nonsense(count: int) -> dict[str, str]:
    rng = np.random.default_rng(1)
    words = np.array(["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(500)])
    return {f"d{i}": " ".join(row) for i, row in enumerate(rng.choice(words, (count, 8)))}


def test_no_table_of_queries_by_corpus_is_ever_made(monkeypatch):
    made = []

    def watched(self, piece, queries):
        made.append(len(queries) * len(piece))
        return queries @ piece.T

    monkeypatch.setattr(DenseIndex, "scores", watched)
    corpus = nonsense(3000)
    encoder = StaticEncoder.from_texts(list(corpus.values())[:200], size=300, dim=16)
    queries = {f"q{i}": corpus[f"d{i}"] for i in range(300)}
    run = search_run(build_index(encoder, corpus, block=512), queries, 10, chunk=10_000)
    assert max(made) <= 10_000 and sum(made) == 300 * 3000
    documents, asked = encoder.encode(list(corpus.values())), encoder.encode(list(queries.values()))
    for row, found in zip(asked, run.values(), strict=True):
        scores = documents @ row
        assert [*found.values()] == pytest.approx(
            scores.sort(descending=True)[0][:10].tolist(), abs=1e-5
        )
        assert [scores[int(d[1:])].item() for d in found] == pytest.approx(
            [*found.values()], abs=1e-5
        )


class Once(Mapping):
    """Documents that are made when they are asked for, and counted."""

    def __init__(self, count):
        self.count, self.asked = count, Counter()

    def __len__(self):
        return self.count

    def __iter__(self):
        return (f"d{i}" for i in range(self.count))

    def __getitem__(self, key):
        self.asked[key] += 1
        return Document("", "abcdef"[int(key[1:]) % 6])


def test_documents_are_asked_for_once(without_shape_checks):
    corpus = Once(40)
    build_index(Letters(), corpus, block=16)
    assert corpus.asked == Counter(iter(corpus))
    corpus = Once(40)
    build_bm25(corpus, block=16)
    assert corpus.asked == Counter(iter(corpus))


# Folders


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_gives_the_run_that_memory_gives(tmp_path, kind, dtype):
    encoder = KINDS[kind]()
    build_index(encoder, CORPUS, tmp_path / "index", block=64, dtype=dtype)
    run = search_run(load_index(tmp_path / "index", encoder), ASKED, 10)
    assert run == retrieve(encoder, CORPUS, ASKED, 10)


def test_half_precision_takes_half_the_space(tmp_path):
    index = build_index(Letters(), CORPUS, tmp_path, dtype="float16")
    assert index.blocks[0]["vectors"].dtype == np.float16


class Interrupted(Letters):
    """Stops after some documents."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def forward(self, input_ids, attention_mask, role="document"):
        if self.seen >= self.after:
            raise KeyboardInterrupt
        return super().forward(input_ids, attention_mask, role)


def test_an_interrupted_index_goes_on_where_it_stopped(tmp_path):
    encoder = Interrupted(after=100)
    with pytest.raises(KeyboardInterrupt):
        build_index(encoder, CORPUS, tmp_path, block=50)
    with pytest.raises(IndexMismatch, match="holds 100 of 230 documents; build_index .* finishes"):
        load_index(tmp_path, encoder)
    encoder.seen, encoder.after = 0, 10_000
    index = build_index(encoder, CORPUS, tmp_path, block=50)
    assert encoder.seen == len(CORPUS) - 100
    assert search_run(index, ASKED, 10) == retrieve(Letters(), CORPUS, ASKED, 10)
    encoder.seen = 0
    build_index(encoder, CORPUS, tmp_path, block=50)
    assert encoder.seen == 0


def test_a_block_that_was_not_counted_is_written_again(tmp_path, monkeypatch):
    def fail(path, content):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "write_json", fail)
        with pytest.raises(OSError, match="no space left"):
            build_index(Letters(), CORPUS, tmp_path, block=100)
    index = build_index(Letters(), CORPUS, tmp_path, block=100)
    assert len(index) == len(CORPUS) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": Letters(2.0)}, "made with another model; choose another folder"),
        ({"dtype": "float16"}, "made with another dtype"),
        ({"block": 99}, "made with another block"),
        ({"documents": {**CORPUS, "new": "a"}}, "made with another documents"),
        ({"documents": {**CORPUS, "d150": "changed"}}, "documents 'd100' to 'd199' are not those"),
    ],
)
def test_an_index_of_something_else_is_refused(tmp_path, change, message):
    build_index(Letters(), CORPUS, tmp_path, block=100)
    asked = {"encoder": Letters(), "documents": CORPUS, "block": 100, **change}
    with pytest.raises(IndexMismatch, match=message):
        build_index(folder=tmp_path, **asked)
    again = build_index(folder=tmp_path, resume=False, **asked)
    assert again.ids == list(asked["documents"])


def test_loading_checks_the_model(tmp_path):
    build_index(Letters(), CORPUS, tmp_path)
    with pytest.raises(IndexMismatch, match="made with another model"):
        load_index(tmp_path, Letters(2.0))
    with pytest.raises(IndexMismatch, match="holds no index"):
        load_index(tmp_path / "elsewhere", Letters())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"blocks": [], "kind": "dense"}'])
def test_a_broken_manifest_is_said(tmp_path, content):
    build_index(Letters(), CORPUS, tmp_path)
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(IndexMismatch, match="index.json is no index manifest"):
        load_index(tmp_path, Letters())


def test_a_missing_block_is_said(tmp_path):
    build_index(Letters(), CORPUS, tmp_path, block=100)
    os.unlink(tmp_path / "00001" / "ids.json")
    with pytest.raises(IndexMismatch, match="00001/ids.json is missing"):
        load_index(tmp_path, Letters())


def test_starting_again_removes_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    build_index(Letters(), CORPUS, tmp_path, block=50)
    build_index(Letters(), CORPUS, tmp_path, block=200, resume=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000", "00001", "data", "index.json", "notes.txt"
    ]  # fmt: skip


def test_the_fingerprint_sees_weights_and_nothing_else():
    assert fingerprint(Letters()) == fingerprint(Letters())
    assert fingerprint(Letters()) != fingerprint(Letters(1.5))
    assert fingerprint(Letters()) != fingerprint(SparseLetters())


# Errors


def test_numbers_that_are_none_are_refused(tmp_path):
    broken = Letters(math.nan)
    with pytest.raises(ValueError, match="NaN or infinity for a document; has training diverged"):
        build_index(broken, CORPUS)
    with pytest.raises(ValueError, match="NaN or infinity for a query"):
        build_index(Letters(), CORPUS).__class__(
            build_index(Letters(), CORPUS).blocks, broken
        ).embed(["a"])
    with pytest.raises(ValueError, match="does not fit into float16; use dtype='float32'"):
        build_index(Letters(70_000.0), CORPUS, dtype="float16")


def test_wrong_settings_are_answered():
    with pytest.raises(UnknownName, match="unknown dtype 'float8'; did you mean float"):
        build_index(Letters(), CORPUS, dtype="float8")
    for wrong in ({"block": 0}, {"documents": {}}):
        with pytest.raises(ValueError, match="block is 0|there are no documents"):
            build_index(Letters(), **{"documents": CORPUS, **wrong})
    index = build_index(Letters(), CORPUS)
    with pytest.raises(ValueError, match="depth is 0"):
        search(index, ["a"], depth=0)
    assert search_run(index, {}) == {}


def test_cosine_means_vectors_of_length_one():
    encoder = Letters()
    encoder.similarity = "cosine"
    run = retrieve(encoder, CORPUS, {"q": "aabb"}, 1)
    assert run["q"] == pytest.approx(
        {next(d for d, t in CORPUS.items() if sorted(t) == ["a", "b"]): 1.0}
    )


def test_a_query_that_shares_nothing_finds_nothing():
    corpus = {"d1": "aa", "d2": "bb"}
    assert retrieve(SparseLetters(), corpus, {"q": "c"}) == {"q": {}}
    assert search_run(build_bm25({"d1": "red fish"}), {"q": "xyzzy"}) == {"q": {}}
    assert list(retrieve(Letters(), corpus, {"q": "c"})["q"]) == ["d1", "d2"]


# BM25


def test_bm25_is_that_of_bm25s():
    collection = make_collection()
    texts = [d.full + " the " * (i % 3) for i, d in enumerate(collection.documents.values())]
    asked = [" ".join(t.split()[:3] + t.split()[:1]) for t in texts[:12]] + ["nothing known"]
    words = {"stopwords": "en", "show_progress": False}
    theirs = bm25s.BM25(k1=0.9, b=0.4)
    theirs.index(bm25s.tokenize(texts, **words), show_progress=False)
    for block in (10, 1000):
        index = build_bm25(dict(zip(collection.documents, texts, strict=True)), block=block)
        run = search_run(index, {str(i): q for i, q in enumerate(asked)}, len(texts))
        for i, query in enumerate(asked):
            tokens = bm25s.tokenize([query], return_ids=False, **words)[0]
            known = [t for t in tokens if t in theirs.vocab_dict]
            scores = theirs.get_scores(known) if known else np.zeros(len(texts))
            expected = {d: s for d, s in zip(collection.documents, scores, strict=True) if s > 0}
            assert run[str(i)] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_bm25_is_kept_in_a_folder(tmp_path):
    documents = {"d1": Document("red", "fish"), "d2": "blue fish"}
    index = build_bm25(documents, k1=1.2, block=1)
    save_bm25(index, tmp_path / "bm25")
    save_bm25(index, tmp_path / "bm25")
    again = load_bm25(tmp_path / "bm25", documents)
    assert isinstance(again, BM25Index) and again.blocks.settings["k1"] == 1.2
    assert search_run(again, {"q": "fish blue"}) == search_run(index, {"q": "fish blue"})
    with pytest.raises(IndexMismatch, match="documents 'd2' to 'd2' are not those"):
        load_bm25(tmp_path / "bm25", {**documents, "d2": "green fish"})
    with pytest.raises(IndexMismatch, match="holds 2 documents, there are 3 now"):
        load_bm25(tmp_path / "bm25", {**documents, "d3": "x"})
    assert [p.name for p in tmp_path.iterdir()] == ["bm25"]


def test_an_interrupted_save_leaves_the_former_index(tmp_path, monkeypatch):
    save_bm25(build_bm25({"d": "red fish"}), tmp_path / "bm25")
    monkeypatch.setattr(
        retrieval, "_write_block", lambda *a: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        save_bm25(build_bm25({"d": "blue fish"}), tmp_path / "bm25")
    assert list(load_bm25(tmp_path / "bm25").vocabulary) == ["red", "fish"]
    assert [p.name for p in tmp_path.iterdir()] == ["bm25"]


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(IndexMismatch, match="holds something else than an index"):
        save_bm25(build_bm25({"d": "red fish"}), tmp_path)
    build_index(Letters(), CORPUS, tmp_path / "dense")
    with pytest.raises(IndexMismatch, match="holds a dense index; expected one of BM25"):
        load_bm25(tmp_path / "dense")


def test_documents_without_words_are_indexed():
    index = build_bm25({"d1": "the a of", "d2": "", "d3": "fish"}, block=1)
    assert list(search_run(index, {"q": "fish"})["q"]) == ["d3"]
    assert len(search_run(build_bm25({"d1": ""}), {"q": "fish"})["q"]) == 0


def test_shared_terms_add_up_to_the_score():
    documents = {k: d.full for k, d in make_collection().documents.items()}
    index = build_bm25(documents, block=10)
    for document in ("d0-0", "d3-4"):
        query = " ".join(documents[document].split()[:4])
        score = search_run(index, {"q": query}, 100)["q"][document]
        parts = shared_terms(index, query, document)
        assert sum(value for _, value in parts) == pytest.approx(score, rel=1e-5)
        assert {word for word, _ in parts} <= set(query.split())
    with pytest.raises(UnknownName, match="unknown document"):
        shared_terms(index, "x", "nowhere")
    assert shared_terms(build_index(SparseLetters(), CORPUS), "ab", "d0") is not None


# Reranking


class Shortest(Reranker):
    def __init__(self):
        super().__init__()
        self.lists = 0

    def score(self, lists, batch_size=64, progress=False):
        self.lists += len(lists)
        return [[-float(len(d)) for d in documents] for _, documents in lists]


DOCUMENTS = {"a": Document("", "xxxx"), "b": "xx", "c": "xx", "d": "x"}


def test_a_reranker_orders_the_first_and_leaves_the_rest():
    run = {"q": {"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0}, "empty": {}}
    queries = {"q": "?", "empty": "?"}
    assert list(rerank(Shortest(), run, DOCUMENTS, queries, 3)["q"]) == ["b", "c", "a", "d"]
    found = rerank(Shortest(), run, DOCUMENTS, queries, 2)
    assert list(found["q"]) == ["b", "a", "c", "d"] and found["empty"] == {}
    assert sorted(found["q"].values(), reverse=True) == list(found["q"].values())
    assert list(rerank(Shortest(), run, DOCUMENTS, queries)["q"]) == ["d", "b", "c", "a"]


def test_many_queries_are_reranked_in_groups():
    reranker, run = Shortest(), {str(i): {"a": 1.0, "b": 0.5} for i in range(150)}
    found = rerank(reranker, run, DOCUMENTS, dict.fromkeys(run, "?"))
    assert list(found) == list(run) and reranker.lists == 150


def test_reranking_says_what_is_unknown():
    with pytest.raises(UnknownName, match="unknown document in the run 'z'"):
        rerank(Shortest(), {"q": {"z": 1.0}}, DOCUMENTS, {"q": "?"})
    with pytest.raises(UnknownName, match="unknown query in the run"):
        rerank(Shortest(), {"other": {"a": 1.0}}, DOCUMENTS, {"q": "?"})
    with pytest.raises(ValueError, match="depth is 0"):
        rerank(Shortest(), {"q": {"a": 1.0}}, DOCUMENTS, {"q": "?"}, 0)


def test_the_manifest_says_what_is_in_the_folder(tmp_path):
    build_index(Letters(), CORPUS, tmp_path, block=100)
    found = json.loads((tmp_path / "index.json").read_text())
    assert found["kind"] == "dense" and found["documents"] == 230 and len(found["blocks"]) == 3
