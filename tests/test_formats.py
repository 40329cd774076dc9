"""Files: what is written is read again, and a broken file is refused or accounted for."""

import gzip
import io
import json
import pickle
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.data.collections import Collection, Document, read_beir, write_beir
from rankbench.data.examples import TARGETS, Example, Examples
from rankbench.data.features import FeatureLists, read_letor, write_letor
from rankbench.data.files import (
    BadFile,
    CannotWrite,
    detect_format,
    open_text,
    read_records,
    write_json_lines,
    write_lines,
)
from rankbench.data.formats import (
    read_qrels,
    read_run,
    read_topics,
    write_qrels,
    write_run,
    write_topics,
)
from rankbench.data.rows import (
    iter_rows,
    read_rows,
    read_triples,
    write_rows,
    write_triples,
)

MANY = settings(max_examples=40)
ODD = "\0\t\n\r\v\x1c\x85\xa0\u2028\u2029\ufeff\ud83d\ude00 #<>[{\"'\\:,_0é"
texts = st.text(st.one_of(st.characters(), st.sampled_from(ODD)), max_size=12)
tame = st.from_regex(r"[a-zA-Z0-9é][\w.:-]{0,8}", fullmatch=True)
ids = st.one_of(tame, tame, texts)
grades = st.integers(-3, 5)
scores = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


def pairs_of(values, names=ids):
    return st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("formats")


def round_trip(write, read, value, refused_only_if):
    """What is written is read again; refused is only what may be."""
    try:
        write(value)
    except CannotWrite:
        assert refused_only_if
        return
    assert read() == value


def plain(*parts: str) -> bool:
    """Words that every format must take."""
    return all(re.fullmatch(r"[a-zA-Z0-9é][\w.:-]*", p) for p in parts)


def names_of(pairs):
    return [*pairs, *(d for documents in pairs.values() for d in documents)]


@MANY
@given(pairs_of(scores))
def test_a_run_reads_back_to_the_last_digit(folder, run):
    path = folder / "x.run.gz"
    may = not plain(*names_of(run)) or not all(run.values())
    round_trip(lambda r: write_run(r, path), lambda: read_run(path), run, may)


@MANY
@given(st.dictionaries(tame, st.sampled_from([0.1, 0.1 + 1e-17, 0.3, -0.0, 0.0]), min_size=1))
def test_ties_keep_their_order(folder, documents):
    write_run({"q": documents}, folder / "ties.run")
    best = sorted(documents, key=lambda d: -documents[d])
    assert list(read_run(folder / "ties.run")["q"]) == best


@MANY
@given(pairs_of(grades), st.booleans())
def test_judgments_read_back(folder, judgments, beir):
    path = folder / "x.qrels"
    may = not plain(*names_of(judgments)) or not all(judgments.values())
    write = lambda j: write_qrels(j, path, beir)  # noqa: E731
    round_trip(
        write, lambda: read_qrels(path, beir=beir if not judgments else None), judgments, may
    )


@MANY
@given(st.dictionaries(ids, texts), st.sampled_from([".jsonl", ".tsv.gz", ".trec"]))
def test_topics_read_back(folder, topics, ending):
    path = folder / f"topics{ending}"
    may = not plain(*topics, *topics.values())
    round_trip(lambda t: write_topics(t, path), lambda: read_topics(path), topics, may)


words_list = st.lists(texts, min_size=2, max_size=2)


@MANY
@given(st.lists(st.tuples(texts, words_list)), st.sampled_from([".tsv", ".jsonl.gz"]))
def test_triples_of_texts_read_back(folder, rows, ending):
    path = folder / f"triples{ending}"
    examples = [Example(q, tuple(d)) for q, d in rows]
    every = [t for q, d in rows for t in (q, *d)]
    may = not plain(*every) or all(t.isdigit() for t in every[:3])
    write = lambda e: write_triples(e, path)  # noqa: E731
    round_trip(write, lambda: read_triples(path)[0], examples, may)


@MANY
@given(st.dictionaries(ids, texts, min_size=3, max_size=5), st.booleans(), st.booleans())
def test_triples_of_ids_read_back(folder, known, scored, tsv):
    path = folder / ("ids.tsv" if tsv else "ids.jsonl")
    names = list(known)
    labels = (0.5, -1.0) if scored else None
    example = Example(
        known[names[0]], (known[names[1]], known[names[2]]), labels, names[0], tuple(names[1:3])
    )
    read = lambda: read_triples(path, queries=known, documents=known)  # noqa: E731
    may = not plain(*names) or (tsv and scored)
    target = "score" if scored else "none"
    write = lambda pair: write_triples(pair[0], path, ids=True)  # noqa: E731
    round_trip(write, read, ([example] * 2, target), may)


@st.composite
def examples_of(draw, targets):
    documents = tuple(draw(st.lists(texts, max_size=4)))
    count = 1 if targets == "class" and not documents else len(documents)
    numbers = st.sampled_from([0.0, 1.0]) if targets == "binary" else finite
    labels = tuple(draw(st.lists(numbers, min_size=count, max_size=count)))
    named = st.lists(ids, min_size=len(documents), max_size=len(documents))
    return (  # what an Example is made of
        draw(texts), documents, None if targets == "none" else labels, draw(texts),
        tuple(draw(st.one_of(st.just([]), named))), frozenset(draw(st.lists(ids, max_size=2))),
        draw(texts),
    )  # fmt: skip


def any_lone(value) -> bool:
    """Half a character somewhere inside."""
    return "\\ud" in repr(value)


@settings(max_examples=30)
@given(st.data(), st.sampled_from(list(TARGETS)), st.sampled_from(["jsonl", "parquet"]))
def test_rows_read_back_whole(folder, data, targets, ending):
    path = folder / f"rows.{ending}"
    made_of = data.draw(st.lists(examples_of(targets), min_size=1, max_size=3))
    examples = [Example(*parts) for parts in made_of]
    write = lambda e: write_rows(e[0], path, targets=targets)  # noqa: E731
    round_trip(write, lambda: read_rows(path), (examples, targets), any_lone(examples))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(texts, st.lists(st.tuples(texts, finite), min_size=1, max_size=4))),
    st.sampled_from(["jsonl", "parquet"]),
    st.sampled_from(["pairs", "pos_neg"]),
    st.sampled_from(["none", "score", "binary"]),
)
def test_other_layouts_read_back_or_are_refused(folder, rows, ending, layout, targets):
    path = folder / f"{layout}.{ending}"
    labelled = {
        "none": lambda d: None,
        "score": lambda d: tuple(s for _, s in d),
        "binary": lambda d: tuple(float(i == 0) for i in range(len(d))),
    }[targets]
    examples = [Example(q, tuple(t for t, _ in d), labelled(d)) for q, d in rows]
    fits = targets in {"pairs": ("none", "score"), "pos_neg": ("score", "binary")}[layout]
    write = lambda e: write_rows(e, path, layout, targets)  # noqa: E731
    may = not fits or any_lone(examples)
    round_trip(write, lambda: read_rows(path)[0], examples, may)
    if fits and rows and not any_lone(examples):
        assert read_rows(path)[1] == targets


@settings(max_examples=30)
@given(st.dictionaries(ids, st.tuples(texts, texts), min_size=1), st.dictionaries(ids, texts,
       min_size=1), st.data())  # fmt: skip
def test_a_beir_folder_reads_back(folder, documents, queries, data):
    pairs = {q: {d: data.draw(grades) for d in documents} for q in list(queries)[:2]}
    pairs = {q: g for q, g in pairs.items() if max(g.values()) > 0}
    docs = {k: Document(*d) for k, d in documents.items()}
    collection = Collection("beir", docs, queries, {"test": pairs, "train": pairs})
    may = not plain(*documents, *queries) or any_lone((documents, queries))
    if "" in documents or "" in queries:
        return
    write = lambda c: write_beir(c, folder / "beir")  # noqa: E731
    round_trip(write, lambda: read_beir(folder / "beir"), collection, may)


@settings(max_examples=30)
@given(st.dictionaries(ids, st.lists(st.tuples(st.integers(0, 4), texts, st.lists(
       st.floats(width=32), min_size=2, max_size=2)), max_size=3), max_size=3))  # fmt: skip
def test_lists_of_features_read_back(folder, lists):
    rows = [row for own in lists.values() for row in own]
    features = torch.tensor([f for _, _, f in rows]).reshape(-1, 2)
    labels = torch.tensor([float(y) for y, _, _ in rows])
    sizes = torch.tensor([len(own) for own in lists.values()], dtype=torch.long)
    comments = tuple(c for _, c, _ in rows)
    given = FeatureLists(features, labels, tuple(lists), sizes, comments)
    try:
        write_letor(given, folder / "letor.txt")
    except CannotWrite:
        whole = all(map(len, lists.values())) and rows and bool(features.isfinite().all())
        assert not whole or not plain(*lists, *filter(None, comments))
        return
    again = read_letor(folder / "letor.txt")
    assert again.features.equal(features) and again.labels.equal(labels)
    assert again.queries == given.queries and again.comments == comments


# Broken files.

COLLECTION = Collection(
    "c", {f"d{i}": Document(f"t{i}", f"text of {i}, longer é") for i in range(8)},
    {f"q{i}": f"what is {i}?" for i in range(4)},
    {"test": {f"q{i}": {f"d{j}": (i + j) % 3 for j in range(4)} for i in range(4)}},
)  # fmt: skip
SPLIT = COLLECTION.judgments["test"]
RUN = {q: {d: g + 0.1 for d, g in documents.items()} for q, documents in SPLIT.items()}
EXAMPLES = [
    Example(
        COLLECTION.queries[q], tuple(COLLECTION.documents[d].full for d in g), None, q, tuple(g)
    )
    for q, g in SPLIT.items()
] * 3
SCORED = [Example(e.query, e.documents, (3.5, 1e-3, 0.0, -7.25)) for e in EXAMPLES]
LISTS = FeatureLists(
    torch.arange(24.0).reshape(8, 3) / 7, torch.arange(8.0) % 3, ("1", "2"),
    torch.tensor([5, 3]), tuple(f"docid = {i}" for i in range(8)),
)  # fmt: skip


def size(pairs) -> int:
    return sum(map(len, pairs.values()))


def lines_in(raw: bytes) -> list[str]:
    """Lines that are not blank, found without our reader."""
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return [line for line in raw.decode("utf-8-sig").split("\n") if line.strip()]


def records(raw: bytes) -> int:
    return len(lines_in(raw))


def without_header(raw: bytes) -> int:
    lines = lines_in(raw)
    beir = lines and lines[0].count("\t") == 2
    return len(lines) - bool(beir and lines[0].split("\t")[-1].strip() == "score")


def topics_in(raw: bytes) -> int:
    return sum(bool(re.match(r"\s*<\s*num\b", line, re.I)) for line in lines_in(raw))


def rows_of_features(raw: bytes) -> int:
    return sum(bool(line.partition("#")[0].strip()) for line in lines_in(raw))


def parquet_rows(raw: bytes) -> int:
    return len(EXAMPLES)


TRIPLES = {"queries": COLLECTION.queries, "documents": COLLECTION.documents}
FORMATS = {  # name of the file: writer, reader (how many records), records that the file holds
    "x.run": (lambda p: write_run(RUN, p), lambda p, n: size(read_run(p, n)), records),
    "x.qrels": (lambda p: write_qrels(SPLIT, p), lambda p, n: size(read_qrels(p, n)),
                without_header),
    "x-beir.tsv": (lambda p: write_qrels(SPLIT, p, True), lambda p, n: size(read_qrels(p, n)),
                   without_header),
    "topics.tsv": (lambda p: write_topics(COLLECTION.queries, p), lambda p, n: len(read_topics(p)),
                   records),
    "topics.jsonl": (lambda p: write_topics(COLLECTION.queries, p),
                     lambda p, n: len(read_topics(p)), records),
    "topics.trec": (lambda p: write_topics(COLLECTION.queries, p),
                    lambda p, n: len(read_topics(p)), topics_in),
    "ids.tsv": (lambda p: write_triples(EXAMPLES, p, True),
                lambda p, n: len(read_triples(p, notes=n, **TRIPLES)[0]), records),
    "ids.jsonl": (lambda p: write_triples(EXAMPLES, p, True),
                  lambda p, n: len(read_triples(p, notes=n, **TRIPLES)[0]), records),
    "scored.jsonl": (lambda p: write_triples(SCORED, p), lambda p, n: len(read_triples(p)[0]),
                     records),
    "triples.tsv": (lambda p: write_triples(EXAMPLES, p), lambda p, n: len(read_triples(p)[0]),
                    records),
    "rows.jsonl": (lambda p: write_rows(SCORED, p, targets="score"),
                   lambda p, n: len(read_rows(p, notes=n)[0]), records),
    "pairs.jsonl": (lambda p: write_rows(EXAMPLES, p, "pairs"),
                    lambda p, n: len(read_rows(p)[0]), records),
    "pos_neg.jsonl": (lambda p: write_rows(SCORED, p, "pos_neg", "score"),
                      lambda p, n: len(read_rows(p)[0]), records),
    "rows.parquet": (lambda p: write_rows(EXAMPLES, p), lambda p, n: len(read_rows(p)[0]),
                     parquet_rows),
    "letor.txt": (lambda p: write_letor(LISTS, p), lambda p, n: len(read_letor(p).labels),
                  rows_of_features),
}  # fmt: skip
WRONG = [
    "nan",
    "null",
    "1e999",
    "[]",
    "{}",
    "-1",
    "x",
    "",
    "1_0",
    "true",
    '"',
    "9" * 30,
    "٣",
    "0.5",
]


def mutate(raw: bytes, rng: random.Random, text: bool) -> bytes:
    """One change to a file, of the kinds that happen to files."""
    kind = rng.randrange(10 if text else 4)
    at = rng.randrange(max(len(raw), 1))
    if kind == 0 and raw:  # a bit falls over
        return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
    if kind == 1:
        return raw[:at]
    if kind == 2:
        return raw[:at] + rng.choice([b"\0", b"\xff", b"\r", b"\n", b"\t", b'"']) + raw[at:]
    if kind == 3:
        return raw[:at] + raw[at + rng.randrange(1, 9) :]
    lines = raw.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 4:
        del lines[i]
    elif kind == 5:
        lines.insert(i, lines[j])
    elif kind == 6:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        cells = re.split(rb"([\t ,]+)", lines[i])
        k = rng.randrange(len(cells))
        if kind == 7:
            del cells[k:]
        elif kind == 8:
            del cells[k : k + 2]
        else:
            cells[k] = rng.choice(WRONG).encode()
        lines[i] = b"".join(cells)
    return b"\n".join(lines)


def broken(raw: bytes, rng: random.Random, text: bool) -> bytes:
    """A file after one to three changes, in one of the dresses that files come in."""
    dress = rng.randrange(6) if text else 0
    raw = raw.replace(b"\n", b"\r\n") if dress == 1 else raw
    for _ in range(rng.randrange(1, 4)):
        raw = mutate(raw, rng, text)
    raw = b"\xef\xbb\xbf" + raw if dress == 2 else raw
    if dress >= 4:
        raw = gzip.compress(raw, 1)
        return mutate(raw, rng, text=False) if dress == 5 else raw
    return raw


def noted(notes) -> int:
    return sum(int(m[1]) for n in notes if (m := re.search(r": (\d+) lines? left out", n)))


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_file_is_refused_or_accounted_for(tmp_path, name, without_shape_checks):
    write, read, count = FORMATS[name]
    write(tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    path, refused, kept = tmp_path / f"broken-{name}", 0, 0
    for seed in range(200):
        damaged = broken(raw, random.Random(seed), name != "rows.parquet")
        path.write_bytes(damaged)
        notes = []
        try:
            found = read(path, notes)
        except ValueError as error:
            assert isinstance(error, BadFile), (seed, repr(error))
            assert str(path) in str(error), seed
            refused += 1
            continue
        kept += 1
        assert found + noted(notes) == count(damaged), (seed, damaged)
    assert refused > 40 and (kept > 20 or name == "rows.parquet"), (refused, kept)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_broken_beir_folder_is_refused_or_accounted_for(tmp_path, file, without_shape_checks):
    write_beir(COLLECTION, tmp_path / "c")
    path = tmp_path / "c" / file
    raw = path.read_bytes()
    for seed in range(150):
        damaged = broken(raw, random.Random(seed), True)
        path.write_bytes(damaged)
        try:
            found = read_beir(tmp_path / "c")
        except BadFile as error:
            assert str(tmp_path / "c") in str(error)
            continue
        rows = {p: lines_in((tmp_path / "c" / p).read_bytes()) for p in
                ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")}  # fmt: skip
        assert len(found.documents) == len(rows["corpus.jsonl"])
        assert len(found.queries) == len(rows["queries.jsonl"])
        lines = [r.removesuffix("\r").split("\t") for r in rows["qrels/test.tsv"]]
        lines = [c for c in lines if c[-1].strip() != "score"]
        told = {k: 0 for k in ("judgments", "queries")} | {
            m[2]: 0 for n in found.notes if (m := re.search(r"(\d+) (judgments|queries)", n))
        }
        for note in found.notes:
            if match := re.search(r": (\d+) (judgments|queries)", note):
                told[match[2]] += int(match[1])
        unknown = [c for c in lines if c[0] not in found.queries or c[1] not in found.documents]
        assert len({(c[0], c[1]) for c in unknown}) == told["judgments"], (seed, found.notes)
        known = {(c[0], c[1]): int(float(c[2])) for c in lines if c not in unknown}
        assert len(lines) - noted(found.notes) == len(known) + told["judgments"]
        relevant = {q for (q, _), g in known.items() if g > 0}
        assert len({q for q, _ in known} - relevant) == told["queries"]
        kept = {(q, d): g for q, grades in found.split("test").items() for d, g in grades.items()}
        assert kept == {pair: g for pair, g in known.items() if pair[0] in relevant}


# What the files of others look like.


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_beir_folder_may_be_packed_or_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_beir(COLLECTION, tmp_path / "c")
    plain_one = read_beir(tmp_path / "c")
    for file in ("queries.jsonl", "qrels/test.tsv"):
        path = tmp_path / "c" / file
        put(path.with_name(path.name + ".gz"), gzip.compress(path.read_bytes()))
        path.unlink()
    corpus = [{"_id": k, **d._asdict()} for k, d in COLLECTION.documents.items()]
    write_table(pa.Table.from_pylist(corpus), tmp_path / "c" / "corpus.parquet")
    both = read_beir(tmp_path / "c")
    assert both.notes == ("corpus.parquet was not read: corpus.jsonl is there too",)
    (tmp_path / "c" / "corpus.jsonl").unlink()
    assert read_beir(tmp_path / "c") == plain_one


def test_gzip_is_seen_from_the_content_and_windows_is_understood(tmp_path):
    text = "\ufeffq1 Q0 d1 1 2.5 me\r\n\r\nq1 Q0 d2 2 1.5 me\r\n"
    expected = {"q1": {"d1": 2.5, "d2": 1.5}}
    assert read_run(put(tmp_path / "a.gz", text)) == expected
    assert read_run(put(tmp_path / "a.txt", gzip.compress(text.encode()))) == expected


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    with pytest.raises(BadFile, match="line 2: byte 2 of the line is not UTF-8"):
        list(open_text(put(tmp_path / "x", b"fine\na\xe9\n")))
    with pytest.raises(BadFile, match="line 1: .*UTF-8"):
        list(open_text(put(tmp_path / "x", "a".encode("utf-16"))))
    with pytest.raises(BadFile, match="is a folder"):
        list(open_text(tmp_path))
    with pytest.raises(BadFile, match="line 0: not found"):
        read_run(tmp_path / "nowhere")


def test_rows_without_any_feature_are_rows(tmp_path):
    lists = read_letor(put(tmp_path / "x", "1 qid:1\n0 qid:1 # b\n"))
    assert lists.features.shape == (2, 0) and lists.labels.tolist() == [1, 0]


def test_negative_grades_are_kept(tmp_path):
    assert read_qrels(put(tmp_path / "x", "1 0 a -1\n1 Q0 b 0\n")) == {"1": {"a": -1, "b": 0}}


def test_a_pair_with_two_values_is_never_chosen_between(tmp_path):
    notes = []
    with pytest.raises(BadFile, match="line 2: document 'a' of query '1' has 2 here and 1 above"):
        read_qrels(put(tmp_path / "x", "1 0 a 1\n1 0 a 2\n"), notes)
    with pytest.raises(BadFile, match="line 2: .*was there already. Mend the line, or pass notes"):
        read_run(put(tmp_path / "x", "1 Q0 a 1 0.5 me\n1 Q0 a 2 0.5 me\n"))


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("1 Q0 a 1 0.5 me\n", read_qrels, "like a file of the format TREC run, not TREC qrels"),
        ("1 0 a 1\n", read_run, "there are 4 columns; .*format TREC qrels, not TREC run"),
        ("1 Q0 a 1 nan me\n", read_run, "rank and score are '1' and 'nan'"),
        ("1 Q0 a first 0.5 me\n", read_run, "rank and score are 'first' and '0.5'"),
        ('{"query": "a"}\n', read_run, "format JSONL rows"),
        ("1 0 a 1.5\n", read_qrels, "whole-number grade, but the line is '1 0 a 1.5'"),
        ("a\tb\tc\n", read_topics, "expected id, a tab and text"),
        ("a\t \n", read_topics, "expected id, a tab and text"),
        ("1\tone\n1\ttwo\n", read_topics, "line 2: topic '1' is there twice"),
        ("2 qid:1 1:0.5 2:0.5\n", read_triples, "there are 1 columns; .* format LETOR"),
        ("a\tb\tc\na\tb\n", read_triples, "line 2: .*there are 2 columns and 3 in the first line"),
        ("a\tb\t \n", read_triples, "column 3 is blank"),
        ("1\t2\t3\n", read_triples, "are ids; expected texts, or pass collection="),
        ("1 0 a 1\n", read_letor, "format TREC qrels, not LETOR"),
        ("0 qid:1 1:1e39\n", read_letor, "'1:1e39' is too large for 32 bits"),
        ("0 qid:1 999999999:1\n", read_letor, "is beyond 100000 features"),
        ("0 qid:1 1:1_0\n", read_letor, "expected rows such as"),
    ],
)
def test_the_wrong_file_is_named_for_what_it_is(tmp_path, text, read, message):
    with pytest.raises(BadFile, match=message):
        read(put(tmp_path / "x", text))


def test_ranks_do_not_matter_and_scores_do(tmp_path):
    run = read_run(put(tmp_path / "x", "1 Q0 a 1 0.5 me\n1 Q0 b 2 0.9 me\n"))
    assert list(run["1"]) == ["b", "a"]


@pytest.mark.parametrize("text", ["", "\n", "<top>\n", "<top>\n<num> 1\n<title> x\n"])
def test_a_topic_that_is_cut_off_is_not_lost(tmp_path, text):
    path = put(tmp_path / "x.trec", text)
    if "<top>" not in text:
        assert read_topics(path) == {}
        return
    with pytest.raises(BadFile, match="the last topic has no </top>"):
        read_topics(path)


def test_the_fields_of_a_topic_are_chosen(tmp_path):
    text = "<top>\n<num> Number: 1\n<title> Topic: A b\n\n<desc> Description:\nc\nd\n</top>\n"
    path = put(tmp_path / "x", text)
    assert read_topics(path) == {"1": "A b"}
    assert read_topics(path, ("desc", "title")) == {"1": "c d A b"}
    with pytest.raises(BadFile, match="topic '1' has no <narr>; it has num, title, desc"):
        read_topics(path, ("narr",))
    with pytest.raises(UnknownName, match="did you mean narr"):
        read_topics(path, ("nar",))


@pytest.mark.parametrize(
    ("row", "documents", "labels", "targets"),
    [
        ({"positive": "a", "negative": "b"}, ("a", "b"), None, "none"),
        ({"positive": "a", "negative_10": "c", "negative_9": "b"}, ("a", "b", "c"), None, "none"),
        ({"positive": "a", "negatives": ["b", "c"], "scores": [3, 2, 1.5]}, ("a", "b", "c"),
         (3, 2, 1.5), "score"),
        ({"pos": ["a", "b"], "neg": ["c"]}, ("a", "b", "c"), (1, 1, 0), "binary"),
        ({"pos": ["a"], "neg": ["c"], "pos_scores": [1.5], "neg_scores": [-2]}, ("a", "c"),
         (1.5, -2), "score"),
        ({"documents": ["a", "b"], "labels": [2, 0]}, ("a", "b"), (2, 0), "relevance"),
        ({"documents": ["a", "b"], "scores": [2, 0]}, ("a", "b"), (2, 0), "score"),
        ({"documents": ["a"], "labels": None}, ("a",), None, "none"),
        ({"passages": ["a", "b"]}, ("a", "b"), None, "none"),
        ({"passages": [{"text": "a", "label": 1}, {"text": "b", "title": "t", "label": 0}]},
         ("a", "t b"), (1, 0), "relevance"),
        ({"passages": {"passage_text": ["a", "b"], "is_selected": [0, 1], "url": ["", ""]}},
         ("a", "b"), (0, 1), "binary"),
        ({"positive_passages": [{"docid": "1", "title": "", "text": "a"}],
          "negative_passages": [{"docid": "2", "title": "t", "text": "b"}]},
         ("a", "t b"), (1, 0), "binary"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_layouts_of_others(tmp_path, row, documents, labels, targets, ending):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path = tmp_path / f"x.{ending}"
    if ending == "jsonl":
        write_json_lines(path, [{"query": "q", **row}])
    else:
        write_table(pa.Table.from_pylist([{"query": "q", **row}]), path)
    (example,), found = read_rows(path)
    assert (example.documents, example.labels, found) == (documents, labels, targets)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q"}, "expected query with documents, positive, pos or passages"),
        ({"anchor": "q", "positive": "a"}, "names are anchor, positive. Rename with columns="),
        ({"query": 5, "positive": "a"}, "expected query with"),
        ({"query": "q", "positive": ["a", "b"]}, "several positives go into pos"),
        ({"query": "q", "positive": 1}, "positive is no text and no list of texts"),
        ({"query": "q", "pos": [], "neg": ["a"]}, "pos is missing or empty"),
        ({"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1]}, "or neither"),
        ({"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1, 2], "neg_scores": [1]},
         "pos_scores has 2 numbers for 1 documents"),
        ({"query": "q", "documents": ["a"], "labels": ["1"]}, "labels is no list of finite"),
        ({"query": "q", "documents": ["a"], "labels": [10**400]}, "labels is no list of finite"),
        ({"query": "q", "documents": ["a"], "labels": [True]}, "labels is no list of finite"),
        ({"query": "q", "documents": ["a"], "labels": [1], "scores": [1]}, "choose with columns="),
        ({"query": "q", "documents": ["a"], "labels": [1], "targets": "grade"}, "unknown kind of"),
        ({"query": "q", "documents": ["a"], "labels": [1], "targets": []}, "unknown kind of|exp"),
        ({"query": "q", "documents": ["a"], "document_ids": ["1", "2"]}, "1 documents but 2"),
        ({"query": "q", "passages": 3}, "passages is no list"),
        ({"query": "q", "passages": [{"text": "a", "label": 1}, {"text": "b"}]}, "or neither"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_refused_with_its_line(tmp_path, row, message):
    good = {"query": "q", "documents": ["a"]}
    path = put(tmp_path / "x.jsonl", f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(BadFile, match=f"x.jsonl, line 2: .*{message}") as error:
        read_rows(path)
    assert isinstance(error.value, BadFile)


def test_rows_agree_on_what_their_labels_are(tmp_path):
    rows = [{"query": "q", "documents": ["a"], k: [1]} for k in ("labels", "scores")]
    write_json_lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(BadFile, match="line 2: expected relevance .*, but here it is score"):
        read_rows(tmp_path / "x.jsonl")
    assert read_rows(tmp_path / "x.jsonl", targets="rank")[1] == "rank"


def test_columns_are_renamed_and_the_others_are_told(tmp_path):
    rows = [{"anchor": "q", "docs": ["a"], "labels": [1], "scores": [0.5], "url": "u"}]
    write_json_lines(tmp_path / "x.jsonl", rows)
    notes, names = [], {"query": "anchor", "documents": "docs"}
    examples, targets = read_rows(tmp_path / "x.jsonl", {**names, "scores": "scores"}, None, notes)
    assert examples == [Example("q", ("a",), (0.5,))] and targets == "score"
    assert notes == ["x.jsonl: columns not read: labels, url"]
    with pytest.raises(BadFile, match="there is no 'question'; the names are anchor, docs"):
        read_rows(tmp_path / "x.jsonl", {"query": "question"})
    with pytest.raises(UnknownName, match="did you mean query"):
        read_rows(tmp_path / "x.jsonl", {"querry": "anchor"})


def test_rows_are_read_one_by_one(tmp_path):
    path = put(tmp_path / "x.jsonl", '{"query": "q", "positive": "a"}\n' * 2 + "broken\n")
    rows = iter_rows(path)
    assert next(rows) == next(rows) == (Example("q", ("a",)), "none")
    with pytest.raises(BadFile, match="line 3"):
        next(rows)


def test_a_training_set_is_written_with_its_targets(tmp_path):
    write_rows(Examples(SCORED, "score"), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet") == (SCORED, "score")


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = put(tmp_path / "x.jsonl", '{"a": 1, "a": 2}\n')
    with pytest.raises(BadFile, match="line 1: .*the key 'a' is there twice"):
        list(read_records(path))
    deep = put(tmp_path / "deep.jsonl", "[" * 100_000)
    with pytest.raises(BadFile, match="line 1"):
        list(read_records(deep))


def test_other_programs_see_one_line_too(tmp_path):
    write_json_lines(tmp_path / "x.jsonl", [{"text": "a\u2028b\x85c\u2029d\x1ce\rf"}])
    assert len((tmp_path / "x.jsonl").read_text("utf-8").splitlines()) == 1


def test_ids_that_nothing_is_known_of_are_told_or_refused(tmp_path):
    path = put(tmp_path / "x.tsv", "q0\td0\td1\nq0\td0\tnowhere\nnobody\td0\td1\n")
    with pytest.raises(BadFile, match="line 2: an unknown document in .*pass notes="):
        read_triples(path, COLLECTION)
    notes = []
    assert len(read_triples(path, COLLECTION, notes=notes)[0]) == 1
    assert notes == [
        "x.tsv: 1 line left out: unknown document", "x.tsv: 1 line left out: unknown query"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="queries and documents come together"):
        read_triples(path, queries=COLLECTION.queries)


def test_json_triples_hold_ids_and_scores(tmp_path):
    known = {"1": "one", "2": "two", "3": "three"}
    path = put(tmp_path / "x.json", "[1, [2, 0.5], [3, -1]]\n")
    examples, targets = read_triples(path, queries=known, documents=known)
    assert examples == [Example("one", ("two", "three"), (0.5, -1.0), "1", ("2", "3"))]
    assert targets == "score"
    mixed = put(tmp_path / "y.json", "[1, [2, 0.5], [3, -1]]\n[1, 2, 3]\n")
    with pytest.raises(BadFile, match="line 2: expected scores in every line or in none"):
        read_triples(mixed, queries=known, documents=known)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: write_run({"a b": {"d": 1.0}}, p), "query 'a b' is empty or holds blanks"),
        (lambda p: write_run({"a": {"d": float("nan")}}, p), "the score of 'd' is NaN"),
        (lambda p: write_run({"a": {}}, p), "query 'a' has no documents"),
        (lambda p: write_run({"\ud800": {"d": 1.0}}, p), "half a character"),
        (lambda p: write_qrels({"a": {}}, p), "query 'a' has no documents"),
        (lambda p: write_triples([Example("q", ("a",))], p), "lacks a positive and a negative"),
        (lambda p: write_triples([Example("q\t", ("a", "b"))], p), "holds a tab"),
        (lambda p: write_triples([Example("q", ("a", "b"))], p, True), "lacks ids"),
        (lambda p: write_triples([Example("1", ("2", "3"))], p), "would be taken for ids"),
        (lambda p: write_triples([Example("q", ("a", "b"), (1.0, 0.0))], p), "need JSON lists"),
        (lambda p: write_letor(FeatureLists(torch.ones(1, 1), torch.tensor([0.5]), ("q",),
         torch.tensor([1]), ("",)), p), "grades must be whole numbers"),
    ],
)  # fmt: skip
def test_a_refusal_leaves_the_old_file(tmp_path, write, message):
    path = put(tmp_path / "x.tsv", "old")
    with pytest.raises(CannotWrite, match=f"x.tsv is not written: .*{message}"):
        write(path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.tsv"]


def test_queries_without_documents_are_left_out_when_somebody_listens(tmp_path):
    notes = []
    write_run({"a": {}, "b": {"d": 1.0}}, tmp_path / "x.run", notes=notes)
    assert read_run(tmp_path / "x.run") == {"b": {"d": 1.0}}
    assert notes == ["x.run: 1 queries without documents are left out"]


def test_packed_files_are_the_same_every_time(tmp_path):
    for name in ("a.gz", "b.gz"):
        write_lines(tmp_path / name, ["x"])
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.GzipFile(fileobj=io.BytesIO((tmp_path / "a.gz").read_bytes())).read() == b"x\n"


def test_a_written_link_stays_a_link(tmp_path):
    put(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_lines(tmp_path / "link", ["new"])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new\n"


def test_what_a_file_is(tmp_path):
    write_beir(COLLECTION, tmp_path / "c")
    assert detect_format(tmp_path / "c") == "BEIR folder"
    assert detect_format(tmp_path / "c" / "corpus.jsonl") == "JSONL of texts"
    expected = {
        "x.run": "TREC run", "x.qrels": "TREC qrels", "x-beir.tsv": "BEIR qrels",
        "topics.tsv": "TSV topics", "topics.trec": "TREC topics", "ids.tsv": "triples of ids",
        "ids.jsonl": "JSON lists of ids", "triples.tsv": "triples of texts",
        "rows.jsonl": "JSONL rows", "rows.parquet": "parquet rows", "letor.txt": "LETOR",
    }  # fmt: skip
    for name, kind in expected.items():
        FORMATS[name][0](tmp_path / name)
        assert detect_format(tmp_path / name) == kind
    assert detect_format(put(tmp_path / "x", b"\xff\x00")) == "unknown"
    with pytest.raises(BadFile, match="not found"):
        detect_format(tmp_path / "nowhere")


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(BadFile("x.tsv", 3, "broken")))
    assert str(error) == "x.tsv, line 3: broken" and error.line == 3
    assert str(pickle.loads(pickle.dumps(CannotWrite("x", "no")))) == "x is not written: no"


def test_runs_and_judgments_of_trec_are_read(shared, without_shape_checks):
    folder = shared / "collections" / "trec_dl"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    notes = []
    run = read_run(folder / "run.colbert.dl20.txt", notes)
    judged = read_qrels(folder / "qrels.dl20-passage.txt", notes)
    assert (size(run), size(judged), notes) == (27_000, 11_386, [])
    assert len(read_topics(folder / "topics.dl20.txt")) == 200
