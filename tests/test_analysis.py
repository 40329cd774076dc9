"""What a table, a report and a picture say about runs, against arithmetic by hand."""

import math

import numpy as np
import pytest

from rankbench.core import UnknownName
from rankbench.data.collections import Document
from rankbench.training.analysis import (
    calibration,
    compare_runs,
    error_analysis,
    error_table,
    error_text,
    judged_share,
    plot_calibration,
    plot_query_differences,
    sigmoid,
    unjudged,
)
from rankbench.training.evaluation import holm

# Three queries; RR of `a`: 1, 1/2, 0 (not answered); of `b`: 1/2, 1, 1/3; of `c` as `a`.
JUDGMENTS = {"q1": {"x": 2, "y": 0}, "q2": {"x": 1}, "q3": {"x": 1, "z": 1}}
A = {"q1": {"x": 3.0, "y": 2.0}, "q2": {"y": 3.0, "x": 2.0}}
B = {"q1": {"y": 3.0, "x": 2.0}, "q2": {"x": 3.0}, "q3": {"v": 3.0, "w": 2.0, "x": 1.0}}
DOCUMENTS = {"x": Document("The", "x"), "y": "the  y\nand more", "z": "long " * 50, "v": "a v"}
QUERIES = {"q1": "first?", "q2": "second?", "q3": "third?"}


def test_the_table_holds_means_wins_ties_and_losses():
    table = compare_runs(JUDGMENTS, {"a": A, "b": B, "c": dict(A)}, ["RR", "P@1"])
    rr = table[table["measure"] == "RR"].set_index("run")
    assert rr["mean"].to_dict() == pytest.approx({"a": 1.5 / 3, "b": (1.5 + 1 / 3) / 3, "c": 0.5})
    assert rr.loc["b", ["wins", "ties", "losses"]].tolist() == [2, 0, 1]
    assert rr.loc["c", ["wins", "ties", "losses"]].tolist() == [0, 3, 0]
    assert rr.loc["b", "difference"] == pytest.approx(1 / 9)
    assert rr.loc["c", "p"] == 1.0 and math.isnan(rr.loc["a", "p"])
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_the_baseline_can_be_named():
    table = compare_runs(JUDGMENTS, {"a": A, "b": B}, ["RR"], baseline="b").set_index("run")
    assert table.loc["a", "difference"] == pytest.approx(-1 / 9) and math.isnan(table.loc["b", "p"])
    with pytest.raises(UnknownName, match="unknown run 'bb'"):
        compare_runs(JUDGMENTS, {"a": A, "b": B}, baseline="bb")


def test_p_values_are_corrected_for_the_number_of_runs():
    judgments = {f"q{i}": {"x": 1} for i in range(12)}
    best = {q: {"x": 1.0} for q in judgments}
    half = {q: {"x": 1.0} if i % 2 else {"y": 1.0, "x": 0.5} for i, q in enumerate(judgments)}
    runs = {"base": {}, "best": best, "half": half}
    together = compare_runs(judgments, runs, ["RR"])["p"].tolist()[1:]
    alone = [
        compare_runs(judgments, {"base": {}, n: runs[n]}, ["RR"])["p"][1] for n in ("best", "half")
    ]
    assert together == pytest.approx(holm(alone)) and together != alone


def test_the_worst_queries_come_with_what_stands_in_the_way():
    first, second = error_analysis(JUDGMENTS, A, DOCUMENTS, QUERIES, measure="RR", worst=2)
    assert (first.query, first.value, first.wrong) == ("q3", 0.0, ())
    assert [(p.document, p.rank, p.grade) for p in first.missed] == [("x", None, 1), ("z", None, 1)]
    assert (second.query, second.text) == ("q2", "second?")
    (place,) = second.wrong
    assert (place.document, place.rank, place.grade, place.text) == ("y", 1, None, "the y and more")
    assert second.missed == ()


def test_two_runs_give_what_improved_and_what_was_hurt():
    found = error_analysis(JUDGMENTS, B, DOCUMENTS, QUERIES, A, measure="RR")
    assert [(r.kind, r.query) for r in found] == [
        ("improved", "q2"),
        ("improved", "q3"),
        ("hurt", "q1"),
    ]
    assert [(r.before, r.value) for r in found] == [
        (0.5, 1.0),
        (0.0, pytest.approx(1 / 3)),
        (1.0, 0.5),
    ]
    assert [p.document for p in found[0].wrong] == ["y"]  # of the run before
    assert [p.document for p in found[2].wrong] == ["y"]  # of this run


def test_nothing_relevant_among_the_first_shows_the_first():
    run = {"q3": {f"n{i}": -float(i) for i in range(30)} | {"x": -40.0}}
    (report, *_) = error_analysis({"q3": JUDGMENTS["q3"]}, run, DOCUMENTS, QUERIES, k=5)
    assert [p.document for p in report.wrong] == [f"n{i}" for i in range(5)]
    assert [(p.document, p.rank) for p in report.missed] == [("x", 31), ("z", None)]
    assert report.wrong[0].text == "(not in the corpus)"


def test_reports_are_read_by_people_and_by_pandas():
    found = error_analysis(JUDGMENTS, B, DOCUMENTS, QUERIES, A, measure="RR")
    text = error_text(found)
    assert (
        "improved  q2  0.500 → 1.000\n  second?\n  wrong  #1   unjudged  y: the y and more" in text
    )
    assert max(map(len, text.splitlines())) <= 80
    assert error_table(found)["wrong"].tolist() == [["y"], [], ["y"]]
    assert error_text([]) == "" and len(error_table([])) == 0


def test_holes_are_counted():
    assert judged_share(JUDGMENTS, B, 2) == {"q1": 1.0, "q2": 1.0, "q3": 0.0}
    assert judged_share(JUDGMENTS, A) == {"q1": 1.0, "q2": 0.5, "q3": 0.0}
    assert unjudged(JUDGMENTS, {"a": A, "b": B}, 2) == {"q1": [], "q2": ["y"], "q3": ["v", "w"]}


def test_the_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    judgments = {f"q{i}": {f"d{j}": int(rng.integers(0, 3)) for j in range(9)} for i in range(9)}
    run = {q: {d: float(rng.random()) for d in judged} for q, judged in judgments.items()}
    found = calibration(judgments, run, bins=4, relevant=2)
    expected, total = 0.0, 81
    for b in range(4):
        inside = [(s, judgments[q][d] >= 2) for q, ds in run.items() for d, s in ds.items()
                  if b / 4 <= s < (b + 1) / 4]  # fmt: skip
        gap = sum(s for s, _ in inside) / len(inside) - sum(y for _, y in inside) / len(inside)
        expected += len(inside) / total * abs(gap)
    assert found.error == pytest.approx(expected) and sum(found.counts) == total
    assert sum(map(len, found.grades.values())) == total and set(found.grades) == {0, 1, 2}


def test_scores_that_say_the_truth_have_no_error():
    judgments = {"q": {"a": 1, "b": 0, "c": 1, "d": 0}}
    assert calibration(judgments, {"q": {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}}).error == 0.0
    half = calibration(judgments, {"q": dict.fromkeys("abcd", 0.0)}, probability=sigmoid)
    assert half.error == 0.0 and half.predicted == (0.5,)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="scores from 1 to 3 are no probabilities; pass"):
        calibration(JUDGMENTS, B)
    with pytest.raises(ValueError, match="holds no judged document"):
        calibration(JUDGMENTS, {"other": {"x": 1.0}})


def test_the_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_a_picture_needs_a_known_baseline_and_another_run():
    with pytest.raises(UnknownName, match="unknown run 'bb'"):
        plot_query_differences(JUDGMENTS, {"a": A, "b": B}, baseline="bb")
    with pytest.raises(ValueError, match="expected another run than the baseline 'a'"):
        plot_query_differences(JUDGMENTS, {"a": A})


def test_pictures_are_drawn():
    svg = plot_query_differences(JUDGMENTS, {"a": A, "b": B}, "RR")._repr_svg_()
    assert "b: 2 up, 1 down" in svg and "RR minus a" in svg
    found = calibration(JUDGMENTS, B, probability=lambda s: s / 3)
    assert "calibration error" in plot_calibration(found)._repr_svg_()
