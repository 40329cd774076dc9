"""Lists of features: the format, padding, splits, and the features of texts."""

import gzip
import random

import numpy as np
import pytest
import torch
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.data import text_features
from rankbench.data.collections import BadFile, UnknownCollection, write_beir
from rankbench.data.features import (
    FeatureLists,
    document_names,
    read_letor,
    read_letor_folder,
    run_of,
    write_letor,
    write_letor_folder,
)
from rankbench.data.text_features import Index, describe, features_of, load_features, words_of
from rankbench.training.evaluation import bm25_run, evaluate


def same(a: FeatureLists, b: FeatureLists) -> bool:
    return (
        a.features.equal(b.features) and a.labels.equal(b.labels) and a.queries == b.queries
        and a.sizes.equal(b.sizes) and a.comments == b.comments
    )  # fmt: skip


def random_lists(queries: int = 7, width: int = 5, seed: int = 0) -> FeatureLists:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 6, (queries,), generator=generator)
    rows = int(sizes.sum())
    features = torch.randn(rows, width, generator=generator) * 10.0 ** torch.arange(-3, width - 3)
    features *= torch.rand(rows, width, generator=generator) < 0.6
    labels = torch.randint(0, 5, (rows,), generator=generator).float()
    names = tuple(f"q{i}" for i in range(queries))
    return FeatureLists(features, labels, names, sizes, tuple(f"d{i}" for i in range(rows)))


@pytest.mark.parametrize("name", ["lists.txt", "lists.txt.gz"])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_is_read_again(tmp_path, name, seed):
    lists = random_lists(seed=seed)
    write_letor(lists, tmp_path / name)
    assert same(read_letor(tmp_path / name), lists)


def test_columns_without_any_value_are_not_lost(tmp_path):
    lists = random_lists()
    lists.features[:, 3:] = 0
    write_letor(lists, tmp_path / "lists.txt")
    assert same(read_letor(tmp_path / "lists.txt"), lists)


def test_gzip_is_gzip(tmp_path):
    write_letor(random_lists(), tmp_path / "lists.txt.gz")
    with gzip.open(tmp_path / "lists.txt.gz", "rt") as file:
        assert "qid:q0" in file.readline()


def test_a_row_by_hand(tmp_path):
    (tmp_path / "x.txt").write_text(
        "2 qid:10 1:0.5 3:-2e-1 #docid = GX029 inc = 1\n\n0 qid:11 2:7\n1 qid:10\n"
    )
    lists = read_letor(tmp_path / "x.txt")
    assert lists.queries == ("10", "11") and lists.sizes.tolist() == [2, 1]
    assert lists.labels.tolist() == [2, 1, 0]  # rows of a query come together, in their order
    assert torch.equal(lists.features, torch.tensor([[0.5, 0, -0.2], [0, 0, 0], [0, 7, 0]]))
    assert lists.comments == ("docid = GX029 inc = 1", "", "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 1:0.5", "there is no qid: after the grade"),
        ("1", "there is no qid: after the grade"),
        ("1 qid: 1:0.5", "there is no qid: after the grade"),
        ("1 qid:1 0:0.5", "'0:0.5' has no feature number from 1 up"),
        ("1 qid:1 -1:0.5", "'-1:0.5' has no feature number from 1 up"),
        ("1 qid:1 x:0.5", "'x:0.5' has no feature number from 1 up"),
        ("1 qid:1 2:0.5 1:0.5", "feature 1 comes after feature 2; they must ascend"),
        ("1 qid:1 2:0.5 2:0.5", "feature 2 comes after feature 2; they must ascend"),
        ("1 qid:1 1:low", "the value of '1:low' is not a number"),
        ("1 qid:1 1:", "the value of '1:' is not a number"),
        ("1 qid:1 1:0.5:2", "the value of '1:0.5:2' is not a number"),
        ("1 qid:1 1", "the value of '1' is not a number"),
        ("1 qid:1 1:nan", "the value of '1:nan' is not finite"),
        ("1 qid:1 1:inf 2:-inf", "the value of '1:inf' is not finite"),
        ("good qid:1 1:0.5", "the grade is 'good', not a whole number from 0 up"),
        ("0.5 qid:1 1:0.5", "the grade is '0.5', not a whole number from 0 up"),
        ("-1 qid:1 1:0.5", "the grade is '-1', not a whole number from 0 up"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, row, message):
    (tmp_path / "bad.txt").write_text(f"# a comment\n1 qid:1 1:0.5\n{row}\n")
    with pytest.raises(BadFile, match="bad.txt, line 3: expected rows such as") as error:
        read_letor(tmp_path / "bad.txt")
    assert str(error.value).endswith(message)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    (tmp_path / "empty.txt").write_text(text)
    with pytest.raises(BadFile, match="no rows"):
        read_letor(tmp_path / "empty.txt")
    with pytest.raises(BadFile, match="not found"):
        read_letor(tmp_path / "nowhere.txt")


def test_batches_pad_and_hide_nothing():
    lists = random_lists()
    chosen = torch.tensor([3, 0, 5])
    features, labels, where = lists.batch(chosen)
    assert where.sum(-1).equal(lists.sizes[chosen]) and where.shape[1] == lists.sizes[chosen].max()
    assert not features[~where].any() and not labels[~where].any()
    for row, query in enumerate(chosen.tolist()):
        rows = slice(int(lists.starts[query]), int(lists.starts[query] + lists.sizes[query]))
        assert features[row][where[row]].equal(lists.features[rows])
        assert labels[row][where[row]].equal(lists.labels[rows])


@pytest.mark.parametrize(
    ("comments", "names"),
    [
        (("a", "b", "c"), ["a", "b", "c"]),
        (("docid = x", "#docid = y", "docid=z w"), ["x", "y", "z"]),
        (("a", "a", "c"), ["1", "2", "c"]),
        (("two words", "b", ""), ["1", "2", "1"]),
    ],
)
def test_rows_have_a_name_that_is_unique_in_their_list(comments, names):
    lists = FeatureLists(
        torch.zeros(3, 1), torch.zeros(3), ("q", "r"), torch.tensor([2, 1]), comments
    )
    assert document_names(lists) == names


def test_queries_without_a_relevant_row_are_not_judged():
    lists = FeatureLists(torch.zeros(3, 1), torch.tensor([0, 0, 2.0]), ("q", "r"),
                         torch.tensor([2, 1]), ("", "", ""))  # fmt: skip
    assert lists.judgments == {"r": {"1": 2}}


def write_folder(folder, splits, queries=40):
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for width, split in enumerate(splits, 2):
        rows = [
            f"{rng.randrange(3)} qid:{q} {width}:{rng.random():.3f}"
            for q in range(queries)
            for _ in range(3)
        ]
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_a_feature_that_one_split_has_is_zero_in_the_others(tmp_path):
    data = read_letor_folder(write_folder(tmp_path / "x", ("train", "vali", "test")))
    assert {s.features.shape[1] for s in data.splits.values()} == {4} and len(data.columns) == 4
    assert data.split("train").features[:, 1].any() and not data.split("test").features[:, 1].any()


@pytest.mark.parametrize("dev", ["vali", "valid", "dev"])
def test_a_dev_file_is_used_under_any_of_its_names(tmp_path, dev):
    data = read_letor_folder(write_folder(tmp_path / "x", ("train", dev, "test")))
    assert len(data.split("dev")) == 40 and not any("taken" in n for n in data.notes)


def test_dev_is_a_fixed_share_of_training_queries(tmp_path):
    folder = write_folder(tmp_path / "x", ("train", "test"))
    first, again = read_letor_folder(folder), read_letor_folder(folder)
    train, dev = set(first.split("train").queries), set(first.split("dev").queries)
    assert not train & dev and len(train | dev) == 40 and 2 < len(dev) < 16
    assert first.fingerprint == again.fingerprint
    assert f"dev: {len(dev)} queries taken from train by a hash of their id" in first.notes


@pytest.mark.parametrize("layout", ["Fold1/{}.txt", "set1.{}.txt"])
def test_the_layouts_of_mslr_and_yahoo(tmp_path, layout):
    folder = write_folder(tmp_path / "plain", ("train", "vali", "test"))
    other = tmp_path / "other"
    for split in ("train", "vali", "test"):
        path = other / layout.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((folder / f"{split}.txt").read_text())
    data = load_features(other)
    assert data.fingerprint == read_letor_folder(folder).fingerprint
    assert any("Fold1" in note for note in data.notes) == ("Fold1" in layout)


def test_a_folder_is_written_and_read_again(tmp_path):
    data = read_letor_folder(write_folder(tmp_path / "x", ("train", "vali", "test")))
    write_letor_folder(data, tmp_path / "y")
    assert read_letor_folder(tmp_path / "y").fingerprint == data.fingerprint


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(BadFile, match=r"no test.txt; a LETOR folder has train.txt and test.txt"):
        read_letor_folder(write_folder(tmp_path / "x", ("train",)))
    data = read_letor_folder(write_folder(tmp_path / "y", ("train", "test")))
    with pytest.raises(UnknownName, match="did you mean test"):
        data.split("tets")
    with pytest.raises(UnknownCollection, match="no collection 'nowhere'"):
        load_features("nowhere")


def test_any_change_of_the_data_changes_the_fingerprint(tmp_path):
    folder = write_folder(tmp_path / "x", ("train", "test"))
    before = read_letor_folder(folder).fingerprint
    text = (folder / "test.txt").read_text()
    grade = str(3 - int(text[0]))
    for changed in (text.replace("qid:3 ", "qid:99 "), grade + text[1:], text[:-1] + "9\n"):
        assert changed != text
        (folder / "test.txt").write_text(changed)
        assert read_letor_folder(folder).fingerprint != before


# Values of the prototype: shared/DATA.md, with nDCG's linear gain.


@pytest.fixture(scope="module")
def lambdarank(shared):
    folder = shared / "collections" / "lightgbm_lambdarank"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def ndcg(lists, scores):
    values = evaluate(run_of(lists, scores), lists.judgments, ["nDCG@10"])["nDCG@10"].values()
    return sum(values) / len(values)


def test_known_values_of_lightgbm_lambdarank(lambdarank):
    from rankbench.models.feature_ranker import fit_ridge

    train, test = (read_letor(lambdarank / f"{s}.txt", 300) for s in ("train", "test"))
    assert (len(train), len(test)) == (201, 50) and train.features.shape == (3005, 300)
    assert train.labels.unique(return_counts=True)[1].tolist() == [645, 1211, 858, 222, 69]
    orders = [
        torch.rand(len(test.labels), generator=torch.Generator().manual_seed(i)) for i in range(20)
    ]
    assert np.mean([ndcg(test, order) for order in orders]) == pytest.approx(0.654, abs=0.01)
    ridge = fit_ridge(train.features, train.labels, penalty=100.0, compress=False)
    assert ndcg(test, ridge.score(test.features)) == pytest.approx(0.751, abs=0.002)


def test_the_folder_of_lightgbm_lambdarank(lambdarank, tmp_path):
    data = load_features(lambdarank)
    write_letor_folder(data, tmp_path)
    assert read_letor_folder(tmp_path).fingerprint == data.fingerprint
    assert {s: len(lists) for s, lists in data.splits.items()} == {
        "train": 161,
        "dev": 40,
        "test": 50,
    }


# Features of texts


@pytest.fixture(scope="module")
def described():
    collection = make_collection()
    return collection, describe(collection, depth=8)


def test_the_first_column_is_the_score_of_bm25_run(described):
    collection, data = described
    lists = data.split("test")
    run, ours = bm25_run(collection, list(lists.queries), 200), run_of(lists, lists.features[:, 0])
    for query, found in ours.items():
        for document, score in found.items():
            assert run[query][document] == pytest.approx(score, abs=1e-4)


def test_test_lists_hold_what_bm25_found_and_training_adds_what_it_missed():
    collection = make_collection(topics=3)  # queries and documents of a topic share few words
    data = describe(collection, depth=4)
    for split in ("dev", "test"):
        assert int(data.split(split).sizes.max()) <= 4
        assert data.split(split).judgments == collection.split(split)
    train = data.split("train")
    rows = run_of(train, train.labels)
    for query, grades in collection.split("train").items():
        assert {d: rows[query][d] for d in grades} == grades


def test_an_answer_that_is_no_candidate_counts_as_missed():
    data = describe(make_collection(topics=3), depth=4)
    test = data.split("test")
    assert ndcg(test, test.labels) < 1  # even in the best order
    assert "test: re-ranks BM25's best 4, which hold" in data.notes[-1]


def test_a_query_that_finds_nothing_has_an_empty_list_and_gets_zero():
    collection = make_collection(topics=3)
    collection.queries["q0-0"] = "zzzz"
    test = describe(collection, depth=4).split("test")
    assert test.sizes[test.queries.index("q0-0")] == 0
    run = run_of(test, test.features[:, 0])
    assert evaluate(run, test.judgments, ["nDCG@10"])["nDCG@10"]["q0-0"] == 0


def test_no_query_enters_the_statistics(described):
    collection, data = described
    other = make_collection()
    for query in list(other.judgments["test"])[1:]:
        other.queries[query] = "abab " + other.queries[query]
    first = next(iter(collection.split("test")))
    before, after = data.split("test"), describe(other, depth=8).split("test")
    rows = slice(0, int(before.sizes[before.queries.index(first)]))
    assert before.features[rows].equal(after.features[rows])


def test_features_against_arithmetic():
    collection = make_collection(topics=2, per_topic=2)
    index = Index(collection)
    ids, document = index.ids, next(iter(collection.documents))
    words = words_of([collection.documents[document].text])[0]
    one, two = list(dict.fromkeys(words))[:2]
    query = [one, two, one, "unknown"]
    values = features_of(index, query, np.arange(len(ids)))
    found = {k: float(v[ids.index(document)]) for k, v in values.items()}
    texts = [words_of([d.text])[0] for d in collection.documents.values()]
    df = {w: sum(w in t for t in texts) for w in query}
    idf = {w: np.log1p((len(texts) - df[w] + 0.5) / (df[w] + 0.5)) for w in query[:2]}
    tf = {w: words.count(w) for w in query[:2]}
    mean = np.mean([len(t) for t in texts])
    bm25 = {w: idf[w] * tf[w] / (tf[w] + 0.9 * (0.6 + 0.4 * len(words) / mean)) for w in tf}
    assert found["BM25"] == pytest.approx(2 * bm25[one] + bm25[two], rel=1e-4)
    assert found["words"] == 2 and found["share of words"] == 0.5
    assert found["occurrences"] == sum(tf.values()) and found["highest count"] == max(tf.values())
    assert found["matched rarity"] == pytest.approx(sum(idf.values()), rel=1e-4)
    assert found["length"] == len(words) and found["query length"] == 4
    pairs = {(one, two), (two, one), (one, "unknown")}
    there = pairs & set(zip(words, words[1:], strict=False))
    assert found["share of pairs"] == pytest.approx(len(there) / 3)
    assert found["1 / BM25 rank"] == 1 / (1 + sum(values["BM25"] > found["BM25"]))


def test_the_cosine_of_a_text_with_itself_is_one():
    collection = make_collection(topics=2, per_topic=2)
    index = Index(collection)
    words = words_of([collection.documents[index.ids[0]].full])[0]
    assert features_of(index, words, np.array([0]))["cosine"] == pytest.approx(1, abs=1e-5)


def test_features_are_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "cache"))
    write_beir(make_collection(), tmp_path / "tiny")
    built = load_features(tmp_path / "tiny", depth=5)
    monkeypatch.setattr(text_features, "describe", lambda *_: pytest.fail("built again"))
    again = load_features(tmp_path / "tiny", depth=5)
    assert again.fingerprint == built.fingerprint and again.notes == built.notes
    assert again.split("test").judgments == built.split("test").judgments


def test_features_are_found_by_id_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path))
    write_beir(make_collection(topics=4), tmp_path / "tiny")
    data = load_features("beir/tiny", depth=5)
    assert data.name == "beir/tiny" and not any("cached" in note for note in data.notes)
    assert [p.name.startswith("features-beir-tiny-") for p in (tmp_path / "cache").iterdir()]
    write_folder(tmp_path / "rows", ("train", "vali", "test"))
    assert load_features("letor/rows").name == "letor/rows"


def test_features_work_without_a_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RANKBENCH_CACHE", str(tmp_path / "file"))
    write_beir(make_collection(), tmp_path / "tiny")
    assert "could not be cached" in load_features(tmp_path / "tiny", depth=5).notes[-1]
