import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.models.static_encoder import StaticEncoder
from rankbench.training.evaluation import (
    bm25_run,
    bootstrap_interval,
    dense_run,
    evaluate,
    holm,
    paired_test,
    parse_measures,
    write_run,
)

TINY = make_collection()


def test_dense_search_is_exact():
    texts = {k: d.full for k, d in TINY.documents.items()}
    encoder = StaticEncoder.from_texts(list(texts.values()), size=300, dim=16)
    run = dense_run(encoder, texts, TINY.queries, depth=5, block=7)
    q, d = encoder.encode(list(TINY.queries.values())), encoder.encode(list(texts.values()))
    for row, query in zip(q, TINY.queries, strict=True):
        best = (d @ row).argsort(descending=True)[:5].tolist()
        assert list(run[query]) == [list(texts)[i] for i in best]


def test_depth_beyond_the_corpus_returns_everything():
    assert len(bm25_run(TINY, ["q0-0"], depth=10_000)["q0-0"]) == len(TINY.documents)


def test_a_query_without_results_counts_as_zero():
    assert evaluate({}, {"q": {"d": 1}}, ["nDCG@10"]) == {"nDCG@10": {"q": 0.0}}


@pytest.mark.parametrize(("name", "close"), [("nDGC@10", "nDCG@10"), ("RR@1O", "RR@10"), ("", "")])
def test_unknown_measures_are_answered_with_the_closest(name, close):
    with pytest.raises(UnknownName, match=f"unknown metric .*did you mean .*{close}"):
        parse_measures([name])


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
