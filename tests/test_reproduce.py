"""Claims, verdicts, capstones: rules on made-up numbers, and a tiny capstone run end to end."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_collection, share_answers

from rankbench.capstones import reproduce as runs
from rankbench.capstones.claims import (
    Claim,
    correct,
    difference_interval,
    judge,
    paper_difference,
    plot_claims,
    verdict_of_run,
    word_for,
)
from rankbench.capstones.reproduce import (
    Work,
    capstones,
    claim_values,
    collection_place,
    estimate_run,
    model_place,
    opponent,
    plan,
    read_capstone,
    read_reproduction,
    recorded_before,
    repeats,
    reproduce,
    results_folder,
    write_record,
)
from rankbench.cli import main
from rankbench.core import UnknownName
from rankbench.data.collections import write_beir
from rankbench.recipes import Recipe
from rankbench.training import comparing

CLAIM = Claim("better", "New beats old.", "losses", "new", "old", tolerance=0.01)

TEXT = """
title: Does training help?
sources: [oord2018]
claims:
  training:
    text: InfoNCE beats BM25.
    experiment: losses
    system: infonce
    against: bm25
    tolerance: 0.05
  size:
    text: The losses make indexes of the same size.
    experiment: losses
    system: ranknet
    against: infonce
    expects: same
    tolerance: 0.01
    measure: index MiB
  other:
    text: Temperatures differ.
    experiment: warmth
    system: infonce(temperature=0.5)
    against: infonce
    measure: RR@10
experiments:
  losses: {about: Two losses., losses: [infonce, ranknet], collection: tiny, rates: [1e-2]}
  warmth:
    {losses: [infonce, infonce(temperature=0.5)], collection: tiny, rates: [0.01, 0.03]}
profiles:
  smoke: {all: {steps: 3, batch_size: 16, seeds: 2, evaluations: 2}, experiments: [losses]}
  cpu: {all: {steps: 5, batch_size: 16, seeds: 1}, warmth: {seeds: 4}}
  paper:
    all: {model: someone/somewhat, collection: "hub:someone/something"}
    estimate: {parameters: 1.0e+8, tokens: 100, tflops: 50}
"""


# Rules


@pytest.mark.parametrize(
    ("expects", "difference", "low", "high", "word"),
    [
        ("higher", 0.02, 0.001, 0.04, "reproduced"),
        ("higher", 0.02, 0.0, 0.04, "undecided"),  # touches 0
        ("higher", 0.01, 0.005, 0.015, "reproduced"),  # as large as the tolerance
        ("higher", 0.0099, 0.005, 0.015, "undecided"),
        ("higher", 0.005, 0.001, 0.0099, "not reproduced"),
        ("higher", 0.005, 0.001, 0.01, "undecided"),
        ("lower", -0.02, -0.04, -0.001, "reproduced"),
        ("lower", 0.0, -0.005, 0.005, "not reproduced"),
        ("lower", -0.005, -0.02, 0.01, "undecided"),
        ("same", 0.0, -0.01, 0.01, "reproduced"),
        ("same", 0.0, -0.011, 0.01, "undecided"),
        ("same", -0.02, -0.03, -0.011, "not reproduced"),
    ],
)
def test_the_rules(expects, difference, low, high, word):
    assert word_for(expects, 0.01, difference, low, high) == word


@pytest.mark.parametrize(
    ("expects", "ratio", "word"),
    [("lower", -0.5, "reproduced"), ("lower", -0.4, "not reproduced"),
     ("higher", 0.5, "reproduced"), ("higher", 0.4, "not reproduced"),
     ("same", 0.5, "reproduced"), ("same", -0.51, "not reproduced")],
)  # fmt: skip
def test_the_point_decides_on_costs(expects, ratio, word):
    claim = replace(CLAIM, expects=expects, tolerance=0.5, measure="index MiB")
    verdict = judge(claim, 100 * (1 + ratio), 100)
    assert verdict.verdict == word and verdict.low is verdict.p is None
    assert verdict.difference == pytest.approx(ratio)


NUMBERS = st.floats(-1, 1, allow_nan=False)


@given(st.lists(NUMBERS, min_size=3, max_size=3).map(sorted), st.floats(0, 1), st.booleans())
def test_lower_is_higher_in_a_mirror(numbers, tolerance, cost):
    low, difference, high = numbers
    edges, mirrored = ((), ()) if cost else ((low, high), (-high, -low))
    assert word_for("higher", tolerance, difference, *edges) == word_for(
        "lower", tolerance, -difference, *mirrored
    )


@given(st.lists(NUMBERS, min_size=3, max_size=3).map(sorted), st.floats(0.001, 1))
def test_what_is_higher_is_not_lower(numbers, tolerance):
    low, difference, high = numbers
    words = {e: word_for(e, tolerance, difference, low, high) for e in ("higher", "lower")}
    if words["higher"] == "reproduced":
        assert words["lower"] == "not reproduced"
    if word_for("same", tolerance / 2, difference, low, high) == "reproduced":
        assert set(words.values()) == {"not reproduced"}


@settings(max_examples=4)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 4))
def test_swapping_systems_mirrors_the_verdict(seed, ours, theirs):
    rng = np.random.default_rng(seed)
    draw = lambda n, mean: [dict(enumerate(rng.normal(mean, 0.1, 40))) for _ in range(n)]  # noqa: E731
    a, b = ([{str(q): float(x) for q, x in v.items()} for v in draw(n, m)]
            for n, m in ((ours, 0.6), (theirs, 0.2)))  # fmt: skip
    one, other = judge(CLAIM, a, b), judge(replace(CLAIM, expects="lower"), b, a)
    assert one.verdict == other.verdict == "reproduced"
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.02)


@pytest.mark.parametrize(
    ("words", "verdict"),
    [(["reproduced"], "reproduced"), (["reproduced", "undecided"], "partly"),
     (["reproduced", "not reproduced"], "partly"), (["undecided"], "undecided"),
     (["undecided", "not reproduced"], "not reproduced"), ([], "undecided")],
)  # fmt: skip
def test_the_verdict_of_a_run(words, verdict):
    assert verdict_of_run(words) == verdict


def test_the_interval_against_loops():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 0.2, (3, 12)), rng.normal(0.3, 0.2, (2, 12))
    found = []
    for _ in range(4000):
        asked = [rng.integers(12) for _ in range(12)]
        means = []
        for values in (ours, theirs):
            drawn = rng.integers(len(values), size=len(values))
            means.append(np.mean([[values[s][q] for q in asked] for s in drawn]))
        found.append(means[0] - means[1])
    assert difference_interval(ours, theirs) == pytest.approx(
        np.quantile(found, [0.025, 0.975]), abs=0.015
    )


def test_the_interval_of_an_average_against_loops():
    rng = np.random.default_rng(1)
    ours, theirs = ([rng.normal(mean, 0.2, (seeds, n)) for n in (5, 15)]
                    for mean, seeds in ((0.5, 3), (0.3, 2)))  # fmt: skip
    found = []
    for _ in range(4000):
        asked = [[rng.integers(n) for _ in range(n)] for n in (5, 15)]
        means = []
        for system in (ours, theirs):
            drawn = rng.integers(len(system[0]), size=len(system[0]))  # one draw for both
            each = [np.mean([[values[s][q] for q in which] for s in drawn])
                    for values, which in zip(system, asked, strict=True)]  # fmt: skip
            means.append(np.mean(each))
        found.append(means[0] - means[1])
    assert difference_interval(ours, theirs) == pytest.approx(
        np.quantile(found, [0.025, 0.975]), abs=0.015
    )
    assert difference_interval(ours[:1], theirs[:1]) == difference_interval(ours[0], theirs[0])


def test_every_collection_counts_the_same_in_an_average():
    claim = replace(CLAIM, collection="average")
    of = lambda *sets: [[{f"q{i}": x for i, x in enumerate(values)}] for values in sets]  # noqa: E731
    verdict = judge(claim, of([0.9] * 3, [0.1] * 300), of([0.5] * 3, [0.1] * 300))
    assert (verdict.system, verdict.against) == pytest.approx((0.5, 0.3))
    assert verdict.difference == pytest.approx(0.2) and verdict.verdict == "reproduced"
    assert verdict.low == pytest.approx(0.2) == verdict.high
    assert verdict.p == pytest.approx(0.25, abs=0.02)  # 3 queries differ: 2 of 8 signs
    with pytest.raises(ValueError, match="claim better: .* different queries"):
        judge(claim, of([0.9], [0.1]), of([0.5], [0.1, 0.2]))


def test_the_interval_is_the_same_every_time():
    values = np.random.default_rng(0).random((2, 3, 30))
    assert difference_interval(*values) == difference_interval(*values)


def test_p_values_are_corrected_together():
    rng = np.random.default_rng(0)
    both = [[{str(q): float(x) for q, x in enumerate(rng.normal(m, 0.3, 50))}] for m in (0.6, 0.5)]
    one = judge(CLAIM, *both)
    cost = judge(replace(CLAIM, measure="seconds"), 2.0, 1.0)
    many = correct([one, cost, one, one])
    assert [v.p for v in many] == pytest.approx([min(1, 3 * one.p), None, *[min(1, 3 * one.p)] * 2])


def test_different_queries_cannot_be_paired():
    with pytest.raises(ValueError, match="different queries"):
        judge(CLAIM, [{"a": 1.0}], [{"b": 1.0}])


def test_a_paper_s_rows_are_found():
    named = {"table": "gte_bidirectional", "setting": "Avg", "system": "CMNBRL", "against": "CMNRL"}
    found = paper_difference(replace(CLAIM, paper=named))
    assert found["difference"] == pytest.approx(0.5571 - 0.5484)
    cost = paper_difference(replace(CLAIM, paper=named, measure="seconds"))
    assert cost["difference"] == pytest.approx(0.5571 / 0.5484 - 1)
    assert paper_difference(CLAIM) is None
    for wrong, message in (
        ({"system": "CMNBR"}, "did you mean CMNBRL"),
        ({"table": "gte"}, "unknown table of papers"),
        ({"sytem": "x"}, "did you mean system"),
    ):
        with pytest.raises(UnknownName, match=message):
            paper_difference(replace(CLAIM, paper={**named, **wrong}))
    with pytest.raises(ValueError, match="paper lacks setting, system, against"):
        paper_difference(replace(CLAIM, paper={"table": "gte_bidirectional"}))


def test_percents_are_shares():
    named = {"table": "splade", "setting": "MS MARCO dev", "metric": "MRR@10",
             "system": "splade_v2_distil", "against": "splade_v2_max"}  # fmt: skip
    assert paper_difference(replace(CLAIM, paper=named))["difference"] == pytest.approx(0.028)


# Files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_beir(make_collection(), folder / "tiny")
    return folder


@pytest.fixture
def here(data, monkeypatch):
    monkeypatch.setenv("RANKBENCH_DATA", str(data))


def capstone_of(folder, *changes):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "small.yaml").write_text(text)
    return read_capstone(folder / "small.yaml")


def test_a_profile_changes_all_and_then_one(tmp_path):
    found = capstone_of(tmp_path).recipes("cpu")
    assert [r.seeds for r in found.values()] == [1, 4]
    assert found["losses"].rates == (0.01,)  # 1e-2 is a number
    assert list(capstone_of(tmp_path).recipes("smoke")) == ["losses"]
    assert [c.name for c in capstone_of(tmp_path).judged("smoke")] == ["training", "size"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("against: bm25", "against: bm52", "system of experiment losses, named by claim training"),
        ("expects: same", "expects: sme", "unknown expectation 'sme'; did you mean same"),
        ("measure: RR@10", "measure: RR@20", "unknown measure of experiment warmth"),
        ("experiment: warmth", "experiment: wramth", "did you mean warmth"),
        ("tolerance: 0.05", "tolerance: much", "tolerance is 'much'; expected a number"),
        ("text: Temperatures differ.", "", "claim other lacks text"),
        ("sources:", "source:", "did you mean sources"),
        ("title: Does training help?", "", "lacks title"),
        ("  cpu:", "  cup:", "unknown profile in small 'cup'; did you mean cpu"),
        ("{seeds: 4}", "{sedes: 4}", "experiment warmth, profile cpu: unknown recipe setting"),
        ("{seeds: 4}", "{seeds: 0}", "experiment warmth, profile cpu: seeds is 0"),
        ("[losses]", "[loses]", "did you mean losses"),
        ("warmth: {seeds", "warmht: {seeds", "unknown setting of profile cpu"),
        ("tflops: 50", "flops: 50", "did you mean tflops"),
        ("title:", "title: [", "is no YAML"),
    ],
)
def test_mistakes_in_a_file_are_said(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        capstone_of(tmp_path, (old, new))


def test_claims_need_costs_of_the_collection_that_is_trained_on(tmp_path):
    with pytest.raises(UnknownName, match="collection of experiment losses"):
        capstone_of(tmp_path, ("measure: index MiB", "measure: index MiB\n    collection: other"))


def test_a_claim_about_what_a_profile_leaves_out_is_not_judged_there(tmp_path):
    fewer = ("experiments: [losses]}", "experiments: [losses], losses: {losses: [infonce]}}")
    capstone = capstone_of(tmp_path, fewer)
    assert [c.name for c in capstone.judged("smoke")] == ["training"]
    assert [c.name for c in capstone.judged("cpu")] == ["training", "size", "other"]
    variants = ("losses: [infonce, ranknet],", "losses: [infonce, ranknet], variants: {ranknet: "
                "{loss: ranknet, steps: 9}},")  # fmt: skip
    capstone = capstone_of(tmp_path, fewer, variants)
    assert capstone.recipes("smoke")["losses"].variants == {}
    assert runs.work_of(capstone.recipes("cpu")["losses"])[1].steps == 9
    with pytest.raises(ValueError, match="unknown entry of losses 'rankent'"):
        capstone_of(tmp_path, fewer, ("{about", "{variants: {rankent: {loss: ranknet}}, about"))


AVERAGE = ("experiment: warmth", "experiment: warmth\n    collection: average")


def test_an_average_is_judged_where_there_are_two_collections(tmp_path):
    names = lambda *edits: [c.name for c in capstone_of(tmp_path, AVERAGE, *edits).judged("cpu")]  # noqa: E731
    start = "{losses: [infonce, infonce("
    also = lambda some: (start, start.replace("{", f"{{also: {some}, "))  # noqa: E731
    assert names() == names(also("[a]")) == ["training", "size"]
    assert names(also("[a, b]")) == ["training", "size", "other"]
    digests = {
        capstone_of(tmp_path, *edits, also("[a]")).digest("cpu") for edits in ([], [AVERAGE])
    }
    assert len(digests) == 2  # without the claim, and with it on the recipe's own collection
    with pytest.raises(ValueError, match="costs are measured on tiny alone"):
        capstone_of(tmp_path, AVERAGE, also("[a, b]"), ("measure: RR@10", "measure: seconds"))
    with pytest.raises(UnknownName, match="did you mean average"):
        capstone_of(tmp_path, ("experiment: warmth", "experiment: warmth\n    collection: averge"),
                    also("[a, b]"))  # fmt: skip


def test_an_average_is_over_what_is_searched_besides(tmp_path, monkeypatch):
    table = {None: 0.9, "a": 0.1, "b": 0.2}
    values = lambda _, name: {s: {"RR@10": [{"q": table[name]}]} for s in ("new", "old")}  # noqa: E731
    monkeypatch.setattr(runs, "seed_values", values)
    recipe = replace(capstone_of(tmp_path).recipes("cpu")["warmth"], also=("a", "b"))
    comparison = object.__new__(comparing.Comparison)
    comparison.recipe = recipe
    claim = replace(CLAIM, measure="RR@10", collection="average")
    ours, theirs = claim_values(claim, comparison, [])
    assert ours == theirs == [[{"q": 0.1}], [{"q": 0.2}]]


def test_an_opponent_is_trained_in_the_same_way():
    recipes = read_capstone("gte").recipes("cpu")
    found = {s: opponent(recipes["batches"], s) for s in recipes["batches"].losses}
    assert found["all four, 2048"] == "infonce, 2048" and found["infonce, 2048"] == "infonce, 16"
    assert opponent(recipes["negatives"], "all four, unmasked") == "infonce, unmasked"
    assert opponent(recipes["directions"], "no q-q") == "infonce"
    assert opponent(recipes["directions"], "bm25") == "infonce"


def test_the_digest_is_of_what_decides(tmp_path):
    digest = capstone_of(tmp_path).digest("smoke")
    assert digest == capstone_of(tmp_path, ("InfoNCE beats", "InfoNCE is above")).digest("smoke")
    assert digest == capstone_of(tmp_path, ("{seeds: 4}", "{seeds: 3}")).digest("smoke")
    for change in (("tolerance: 0.05", "tolerance: 0.06"), ("steps: 3", "steps: 4")):
        assert digest != capstone_of(tmp_path, change).digest("smoke")


@pytest.mark.parametrize("name", capstones())
def test_the_capstones_of_the_library_can_be_read_and_planned(name):
    capstone = read_capstone(name)
    assert "smoke" in capstone.profiles and capstone.title
    for profile in capstone.profiles:
        assert len(plan(capstone, profile)) == len(capstone.recipes(profile))


@pytest.mark.parametrize("name", capstones())
def test_sources_are_in_the_bibliography_and_the_page_is_there(name):
    capstone, root = read_capstone(name), Path(__file__).resolve().parent.parent
    keys = re.findall(r"^@\w+\{(.+),$", (root / "data" / "references.bib").read_text("utf-8"), re.M)
    assert capstone.sources and set(capstone.sources) <= set(keys)
    assert (root / "nbs" / f"{capstone.page}.ipynb").is_file(), capstone.page


def test_an_unknown_capstone_is_said():
    with pytest.raises(UnknownName, match="unknown capstone 'gtee'"):
        read_capstone("gtee")


# Plans


def test_a_plan_counts_runs(tmp_path, here):
    losses, warmth = plan(capstone_of(tmp_path), "cpu", tmp_path)
    assert losses["runs"] == 2 * 1 and warmth["runs"] == 2 * (2 + 4)
    assert warmth["pairs"] == 12 * 5 * 16 and warmth["steps"] == 60
    assert losses["hours"] is None and not losses["gpu"] and not losses["missing"]


def test_a_plan_estimates_what_no_record_measured(tmp_path):
    rows = plan(capstone_of(tmp_path), "paper", tmp_path)
    assert all(row["gpu"] for row in rows)
    assert rows[0]["downloads"] == ["hub:someone/something", "someone/somewhat"]
    seconds = 6 * 1e8 * 100 * 256 * 300 / 50e12
    assert rows[0]["hours"] == pytest.approx(2 * 3 * seconds / 3600)
    assert "100 M parameters" in rows[0]["sources"][0]


def test_the_newest_record_says_what_a_run_takes(tmp_path):
    def record(seconds, device="CPU, x", batch_size=16):
        recipe = capstone_of(tmp_path).recipes("cpu")["losses"]
        return {"recipe": {**recipe.as_dict(), "batch_size": batch_size},
                "provenance": {"device": device},
                "systems": [{"system": "infonce", "seconds": seconds, "steps": 10},
                            {"system": "bm25", "seconds": None, "steps": None}]}  # fmt: skip

    work = Work("ranknet", "static", 1, 2, 30, 16)
    measured = [("a", record(1.0, "H100")), ("b", record(2.0, batch_size=8)), ("c", record(3.0)),
                ("d", record(4.0))]  # fmt: skip
    assert estimate_run(work, False, {}, measured) == (9.0, "record c")
    assert estimate_run(work, True, {}, measured) == (3.0, "record a")
    scaled = estimate_run(work, False, {}, measured[:2])
    assert scaled == (12.0, "record b, scaled from batch 8")
    assert estimate_run(work, False, {}, []).seconds is None


def test_places_are_looked_for_without_a_network(data, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKBENCH_DATA", str(data))
    assert collection_place("tiny").here and collection_place("beir/tiny").here
    assert "set RANKBENCH_DATA" in collection_place("nowhere").remedy
    assert model_place("static").here and model_place("64-32").here
    assert not model_place("splade:someone/somewhat").here
    assert model_place(f"splade:{tmp_path}?pooling=sum").here
    assert model_place(f"cross:{tmp_path}").here
    assert model_place("no such/place/at all").remedy


# Runs


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKBENCH_DATA", str(data))
        record = reproduce(capstone_of(folder), "smoke", folder / "run")
    return folder, record


def test_a_record_holds_claims_and_experiments(finished):
    folder, record = finished
    assert read_reproduction(folder / "run" / "record.json") == json.loads(json.dumps(record))
    assert [c["name"] for c in record["claims"]] == ["training", "size"]
    claim, cost = record["claims"]
    rows = {r["system"]: r for r in record["experiments"]["losses"]["systems"]}
    assert claim["values"]["system"] == pytest.approx(rows["infonce"]["nDCG@10"], rel=1e-5)
    difference = rows["infonce"]["nDCG@10"] - rows["bm25"]["nDCG@10"]
    assert claim["difference"] == pytest.approx(difference, abs=1e-5)
    assert cost["verdict"] == "reproduced" and cost["difference"] == 0 and cost["low"] is None
    assert rows["infonce"]["curve"][-1][0] == 3 and "curve" not in rows["bm25"]
    assert record["experiments"]["losses"]["tried"] == {}  # a single setting is not tried
    assert record["digest"] == read_capstone(folder / "small.yaml").digest("smoke")


def test_a_record_says_how_each_system_differs_from_its_opponent(finished):
    rows = {r["system"]: r for r in finished[1]["experiments"]["losses"]["systems"]}
    assert "versus" not in rows["infonce"]
    found = rows["bm25"]["versus"]
    assert found["system"] == "infonce" and found["low"] <= found["difference"] <= found["high"]
    difference = rows["bm25"]["nDCG@10"] - rows["infonce"]["nDCG@10"]
    assert found["difference"] == pytest.approx(difference, abs=1e-5)


def test_known_and_new_answers_differ_by_themselves(tmp_path):
    shared = share_answers(make_collection())
    asked = shared.judgments["test"]
    recipe = Recipe(("infonce", "ranknet"), "tiny", steps=3, batch_size=16, rates=(0.003,), seeds=2)
    comparison = comparing.Comparison(recipe, tmp_path / "run", collection=shared)
    systems = comparing.run_comparison(comparison)["systems"]
    runs.add_differences(systems, comparison)
    rows = {row["system"]: row for row in systems}
    for name, row in rows.items():
        groups = row["answers"].values()
        if name == "infonce":
            assert not any("versus" in group for group in groups)
            continue
        whole = sum(g["queries"] * g["versus"]["difference"] for g in groups) / len(asked)
        assert whole == pytest.approx(row["versus"]["difference"], abs=1e-5)
        for group, first in zip(groups, rows["infonce"]["answers"].values(), strict=True):
            found = group["versus"]
            assert found["difference"] == pytest.approx(
                group["nDCG@10"] - first["nDCG@10"], abs=1e-5
            )
            assert found["low"] <= found["difference"] <= found["high"]


def test_a_finished_experiment_is_not_repeated(finished, here, monkeypatch):
    folder, record = finished
    monkeypatch.setattr(runs, "run_comparison", lambda *_: pytest.fail("ran again"))
    again = reproduce(read_capstone(folder / "small.yaml"), "smoke", folder / "run", resume=True)
    assert again["experiments"] == record["experiments"] and again["claims"] == record["claims"]


def test_a_run_whose_file_is_gone_is_repeated(finished, tmp_path, here):
    folder, record = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    gone = next((tmp_path / "run" / "losses" / "units").glob("final-*.json"))
    gone.unlink()
    again = reproduce(read_capstone(folder / "small.yaml"), "smoke", tmp_path / "run", resume=True)
    assert gone.is_file()
    claims = {c["name"]: c["difference"] for c in record["claims"]}
    found = {c["name"]: c["difference"] for c in again["claims"]}
    assert found == pytest.approx(claims, abs=1e-6)


def test_a_system_that_was_added_is_run(finished, tmp_path, here):
    folder, _ = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    text = (folder / "small.yaml").read_text()
    assert "losses: [infonce, ranknet]," in text
    more = tmp_path / "small.yaml"
    more.write_text(text.replace("[infonce, ranknet],", "[infonce, ranknet, siglip],"))
    added = reproduce(read_capstone(more), "smoke", tmp_path / "run", resume=True)
    assert "siglip" in [row["system"] for row in added["experiments"]["losses"]["systems"]]


def test_a_used_folder_needs_resume(finished, here):
    folder, _ = finished
    with pytest.raises(ValueError, match="holds a reproduction; add --resume"):
        reproduce(read_capstone(folder / "small.yaml"), "smoke", folder / "run")


def test_what_is_missing_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.delenv("RANKBENCH_DATA", raising=False)
    with pytest.raises(ValueError, match="collection tiny: give --data-dir"):
        reproduce(capstone_of(tmp_path), "smoke", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["experiments", "losses", "recipe", "steps"], 4, "the recipe of losses has digest"),
        (["claims", 0, "tolerance"], 0.0, "recipes and claims have digest"),
        (["claims", 1, "verdict"], "undecided", "verdicts do not follow"),
        (["claims", 1, "difference"], 0.5, "verdicts do not follow"),
        (["verdict"], "undecided", "verdicts do not follow"),
        (["kind"], "comparison", "is no record of rankbench reproduce"),
    ],
)
def test_an_edited_record_is_refused(finished, tmp_path, path, value, message):
    record = json.loads(json.dumps(finished[1]))
    part = record
    for key in path[:-1]:
        part = part[key]
    assert part[path[-1]] != value
    part[path[-1]] = value
    write_record(tmp_path / "record.json", record)
    with pytest.raises(ValueError, match=message):
        read_reproduction(tmp_path / "record.json")


def test_a_record_is_written_whole(tmp_path):
    content = {
        "a": [1, 2, [3, 4]],
        "text": ["[ 1,\n 2 ]", "x"],
        "empty": [],
        "rows": [{"b": [0.5]}],
    }
    write_record(tmp_path / "record.json", content)
    assert json.loads((tmp_path / "record.json").read_text()) == content


def test_a_large_record_keeps_the_best_settings_only():
    rows = [[0.01 * i, 0.05, None if i == 7 else 0.1 * i] for i in range(8)]
    small = {"e": {"tried": {"x": rows}}}
    assert runs.fit(small) == small
    large = {"e": {"tried": {f"x{i}": rows for i in range(1000)}}}
    assert {len(kept) for kept in runs.fit(large)["e"]["tried"].values()} == {3}
    assert [row[2] for row in runs.fit(large)["e"]["tried"]["x0"]] == [0.1 * i for i in (6, 5, 4)]


def test_a_repeated_record_is_compared_with_the_kept_one(finished, tmp_path):
    _, record = finished
    assert recorded_before(record, tmp_path) is None
    path = runs.keep_record(record, tmp_path)
    assert path.name == f"smoke-{record['digest'][:6]}.json"
    rows = repeats(record, recorded_before(record, tmp_path))
    assert len(rows) == 4 and all(row["within"] for row in rows)
    other = json.loads(json.dumps(record))
    other["experiments"]["losses"]["systems"][0]["nDCG@10"] = 2.0
    assert [row["within"] for row in repeats(other, record)] == [False, True, True, True]
    with pytest.raises(ValueError, match="never replaced"):
        runs.keep_record(record, tmp_path)


def test_a_record_of_uncommitted_changes_is_not_kept(finished, tmp_path, monkeypatch):
    record = json.loads(json.dumps(finished[1]))
    record["experiments"]["losses"]["provenance"]["dirty"] = True
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="not committed"):
        runs.keep_record(record)


def test_claims_are_drawn(finished):
    text = plot_claims(finished[1])._repr_svg_()
    assert "training ↑" in text and "size =" in text and "ratio minus 1" in text


# The command


def run(capsys, *arguments):
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def command(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_DATA", "")  # set by the command, taken back after the test
    capstone_of(tmp_path)
    return ["reproduce", tmp_path / "small.yaml", "--data-dir", data]


def test_the_command_prints_tables_claims_and_verdict(capsys, command, finished, tmp_path):
    folder, record = finished
    kept = tmp_path / "results"
    options = [
        "--profile",
        "smoke",
        "--output",
        folder / "run",
        "--resume",
        "--output-record",
        kept,
    ]
    status, out, err = run(capsys, *command, *options)
    assert status == 0 and "experiment losses (1 of 1)" in err
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert "verdict: reproduced" in out and f"profile smoke: {record['verdict']}." in out
    assert len(list(kept.glob("small/smoke-*.json"))) == 1
    status, _, err = run(capsys, *command, *options)
    assert status == 2 and "never replaced" in err
    status, out, _ = run(capsys, "records", "--folder", kept)
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert out.startswith("small\n") and record["verdict"] in out


def test_the_command_compares_with_what_is_committed(
    capsys, command, finished, monkeypatch, tmp_path
):
    folder, record = finished
    runs.keep_record(record, tmp_path)
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path)
    options = ["--output", folder / "run", "--resume"]
    _, out, _ = run(capsys, *command, *options)
    assert "4 of 4 values are within the recorded interval." in out
    _, out, _ = run(capsys, *command, *options, "--json")
    assert [row["within"] for row in json.loads(out)["repeats"]] == [True] * 4


def test_a_dry_run_trains_nothing(capsys, command, tmp_path):
    for profile in ("smoke", "cpu", "paper"):
        status, out, _ = run(capsys, *command, "--profile", profile, "--dry-run", "--output",
                             tmp_path / "run")  # fmt: skip
        assert status == 0 and "total" in out and max(map(len, out.splitlines())) <= 80
    assert "on one GPU" in out and "to download" in out
    status, out, _ = run(capsys, *command, "--dry-run", "--json")
    assert json.loads(out)["experiments"][0]["runs"] == 4
    assert not (tmp_path / "run").exists()


def test_ctrl_c_keeps_what_is_finished(capsys, command, tmp_path, monkeypatch):
    run_unit, count = comparing.run_unit, iter(range(100))

    def interrupt(comparison, unit, on_step):
        if next(count) == 3:
            raise KeyboardInterrupt
        return run_unit(comparison, unit, on_step)

    monkeypatch.setattr(comparing, "run_unit", interrupt)
    status, _, err = run(capsys, *command, "--output", tmp_path / "run")
    assert status == 130 and "3 finished units are kept" in err and "--resume" in err
    assert len(list((tmp_path / "run/losses/units").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "gpu"], "unknown profile of small 'gpu'"),
        (["--only", "loses"], "did you mean losses"),
        (["--only", "losses", "--keep"], "all experiments of a profile"),
        (["--data-dir", "nowhere"], "--data-dir nowhere is no folder"),
    ],
)
def test_mistakes_of_the_command_are_one_line(capsys, command, tmp_path, options, message):
    status, _, err = run(capsys, *command, "--output", tmp_path / "run", *options)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_records_outside_of_a_repository(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path / "nowhere")
    status, _, err = run(capsys, "records")
    assert status == 2 and "records live in the repository" in err
    status, out, _ = run(capsys, "records", "--folder", tmp_path)
    assert status == 0 and "no records" in out


# What is committed


def test_all_committed_records_are_listed(capsys):
    status, out, _ = run(capsys, "records", "--json")
    rows = json.loads(out)
    assert status == 0 and len(rows) == len(list(results_folder().glob("*/*.json")))
    assert {"compare", "bench"} <= {row["kind"] for row in rows}
    status, out, _ = run(capsys, "records")
    assert max(map(len, out.splitlines())) <= 80


REPRODUCTIONS = [p for name in capstones() for p in sorted(results_folder().glob(f"{name}/*.json"))]


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_committed_reproduction_is_valid(path):
    record = read_reproduction(path)  # recomputes all digests and verdicts
    assert (record["capstone"], path.stem) == (
        path.parent.name, f"{record['profile']}-{record['digest'][:6]}"
    )  # fmt: skip
    assert path.stat().st_size < 150_000
    assert not re.search(r'"[^"]*(?<![\w.])/\w+/', path.read_text("utf-8"))  # no machine's folder
    for part in (record, *record["experiments"].values()):
        assert part["provenance"]["commit"] and not part["provenance"]["dirty"]
    for part in record["experiments"].values():
        main = part["recipe"]["measures"][0]
        assert all(math.isfinite(row[main]) for row in part["systems"])


def test_every_record_is_of_a_known_kind():
    folders = {Path(p).parent.name for p in results_folder().glob("*/*.json")}
    assert folders <= {"compare", "bench", *capstones()}
