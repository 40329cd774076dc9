"""Hard negatives: none that is known or suspected to be relevant, and all of it accounted for."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.data.collections import Collection, Document
from rankbench.data.examples import Example, Examples
from rankbench.data.mining import (
    OUTPUT_FORMATS,
    DynamicNegatives,
    MiningRules,
    Queue,
    asked_of,
    mine_hard_negatives,
)
from rankbench.data.training_sets import PairSet, check_targets


def make(relevant=("p",), texts=None, **splits) -> Collection:
    """One training query with documents p (positive), f (a false negative), and n0 .. n5."""
    names = ["p", "p2", "f", *(f"n{i}" for i in range(6))]
    documents = {d: Document("", (texts or {}).get(d, f"text of {d}")) for d in names}
    judgments = {"train": {"q": dict.fromkeys(relevant, 1)}, **splits}
    return Collection("one", documents, {"q": "query", "r": "other"}, judgments)


SCORES = {"f": 0.97, "p": 1.0, "n0": 0.8, "n1": 0.6, "n2": 0.4, "n3": 0.3, "n4": 0.2, "n5": 0.1}
RUN = {"q": SCORES}


def taken(mined) -> list[str]:
    return [d for e in mined.examples for d in e.document_ids[1:]]


# --- the rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["f", "n0", "n1"]),
        ({"range_min": 1}, ["n0", "n1", "n2"]),
        ({"range_min": 1, "range_max": 3}, ["n0", "n1"]),
        ({"max_score": 0.8}, ["n0", "n1", "n2"]),
        ({"max_score": 0.79}, ["n1", "n2", "n3"]),
        ({"min_score": 0.8}, ["f", "n0"]),
        ({"absolute_margin": 0.2}, ["n0", "n1", "n2"]),
        ({"absolute_margin": 0.25}, ["n1", "n2", "n3"]),
        ({"relative_margin": 0.05}, ["n0", "n1", "n2"]),
        ({"percent_of_positive": 0.95}, ["n0", "n1", "n2"]),
        ({"percent_of_positive": 0.5}, ["n2", "n3", "n4"]),
        ({"percent_of_positive": 0.5, "min_score": 0.25, "range_max": 6}, ["n2", "n3"]),
    ],
)
def test_each_rule_skips_what_it_says(rules, expected):
    assert taken(mine_hard_negatives(make(), RUN, **rules)) == expected


def test_margins_hold_for_negative_scores():
    """0.95 times a negative score lies above it; the rule must not let that pass."""
    logits = {"q": {"p": -2.0, "f": -2.05, "n0": -3.0, "n1": -1.0}}
    found = mine_hard_negatives(make(), logits, percent_of_positive=0.95)
    assert taken(found) == ["n0"]
    assert MiningRules(relative_margin=0.05).skips(-2.05, -2.0) == "within relative margin"
    assert MiningRules(relative_margin=0.05).skips(-2.11, -2.0) == ""


@given(
    st.dictionaries(st.sampled_from([f"n{i}" for i in range(6)]), st.floats(-3, 3), min_size=1),
    st.floats(-3, 3),
    st.floats(0.5, 1.0),
    st.floats(0, 1),
)
def test_what_is_taken_obeys_every_rule(scores, positive, share, margin):
    run = {"q": {**scores, "p": positive}}
    rules = {"percent_of_positive": share, "absolute_margin": margin, "max_score": 2.0}
    mined = mine_hard_negatives(make(), run, num_negatives=9, **rules)
    allowed = {
        d for d, s in scores.items()
        if s <= 2.0 and s <= positive - margin and s <= positive - (1 - share) * abs(positive)
    }  # fmt: skip
    assert set(taken(mined)) == allowed
    assert sum(mined.report.totals.values()) == len(run["q"])


def test_planted_answers_are_skipped_by_a_margin():
    docs = {f"d{i}-{j}": Document("", f"text {i} {j}") for i in range(20) for j in range(10)}
    judged = {f"q{i}": {f"d{i}-0": 1} for i in range(20)}
    data = Collection("planted", docs, {q: q for q in judged}, {"train": judged})
    run = {f"q{i}": {f"d{i}-{j}": 1.0 - 0.01 * j if j < 3 else 0.6 - 0.01 * j for j in range(10)}
           for i in range(20)}  # fmt: skip
    planted = {f"d{i}-{j}" for i in range(20) for j in (1, 2)}
    assert set(taken(mine_hard_negatives(data, run, num_negatives=2))) == planted
    clean = mine_hard_negatives(data, run, num_negatives=2, percent_of_positive=0.95)
    assert not planted & set(taken(clean)) and len(clean.examples) == 40
    assert clean.report.totals["within relative margin"] == len(planted)


def test_relevant_and_equal_texts_are_never_mined():
    texts = {"n0": "text of p", "n1": "query", "n3": "text of n2", "n4": " text of p2 "}
    data = make(relevant=("p", "p2"), texts=texts)
    run = {"q": {**SCORES, "p2": 0.5, "gone": 3.0}}
    mined = mine_hard_negatives(data, run, num_negatives=9)
    assert set(taken(mined)) == {"f", "n2", "n5"}
    totals = mined.report.totals  # counted for each of the two positives
    assert totals["relevant"] == 4 and totals["same text"] == 8 and totals["without a text"] == 2


def test_judged_grades_of_zero_are_negatives():
    data = make()
    data.judgments["train"]["q"]["n0"] = 0
    assert "n0" in taken(mine_hard_negatives(data, RUN))


def test_random_negatives_pass_the_rules_too_and_depend_on_the_seed():
    options = {"sampling": "random", "num_negatives": 2, "percent_of_positive": 0.95}
    found = {tuple(taken(mine_hard_negatives(make(), RUN, seed=s, **options))) for s in range(12)}
    assert len(found) > 3 and all("f" not in f and len(f) == 2 for f in found)
    again = [taken(mine_hard_negatives(make(), RUN, seed=3, **options)) for _ in range(2)]
    assert again[0] == again[1]


# --- scores ----------------------------------------------------------------------------------


def test_a_reranker_scores_positives_and_candidates_in_blocks():
    asked = []

    def judge(lists):
        asked.append(len(lists))
        return [[5.0 if t in ("text of p", "text of f") else -1.0 for t in d] for _, d in lists]

    mined = mine_hard_negatives(make(), RUN, rescore=judge, absolute_margin=1.0)
    assert asked == [1] and "f" not in taken(mined) and mined.report.positive_scores == [5.0]
    with pytest.raises(ValueError, match="rescore returned 1 scores for 8 documents of query 'q'"):
        mine_hard_negatives(make(), RUN, rescore=lambda lists: [[1.0]])


def test_an_unknown_score_of_the_positive_is_said():
    run = {"q": {"n0": 0.9, "n1": 0.5}}
    assert taken(mine_hard_negatives(make(), run)) == ["n0", "n1"]
    with pytest.raises(ValueError, match="no positive is in the run; pass rescore="):
        mine_hard_negatives(make(), run, absolute_margin=0.1)
    given_scores = {("q", "p"): 0.95}
    found = mine_hard_negatives(make(), run, absolute_margin=0.1, positive_scores=given_scores)
    assert taken(found) == ["n1"]
    with pytest.raises(ValueError, match="output_scores=True needs the score of the positive"):
        mine_hard_negatives(make(), run, output_scores=True)
    two = make(relevant=("p", "p2"))
    partly = mine_hard_negatives(two, RUN, absolute_margin=0.1)
    assert partly.report.notes == ("1 positives without a score were left out",)
    assert {e.document_ids[0] for e in partly.examples} == {"p"}


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_formats(output_format, scored):
    mined = mine_hard_negatives(
        make(), RUN, num_negatives=2, range_min=1, output_format=output_format, output_scores=scored
    )
    ids = [e.document_ids for e in mined.examples]
    labels = [e.labels for e in mined.examples]
    expected = {
        "triplet": [("p", "n0"), ("p", "n1")], "n_tuple": [("p", "n0", "n1")],
        "labelled_pair": [("p",), ("n0",), ("n1",)], "labelled_list": [("p", "n0", "n1")],
    }  # fmt: skip
    assert ids == expected[output_format]
    if scored:
        assert labels == [tuple(SCORES[d] for d in e) for e in ids]
        assert mined.examples.targets == "score"
        check_targets("margin_mse", mined.examples)
    elif output_format.startswith("labelled"):
        assert labels == [tuple(float(d == "p") for d in e) for e in ids]
        check_targets("bce", mined.examples)
    else:
        assert set(labels) == {None}
        check_targets("infonce", mined.examples)
    assert all(e.relevant == {"p"} and e.query == "query" for e in mined.examples)


def test_pairs_with_too_few_are_kept_and_those_with_none_are_not():
    data = make()
    data.judgments["train"]["r"] = {"p2": 1}
    mined = mine_hard_negatives(data, {**RUN, "r": {"p2": 1.0, "n0": 0.99}}, min_score=0.9)
    assert taken(mined) == ["f", "n0"] and mined.report.few == ["q", "r"]
    mined = mine_hard_negatives(data, {**RUN, "r": {"p2": 1.0, "n0": 0.99}}, max_score=0.9)
    assert mined.report.none == ["r"] and {e.query_id for e in mined.examples} == {"q"}
    assert [q.query_id for q in mined.queues] == ["q"]


# --- what may be mined -----------------------------------------------------------------------


def test_only_training_queries_are_mined():
    held = make(test={"r": {"p2": 1}})
    with pytest.raises(ValueError, match="split is 'test'; negatives are mined for training"):
        mine_hard_negatives(held, RUN, split="test")
    both = make(dev={"q": {"p2": 1}})
    with pytest.raises(ValueError, match="query 'q' is to be mined and is judged in 'dev' as well"):
        mine_hard_negatives(both, RUN)
    run = {"q": SCORES, "r": {"n0": 1.0}}
    assert {e.query_id for e in mine_hard_negatives(held, run).examples} == {"q"}


def test_a_held_out_query_under_another_id_is_left_out():
    data = make(test={"r": {"p2": 1}})
    data.queries["again"] = "other "
    data.judgments["train"]["again"] = {"p2": 1}
    mined = mine_hard_negatives(data, {**RUN, "again": {"n0": 1.0}})
    assert {e.query_id for e in mined.examples} == {"q"}
    assert mined.report.notes == (
        "1 queries that are also asked in a held-out split were left out",
    )


def test_examples_are_mined_like_a_collection():
    data = make(relevant=("p", "p2"), test={"r": {"n5": 1}})
    run = {"q": {**SCORES, "p2": 0.9}}
    rules = {"percent_of_positive": 0.95, "num_negatives": 2}
    one = mine_hard_negatives(data, run, **rules)
    two = mine_hard_negatives(PairSet(data), run, data.documents, held_out=data, **rules)
    assert one.examples.examples == two.examples.examples and one.queues == two.queues
    assert asked_of(data) == asked_of(PairSet(data))
    leak = Examples([Example("other", ("x",), None, "r", ("n5",))])
    with pytest.raises(ValueError, match="query 'r' is to be mined and is judged in 'test'"):
        mine_hard_negatives(leak, run, data.documents, held_out=data)
    with pytest.raises(ValueError, match="examples hold no corpus; pass documents="):
        mine_hard_negatives(leak, run)
    with pytest.raises(ValueError, match="example 0 has no ids"):
        mine_hard_negatives(Examples([Example("other", ("x",))]), run, data.documents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_marign": 0.1}, "did you mean relative_margin"),
        ({"sampling": "best"}, "way to sample negatives"),
        ({"output_format": "triple"}, "did you mean triplet"),
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"range_min": 3, "range_max": 3}, "the range is 3 to 3"),
        ({"range_min": -1}, "the range is -1"),
        ({"relative_margin": 0.1, "percent_of_positive": 0.9}, "are one rule; give one"),
        ({"percent_of_positive": 95}, "percent_of_positive is 95; expected a share"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(make(), RUN, **options)
    if "sampling" in options:
        with pytest.raises(UnknownName):
            mine_hard_negatives(make(), RUN, **options)


# --- the report ------------------------------------------------------------------------------


def test_every_candidate_is_accounted_for():
    mined = mine_hard_negatives(
        make(relevant=("p", "p2")), {"q": {**SCORES, "p2": 0.5}}, num_negatives=2, max_score=0.9,
        absolute_margin=0.05, range_max=5,
    )  # fmt: skip
    report = mined.report
    assert sum(report.totals.values()) == 2 * 9 and report.pairs == 2
    assert report.counts["q"] == Counter(report.totals)
    assert report.totals["taken"] == len(report.negative_scores) == len(taken(mined))
    assert report.positive_scores == [1.0, 0.5]
    edges, positives, negatives = report.histogram(5)
    assert len(edges) == 6 and positives.sum() == 2 and negatives.sum() == report.totals["taken"]
    text = report._repr_markdown_()
    assert "| above max_score | 2 |" in text and "2 pairs" in text
    assert json.loads(json.dumps(report.as_dict()))["candidates"] == report.totals
    assert "<svg" in report.picture()._repr_svg_()


def test_a_report_of_nothing_can_be_shown():
    report = mine_hard_negatives(make(), {}).report
    assert report.totals == {"taken": 0} or not report.totals
    assert report.none == ["q"] and "1 with none" in report._repr_markdown_()
    assert "<svg" in report.picture()._repr_svg_()


# --- dynamic negatives -----------------------------------------------------------------------

TEXTS = {d: f"text of {d}" for d in "pabcd"}
QUEUE = Queue("q", "query", "p", 0.9, frozenset({"p"}), ("a", "b", "c"), (0.8, 0.7, 0.5))


def test_a_negative_is_replaced_exactly_when_the_rule_says():
    for score, goes in ((0.70, False), (0.8 / 1.15 + 1e-9, False), (0.8 / 1.15 - 1e-9, True)):
        hard = DynamicNegatives([QUEUE], TEXTS)
        assert hard.update({0: [score]}) == goes
        assert hard[0].document_ids == ("p", "b" if goes else "a")


def test_a_negative_above_the_ceiling_stays():
    strong = QUEUE.__class__(**{**vars(QUEUE), "scores": (2.0, 1.0, 0.5)})
    hard = DynamicNegatives([strong], TEXTS)
    assert hard.update({0: [0.8]}) == 0 and hard.update({0: [-0.9]}) == 0
    assert hard.update({0: [0.79]}) == 1


def test_the_last_of_a_queue_stays_and_positives_never_come():
    hard = DynamicNegatives([QUEUE], TEXTS)
    seen = [hard[0].document_ids[1]]
    for _ in range(5):
        hard.update({0: [0.0]})
        seen.append(hard[0].document_ids[1])
    assert seen == ["a", "b", "c", "c", "c", "c"] and hard.replaced == 2 and hard.exhausted == 3
    assert "p" not in seen


def test_several_negatives_share_a_queue():
    hard = DynamicNegatives([QUEUE], TEXTS, num_negatives=2)
    assert hard[0].documents == ("text of p", "text of a", "text of b")
    assert hard.update({0: [0.8, 0.1]}) == 1 and hard[0].document_ids == ("p", "a", "c")
    assert hard.update({0: [0.1, 0.45]}) == 0 and hard.exhausted == 1
    with pytest.raises(ValueError, match="example 0 has 2 negatives but 1 scores"):
        hard.update({0: [0.1]})


def test_first_scores_of_the_model_in_training_can_be_the_measure():
    hard = DynamicNegatives([QUEUE], TEXTS, initial="first")
    assert hard.update({0: [0.2]}) == 0  # far below the mined score; taken as the first
    assert hard.update({0: [0.19]}) == 0 and hard.update({0: [0.1]}) == 1
    assert hard.update({0: [0.05]}) == 0 and hard[0].document_ids == ("p", "b")


def test_refreshing_scores_the_negatives_only():
    queues = [QUEUE, Queue("r", "other", "d", 0.9, frozenset("d"), ("b", "c"), (0.7, 0.6))]
    hard = DynamicNegatives(queues, TEXTS)
    asked = []

    def score(lists):
        asked.extend(lists)
        return [[0.1] * len(d) for _, d in lists]

    assert hard.refresh(score, batch_size=1) == 2 and hard.refresh(score, [1]) == 0
    assert asked == [("query", ["text of a"]), ("other", ["text of b"]), ("other", ["text of c"])]


def test_a_checkpoint_goes_on_where_it_was():
    whole, cut = DynamicNegatives([QUEUE], TEXTS, 2), DynamicNegatives([QUEUE], TEXTS, 2)
    steps = [[0.7, 0.1], [0.1, 0.49], [0.6, 0.1]]
    for i, scores in enumerate(steps):
        whole.update({0: scores})
        if i == 1:
            fresh = DynamicNegatives([QUEUE], TEXTS, 2)
            fresh.load_state_dict(json.loads(json.dumps(cut.state_dict())))
            cut = fresh
        cut.update({0: scores})
    assert cut[0] == whole[0] and cut.state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match="the checkpoint has 1 pairs, this set 2"):
        DynamicNegatives([QUEUE, QUEUE], TEXTS).load_state_dict(cut.state_dict())


def test_when_it_is_time():
    hard = DynamicNegatives([QUEUE], TEXTS, every=100)
    assert [s for s in range(0, 301, 50) if hard.due(s)] == [100, 200, 300]
    with pytest.raises(UnknownName):
        DynamicNegatives([QUEUE], TEXTS, initial="last")
    with pytest.raises(ValueError, match="every is 0"):
        DynamicNegatives([QUEUE], TEXTS, every=0)
    with pytest.raises(ValueError, match="there is no pair with candidates"):
        DynamicNegatives([], TEXTS)


def test_mined_queues_feed_it():
    mined = mine_hard_negatives(make(), RUN, percent_of_positive=0.95, num_negatives=1)
    hard = DynamicNegatives(mined.queues, make().documents)
    assert hard[0].document_ids == mined.examples[0].document_ids == ("p", "n0")
    check_targets("infonce", hard)
