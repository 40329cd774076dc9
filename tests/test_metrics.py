"""Metrics against ir_measures and against plain loops."""

import ir_measures
import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench import metrics
from rankbench.metrics import average_precision, hard_ranks, mrr, ndcg, precision, recall

NAN = float("nan")

# Our metric, the measure of ir_measures, the settings. k = 50 is longer than any list.
PEERS = {
    "ndcg": (ndcg, "nDCG", {"gain": "linear"}),
    "ndcg@3": (ndcg, "nDCG@3", {"gain": "linear", "k": 3}),
    "ndcg@50": (ndcg, "nDCG@50", {"gain": "linear", "k": 50}),
    "ndcg exp2": (ndcg, "nDCG", {}),
    "ndcg exp2@3": (ndcg, "nDCG@3", {"k": 3}),
    "mrr": (mrr, "RR", {}),
    "mrr@2": (mrr, "RR@2", {"k": 2}),
    "ap": (average_precision, "AP", {}),
    "ap@3": (average_precision, "AP@3", {"k": 3}),
    "precision@1": (precision, "P@1", {"k": 1}),
    "precision@3": (precision, "P@3", {"k": 3}),
    "precision@50": (precision, "P@50", {"k": 50}),
    "recall@3": (recall, "R@3", {"k": 3}),
    "recall@50": (recall, "R@50", {"k": 50}),
}


@st.composite
def ragged_lists(draw, ties=False):
    """Scores, labels and mask as nested Python lists; each list has a real item."""
    count, width = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    scores = [
        [x / 4 for x in draw(st.lists(st.integers(-20, 20), min_size=width, max_size=width,
                                      unique=not ties))]
        for _ in range(count)
    ]  # fmt: skip

    def row(item):
        return st.lists(item, min_size=width, max_size=width)

    labels = [draw(row(st.integers(0, 3))) for _ in range(count)]
    where = [draw(row(st.booleans()).filter(any)) for _ in range(count)]
    return scores, labels, where


def ours(metric, data, **settings):
    scores, labels, where = data
    return metric(
        torch.tensor(scores, dtype=torch.float64), torch.tensor(labels),
        where=torch.tensor(where), **settings,
    )  # fmt: skip


def theirs(measure, data, exp2=False):
    """One value per list; a list without relevant items, which ir_measures may drop, is 0."""
    scores, labels, where = data
    run, qrels = {}, {}
    for q, (s, y, real) in enumerate(zip(*data, strict=True)):
        items = [i for i in range(len(s)) if real[i]]
        run[f"q{q}"] = {f"d{i}": s[i] for i in items}
        qrels[f"q{q}"] = {f"d{i}": 2 ** y[i] - 1 if exp2 else y[i] for i in items}
    found = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
    return [found.get(f"q{q}", 0.0) for q in range(len(scores))]


@pytest.mark.parametrize("name", PEERS)
def test_a_metric_equals_ir_measures(name):
    metric, measure, settings = PEERS[name]
    measure, exp2 = ir_measures.parse_measure(measure), name.startswith("ndcg exp2")

    @given(ragged_lists())
    def compare(data):
        expected = torch.tensor(theirs(measure, data, exp2), dtype=torch.float64)
        torch.testing.assert_close(
            ours(metric, data, **settings).double(), expected, rtol=1e-6, atol=1e-7
        )

    compare()


LOOPS = {
    "ndcg": [{}, {"k": 1}, {"k": 3}, {"k": 9}, {"gain": "linear"}, {"gain": "linear", "k": 2}],
    "mrr": [{}, {"k": 1}, {"k": 3}, {"k": 9}],
    "average_precision": [{}, {"k": 1}, {"k": 3}, {"k": 9}],
    "precision": [{"k": 1}, {"k": 3}, {"k": 9}],
    "recall": [{"k": 1}, {"k": 3}, {"k": 9}],
}


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, many in LOOPS.items() for s in many])
def test_a_metric_with_ties_equals_plain_loops(name, settings):
    @given(ragged_lists(ties=True))
    def compare(data):
        expected = [
            getattr(references, name)(
                [x for x, r in zip(s, real, strict=True) if r],
                [x for x, r in zip(y, real, strict=True) if r],
                **settings,
            )
            for s, y, real in zip(*data, strict=True)
        ]
        torch.testing.assert_close(
            ours(getattr(metrics, name), data, **settings).double(),
            torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7,
        )  # fmt: skip

    compare()


def test_tied_items_keep_their_order():
    assert hard_ranks(torch.tensor([1.0, 1.0, 2.0, 1.0])).tolist() == [2, 3, 1, 4]


def test_padding_ranks_last():
    where = torch.tensor([False, True, True])
    assert hard_ranks(torch.tensor([9.0, 1.0, 2.0]), where).tolist() == [3, 2, 1]


def test_padding_ranks_behind_a_score_of_minus_infinity():
    scores, where = torch.tensor([0.0, -torch.inf]), torch.tensor([False, True])
    assert hard_ranks(scores, where).tolist() == [2, 1]


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("fill", [NAN, float("inf"), 1e9])
def test_padding_changes_no_metric(name, fill):
    metric, settings = getattr(metrics, name), LOOPS[name][-1]
    short = metric(torch.tensor([0.3, 1.2, 0.1]), torch.tensor([2.0, 0.0, 1.0]), **settings)
    padded = metric(
        torch.tensor([fill, 0.3, 1.2, 0.1]), torch.tensor([fill, 2.0, 0.0, 1.0]),
        where=torch.tensor([False, True, True, True]), **settings,
    )  # fmt: skip
    assert padded == short


@pytest.mark.parametrize("name", LOOPS)
def test_a_list_without_relevant_items_is_zero(name):
    scores, labels = torch.tensor([0.3, 1.2]), torch.zeros(2)
    assert getattr(metrics, name)(scores, labels, **LOOPS[name][-1]) == 0


@pytest.mark.parametrize("name", LOOPS)
def test_a_list_without_items_is_zero(name):
    where = torch.zeros(2, dtype=torch.bool)
    metric = getattr(metrics, name)
    assert metric(torch.ones(2), torch.ones(2), where=where, **LOOPS[name][-1]) == 0


@pytest.mark.parametrize("name", LOOPS)
def test_a_list_without_slots_is_zero(name):
    metric = getattr(metrics, name)
    assert metric(torch.ones(2, 0), torch.ones(2, 0), **LOOPS[name][-1]).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["ndcg", "mrr", "average_precision"])
def test_one_relevant_item_alone_is_ranked_perfectly(name):
    assert getattr(metrics, name)(torch.tensor([0.3]), torch.tensor([1.0])) == 1


@pytest.mark.parametrize("name", LOOPS)
def test_double_precision_stays(name):
    scores, labels = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert getattr(metrics, name)(scores, labels, **LOOPS[name][-1]).dtype == torch.float64


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("k", [0, -1])
def test_a_cutoff_below_one_is_refused(name, k):
    with pytest.raises(ValueError, match="k is"):
        getattr(metrics, name)(torch.ones(2), torch.ones(2), k=k)


def test_an_unknown_gain_is_refused():
    with pytest.raises(ValueError, match="unknown gain 'exp'; did you mean exp2?"):
        ndcg(torch.ones(2), torch.ones(2), gain="exp")


def test_labels_of_another_shape_are_refused(without_shape_checks):
    with pytest.raises(ValueError) as error:
        ndcg(torch.zeros(1, 2), torch.zeros(1, 3))
    assert str(error.value) == ("labels has shape (1, 3) but scores has (1, 2); they must match.")


@pytest.mark.parametrize("k", [0, -1, 2.5, NAN])
def test_a_cutoff_that_is_no_whole_number_is_refused(k, without_shape_checks):
    with pytest.raises(ValueError, match="k is .*; expected a whole number from 1 on"):
        metrics.check_cutoff(k)
