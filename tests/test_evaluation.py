import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.data.formats import write_run
from rankbench.models.static_encoder import StaticEncoder
from rankbench.training.evaluation import (
    bm25_run,
    bootstrap_interval,
    compare_suites,
    evaluate,
    evaluate_suite,
    holm,
    paired_test,
    parse_measures,
)
from rankbench.training.retrieval import retrieve

TINY = make_collection()


def test_dense_search_is_exact():
    texts = {k: d.full for k, d in TINY.documents.items()}
    encoder = StaticEncoder.from_texts(list(texts.values()), size=300, dim=16)
    run = retrieve(encoder, texts, TINY.queries, depth=5)
    q, d = encoder.encode(list(TINY.queries.values())), encoder.encode(list(texts.values()))
    for row, query in zip(q, TINY.queries, strict=True):
        best = (d @ row).argsort(descending=True)[:5].tolist()
        assert list(run[query]) == [list(texts)[i] for i in best]


def test_depth_beyond_the_corpus_returns_everything():
    texts = {k: d.full for k, d in TINY.documents.items()}
    encoder = StaticEncoder.from_texts(list(texts.values()), size=300, dim=16)
    assert len(retrieve(encoder, texts, {"q": "a"}, depth=10_000)["q"]) == len(texts)
    asked = set(TINY.queries["q0-0"].split())
    sharing = [k for k, text in texts.items() if asked & set(text.split())]
    assert sorted(bm25_run(TINY, ["q0-0"], depth=10_000)["q0-0"]) == sorted(sharing)


def test_a_query_without_results_counts_as_zero():
    assert evaluate({}, {"q": {"d": 1}}, ["nDCG@10"]) == {"nDCG@10": {"q": 0.0}}


@pytest.mark.parametrize(("name", "close"), [("nDGC@10", "nDCG@10"), ("RR@1O", "RR@10"), ("", "")])
def test_unknown_measures_are_answered_with_the_closest(name, close):
    with pytest.raises(UnknownName, match=f"unknown metric .*did you mean .*{close}"):
        parse_measures([name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P", "metric 'P' lacks a setting or has a wrong one; it takes a cutoff such as @10"),
        ("SetP@10", "metric 'SetP@10' lacks a setting or has a wrong one; it takes rel"),
        ("alpha_nDCG@10", r"needs another package: pip install ir-measures\[pyndeval\]"),
    ],
)
def test_measures_that_cannot_be_computed_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse_measures([name])


def test_measures_take_settings_and_may_be_named_twice():
    run, judgments = {"q": {"a": 2.0, "b": 1.0, "c": 0.5}}, {"q": {"a": 1, "b": 2}}
    values = evaluate(run, judgments, ["RR", "RR(rel=2)", "Judged@3", "RR"])
    assert {m: v["q"] for m, v in values.items()} == {"RR": 1, "RR(rel=2)": 0.5, "Judged@3": 2 / 3}


def test_queries_that_nobody_judged_are_left_out():
    assert evaluate({"q": {"a": 1.0}, "z": {"a": 1.0}}, {"q": {"a": 1}}, ["RR"]) == {
        "RR": {"q": 1.0}
    }


SUITE = [TINY, replace(TINY, name="other", judgments={"test": {"q0-0": {"d0-0": 1}}})]


def test_a_suite_counts_each_collection_once():
    texts = [d.full for d in TINY.documents.values()]
    encoder = StaticEncoder.from_texts(texts, size=300, dim=16)
    suite = evaluate_suite(encoder, SUITE, ["nDCG@10", "RR@10"], name="mine")
    one, two, average = suite.rows()
    assert (one["queries"], two["queries"], average["queries"]) == (12, 1, 13)
    assert average["RR@10"] == pytest.approx((one["RR@10"] + two["RR@10"]) / 2)
    run = retrieve(encoder, {k: d.full for k, d in TINY.documents.items()}, TINY.queries)
    values = evaluate(run, TINY.split("test"), ["nDCG@10"])["nDCG@10"]
    assert one["nDCG@10"] == pytest.approx(np.mean(list(values.values())))
    assert suite.markdown().splitlines()[:2] == [
        "| collection | queries | nDCG@10 | RR@10 |",
        "|---|--:|--:|--:|",
    ]
    assert suite.csv().splitlines()[0] == "collection,queries,nDCG@10,RR@10"
    assert json.loads(suite.json())["rows"] == suite.rows()


def test_systems_are_runs_functions_and_bm25():
    def silent(collection, queries):
        return {}

    runs = {c.name: bm25_run(c, list(c.split("test"))) for c in SUITE}
    suites = [evaluate_suite(s, SUITE, ["RR"], name=n) for n, s in
              {"runs": runs, "bm25": "bm25", "silent": silent}.items()]  # fmt: skip
    table = compare_suites(suites)
    assert table.loc["runs"].tolist() == table.loc["bm25"].tolist()
    assert table.loc["silent"].tolist() == [0, 0, 0] and list(table) == ["tiny", "other", "average"]


def test_suites_say_what_does_not_fit():
    with pytest.raises(UnknownName, match="unknown run for the collection 'tiny'"):
        evaluate_suite({"tinny": {}}, SUITE)
    with pytest.raises(UnknownName, match="unknown system 'bm52'; did you mean bm25"):
        evaluate_suite("bm52", SUITE)
    with pytest.raises(ValueError, match="two collections are called 'tiny'"):
        evaluate_suite({"tiny": {}}, [TINY, TINY])
    with pytest.raises(ValueError, match="no collections"):
        evaluate_suite("bm25", [])
    one, two = (evaluate_suite(lambda c, q: {}, [c], ["RR"], name=c.name) for c in SUITE)
    with pytest.raises(ValueError, match="two suites have the same name"):
        compare_suites([one, one])
    with pytest.raises(ValueError, match="different collections"):
        compare_suites([one, two])


@pytest.mark.parametrize("suffix", [".run", ".run.gz"])
def test_a_run_is_written_in_trec_format(tmp_path, suffix):
    write_run({"q": {"a": 0.5, "b": 2.0}}, tmp_path / f"x{suffix}", "me")
    raw = (tmp_path / f"x{suffix}").read_bytes()
    text = (gzip.decompress(raw) if suffix == ".run.gz" else raw).decode()
    assert text == "q Q0 b 1 2.0 me\nq Q0 a 2 0.5 me\n"


def test_a_bootstrap_interval_holds_its_confidence():
    rng = np.random.default_rng(0)
    samples = [rng.random(60) for _ in range(200)]
    intervals = [bootstrap_interval(s, resamples=500) for s in samples]
    assert 0.88 <= np.mean([low <= 0.5 <= high for low, high in intervals]) <= 0.99


def test_a_constant_has_an_interval_of_no_width():
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_equal_systems_have_p_one():
    assert paired_test([0.1, 0.2], [0.1, 0.2]) == 1.0


def test_the_paired_test_is_exact_for_few_queries():
    assert paired_test([1.0] * 5, [0.0] * 5) == pytest.approx(2 / 2**5)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for raw, new in zip(p_values, adjusted, strict=True):
        assert raw <= new <= min(1.0, len(p_values) * raw) + 1e-12 or new == max(adjusted)
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_dense_search_leaves_no_graph():
    encoder = StaticEncoder.from_texts(["a b", "b c"], size=20, dim=4)
    assert not encoder.encode(["a"]).requires_grad
    assert encoder.encode(["a"]).dtype == torch.float32
