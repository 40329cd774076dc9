import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_collection, share_answers

from rankbench.cli import comparison_text
from rankbench.core import UnknownName
from rankbench.recipes import PROFILES, Recipe, make_recipe, settings_to_try
from rankbench.records import read_record
from rankbench.training import comparing, systems
from rankbench.training.comparing import (
    Comparison,
    OutputError,
    answer_groups,
    choose,
    run_comparison,
)
from rankbench.training.trainer import Curve
from rankbench.writing import write_json

pytestmark = pytest.mark.usefixtures("blank_pictures")

RECIPE = Recipe(("infonce", "ranknet"), "tiny", steps=4, batch_size=16, rates=(0.003, 0.03),
                seeds=2, evaluations=2)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    comparison = Comparison(RECIPE, folder, collection=make_collection())
    return comparison, run_comparison(comparison)


def test_the_folder_holds_everything(finished):
    comparison, record = finished
    names = {p.name for p in comparison.folder.iterdir()}
    assert names == {"settings.json", "units", "runs", "figures", "record.json", "per_query.csv",
                     "report.html"}  # fmt: skip
    assert {p.name for p in (comparison.folder / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in ("systems", "tuning", "curves", "differences", "pareto")
        for kind in ("svg", "png")
    }
    assert len(list((comparison.folder / "runs").iterdir())) == 2 * 2 + 1 + 2
    assert read_record(comparison.folder / "record.json") == json.loads(json.dumps(record))


def test_the_report_needs_nothing_else(finished):
    text = (finished[0].folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text.replace("xlink:href", "xlink"))
    assert "<link" not in text and "<script" not in text
    assert all(f"<td>{s['system']}</td>" in text for s in finished[1]["systems"])
    assert text.count("<svg") == 5


def test_rows_are_losses_then_baselines(finished):
    rows = finished[1]["systems"]
    assert [r["system"] for r in rows] == ["infonce", "ranknet", "bm25", "untrained"]
    assert [r["p"] is None for r in rows] == [True, False, False, True]
    assert all(r["low"] <= r["nDCG@10"] <= r["high"] for r in rows)


def test_the_chosen_rate_is_the_best_on_dev(finished):
    comparison, record = finished
    for loss, unit in choose(comparison).items():
        tried = [u for u in record["units"] if u["unit"]["role"] == "tune"
                 and u["unit"]["system"] == loss]  # fmt: skip
        assert comparison.result(unit)["dev"] == max(u["dev"] for u in tried)


def test_tuning_never_sees_the_test_split(finished):
    comparison, _ = finished
    for path in (comparison.folder / "units").glob("tune-*.json"):
        assert "values" not in json.loads(path.read_text())


def test_final_seeds_are_not_the_tuning_seed(finished):
    units = [u["unit"] for u in finished[1]["units"]]
    assert {u["seed"] for u in units if u["role"] == "tune"} == {0}
    assert {u["seed"] for u in units if u["role"] == "final"} == {1, 2}


def test_resuming_repeats_nothing(finished, monkeypatch):
    comparison, record = finished
    monkeypatch.setattr(comparing, "run_unit", lambda *_: pytest.fail("ran a unit again"))
    again = Comparison(RECIPE, comparison.folder, resume=True, collection=make_collection())
    assert run_comparison(again)["systems"] == record["systems"]


def quality(rows):
    """What does not depend on the machine."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "peak_mib", "costs")} for r in rows]


def test_an_interrupted_comparison_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
    run_unit, count = comparing.run_unit, iter(range(100))

    def interrupt(comparison, unit, on_step):
        if next(count) == 5:
            raise KeyboardInterrupt
        return run_unit(comparison, unit, on_step)

    monkeypatch.setattr(comparing, "run_unit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_comparison(Comparison(RECIPE, tmp_path / "run", collection=make_collection()))
    assert len(list((tmp_path / "run" / "units").iterdir())) == 5
    resumed = Comparison(RECIPE, tmp_path / "run", resume=True, collection=make_collection())
    assert quality(run_comparison(resumed)["systems"]) == quality(finished[1]["systems"])


def test_a_used_folder_needs_resume(finished):
    with pytest.raises(OutputError, match="holds a comparison; add --resume"):
        Comparison(RECIPE, finished[0].folder, collection=make_collection())


def test_another_recipe_does_not_resume(finished):
    with pytest.raises(OutputError, match="was made with another steps; choose another --output"):
        Comparison(replace(RECIPE, steps=5), finished[0].folder, True, collection=make_collection())


def test_losses_and_seeds_are_added_to_a_comparison(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    units = {p: p.stat().st_mtime_ns for p in (folder / "units").iterdir()}
    more = replace(RECIPE, losses=("siglip", *RECIPE.losses), seeds=3)
    rows = run_comparison(Comparison(more, folder, True, collection=make_collection()))["systems"]
    assert all(path.stat().st_mtime_ns == then for path, then in units.items())
    systems = ["siglip", "infonce", "ranknet", "bm25", "untrained"]
    assert [r["system"] for r in rows] == systems
    assert [r["seeds"] for r in rows] == [3, 3, 3, 1, 3]
    alone = Comparison(more, tmp_path / "alone", collection=make_collection())
    assert quality(rows) == quality(run_comparison(alone)["systems"])


def test_a_system_that_changed_does_not_resume(finished):
    other = replace(RECIPE, variants={"ranknet": {"batch_size": 8}})
    with pytest.raises(OutputError, match="was made with another system 'ranknet'"):
        Comparison(other, finished[0].folder, True, collection=make_collection())


def test_a_system_is_not_left_out_of_a_comparison(finished):
    fewer = replace(RECIPE, losses=("infonce",))
    with pytest.raises(OutputError, match="was made with another system 'ranknet'"):
        Comparison(fewer, finished[0].folder, True, collection=make_collection())


def test_another_collection_does_not_resume(finished):
    other = make_collection(per_topic=7)
    with pytest.raises(OutputError, match="another the collection's content"):
        Comparison(RECIPE, finished[0].folder, True, collection=other)


def test_an_unwritable_folder_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write to .*; choose another --output"):
        Comparison(RECIPE, tmp_path / "file" / "run", collection=make_collection())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_said_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write to"):
        Comparison(RECIPE, tmp_path / "run", collection=make_collection())


def test_a_full_disk_is_said_before_training(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(comparing.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match="0 MB free, about .* MB are needed"):
        Comparison(RECIPE, tmp_path / "run", collection=make_collection())


def test_wrong_names_are_refused_before_anything_is_written(tmp_path):
    for wrong in (replace(RECIPE, losses=("infonse",)), replace(RECIPE, measures=("nDGC@10",))):
        with pytest.raises(UnknownName, match="did you mean"):
            Comparison(wrong, tmp_path / "run", collection=make_collection())
    assert not (tmp_path / "run").exists()


def test_a_choice_at_the_edge_of_the_grid_is_said():
    recipe = replace(RECIPE, rates=(0.1, 0.2, 0.3), temperatures=(0.05,))
    at = lambda rate: comparing.edge_notes(recipe, {"x": comparing.Unit("tune", "x", rate, 0.05)})  # noqa: E731
    assert at(0.1) == ["x: the best rate, 0.1, is the smallest tried"]
    assert at(0.2) == []
    assert at(0.3) == ["x: the best rate, 0.3, is the largest tried"]


def test_a_run_that_diverged_is_never_chosen(tmp_path, monkeypatch):
    def diverge(encoder, data, loss, *, rate, evaluations, **settings):
        bad = rate == max(RECIPE.rates)
        curve = [(i, 0.9 if bad else 0.1) for i in range(evaluations)]
        return Curve([float("nan") if bad else 1.0], curve)

    monkeypatch.setattr(systems, "train", diverge)
    comparison = Comparison(RECIPE, tmp_path / "run", collection=make_collection())
    run_comparison(comparison)
    assert {u.rate for u in choose(comparison).values()} == {min(RECIPE.rates)}


def test_a_transformer_folder_is_compared_like_the_static_encoder(transformer_folder, tmp_path):
    recipe = replace(RECIPE, model=str(transformer_folder), rates=(1e-3,), seeds=1)
    comparison = Comparison(recipe, tmp_path / "run", collection=make_collection())
    record = run_comparison(comparison)
    assert [s["system"] for s in record["systems"]] == ["infonce", "ranknet", "bm25", "untrained"]
    assert len(list((comparison.folder / "units").glob("untrained*"))) == 1


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", ["static", "some/transformer"])
def test_recipes_go_through_yaml(profile, model):
    recipe = make_recipe(("infonce",), profile, model=model)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 0}, "steps is 0; expected at least 1"), ({"rates": ()}, "rates is empty")],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


def test_an_edited_record_is_refused(finished, tmp_path):
    record = dict(finished[1])
    record["recipe"] = {**record["recipe"], "steps": 999}
    write_json(tmp_path / "record.json", record)
    with pytest.raises(ValueError, match="the record says"):
        read_record(tmp_path / "record.json")
    write_json(tmp_path / "record.json", {"recipe": {}})
    with pytest.raises(ValueError, match="is no record: it lacks digest, provenance, systems"):
        read_record(tmp_path / "record.json")


def test_answers_that_were_trained_on_are_told_apart(tmp_path):
    shared = share_answers(make_collection(), 5)
    asked = sorted(shared.judgments["test"])
    recipe = replace(RECIPE, rates=(0.003,), seeds=1)
    comparison = Comparison(recipe, tmp_path / "run", collection=shared)
    record = run_comparison(comparison)
    assert {k: len(v) for k, v in answer_groups(comparison).items()} == {"known": 5, "new": 7}
    values = comparing.query_values(comparison)
    for row in record["systems"]:
        groups = row["answers"]
        for m in recipe.measures:
            mean = sum(g["queries"] * g[m] for g in groups.values()) / len(asked)
            assert mean == pytest.approx(row[m])
            of_known = fmean(values[row["system"]][m][q] for q in asked[:5])
            assert groups["known"][m] == pytest.approx(of_known)
    assert "known answers (5)  new answers (7)" in comparison_text(record)


def test_without_shared_answers_there_is_nothing_to_tell_apart(finished):
    comparison, record = finished
    assert answer_groups(comparison) == {}
    assert not any("answers" in row for row in record["systems"])
    assert "answers" not in comparison_text(record)


def test_several_processes_measure_what_one_does(finished, tmp_path):
    recipe = replace(RECIPE, rates=(0.003,), seeds=1)
    results = [
        run_comparison(Comparison(recipe, tmp_path / name, collection=make_collection()), jobs)
        for name, jobs in (("one", 1), ("two", 2))
    ]
    one, two = (quality(r["systems"]) for r in results)
    for a, b in zip(one, two, strict=True):
        assert {k: b[k] for k in a if not isinstance(a[k], float)} == {
            k: v for k, v in a.items() if not isinstance(v, float)
        }
        assert b["nDCG@10"] == pytest.approx(a["nDCG@10"], abs=0.02)


def test_processes_hear_ctrl_c_only_in_a_run(tmp_path, monkeypatch):
    recipe = replace(RECIPE, rates=(0.003,), seeds=1)
    comparison = Comparison(recipe, tmp_path / "run", collection=make_collection())
    unit = comparing.Unit("final", "infonce", 0.003, 0.05, 1)
    heard = []
    monkeypatch.setattr(comparing, "run_unit", lambda *_: heard.append(blocked()))

    def blocked():
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    stop = threading.Event()
    monkeypatch.setattr(comparing, "_worker", [comparison, stop])
    for _ in range(2):
        with comparing._interrupts("SIG_BLOCK"):
            assert blocked()
            assert comparing._work(unit) == unit
            assert blocked()
        stop.set()  # what is queued is left out from here on
    assert heard == [False] and not blocked()


def test_ctrl_c_waits_while_a_process_is_started():
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with comparing._uninterrupted():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as another thread
            os.kill(os.getpid(), signal.SIGINT)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)
            found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SIGINT" in found.stdout and signal.getsignal(signal.SIGINT) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_single_setting_is_not_tried(tmp_path):
    recipe = replace(RECIPE, rates=(0.01,), temperatures=(0.05,), seeds=1)
    record = run_comparison(Comparison(recipe, tmp_path / "run", collection=make_collection()))
    assert {u["unit"]["role"] for u in record["units"]} == {"final", "baseline"}
    assert {row["rate"] for row in record["systems"]} == {0.01, None}
    assert "What tuning saw" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("search", ["random", "quasirandom"])
def test_a_search_spends_its_budget(search, tmp_path):
    recipe = replace(RECIPE, search=search, trials=3, temperatures=(0.02, 0.2), seeds=1)
    comparison = Comparison(recipe, tmp_path / "run", collection=make_collection())
    record = run_comparison(comparison)
    tuned = [u["unit"] for u in record["units"] if u["unit"]["role"] == "tune"]
    assert [u["system"] for u in tuned].count("infonce") == 3 == len({u["rate"] for u in tuned})
    assert search in (tmp_path / "run" / "report.html").read_text()


@given(st.integers(1, 64))
def test_quasirandom_settings_leave_no_large_gap(trials):
    recipe = replace(RECIPE, search="quasirandom", trials=trials, rates=(1.0, math.e))
    points = settings_to_try(recipe, "infonce", (1.0, math.e))
    for shares in zip(*points, strict=True):
        ends = [0.0, *sorted(map(math.log, shares)), 1.0]
        assert max(b - a for a, b in zip(ends, ends[1:], strict=False)) < 3.1 / (trials + 1)
        cells = [int(share * trials) for share in map(math.log, shares)]
        assert trials & (trials - 1) or sorted(cells) == list(range(trials))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"search": "randon"}, "did you mean random"), ({"search": "random"}, "needs trials above 0"),
     ({"trials": 3}, "a grid none")],
)  # fmt: skip
def test_impossible_searches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


POINTS = st.tuples(*[st.integers(0, 9).map(float)] * 2)


@given(st.lists(POINTS, max_size=12))
def test_the_front_holds_what_nobody_beats(points):
    def beaten(a, b):
        return b[0] <= a[0] and b[1] >= a[1] and a != b

    expected = {p for p in points if not any(beaten(p, other) for other in points)}
    assert {points[i] for i in comparing.pareto_front(points)} == expected


def test_old_recipes_keep_their_digest(root):
    for path in sorted((root / "data" / "results" / "compare").glob("*.json")):
        assert read_record(path)["digest"] == json.loads(path.read_text())["digest"]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory, transformer_folder):
    """A tiny masked language model that knows the words of the tiny collection."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

    folder = tmp_path_factory.mktemp("mlm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(AutoConfig.from_pretrained(transformer_folder)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(transformer_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, transformer_folder, language_model):
    losses = ("infonce", f"infonce(temperature=0.1) @ {transformer_folder}",
              f"infonce + 0.001*flops.documents @ splade:{language_model}",
              f"ranknet @ cross:{transformer_folder}")  # fmt: skip
    recipe = replace(RECIPE, losses=losses, rates=(0.003,), seeds=1, measures=("nDCG@10", "R@50"))
    folder = tmp_path_factory.mktemp("mixed") / "run"
    comparison = Comparison(recipe, folder, collection=make_collection())
    return comparison, run_comparison(comparison)


def test_models_of_all_kinds_are_rows_of_one_table(mixed):
    comparison, record = mixed
    models = [entry.partition("@")[2].strip() or "static" for entry in comparison.recipe.losses]
    names = [*comparison.recipe.losses, "bm25", *(f"untrained @ {m}" for m in models)]
    assert [r["system"] for r in record["systems"]] == names
    assert [r["p"] is None for r in record["systems"]] == [True, *[False] * 4, *[True] * 4]
    assert [r["temperature"] for r in record["systems"][:4]] == [0.05, 0.05, 1.0, 1.0]
    text = (comparison.folder / "report.html").read_text()
    assert "<th>ms per query</th>" in text and "where none is named" in text


def test_every_system_says_what_an_answer_costs(mixed):
    rows = {r["system"]: r["costs"] for r in mixed[1]["systems"]}
    assert all(costs["ms per query"] > 0 and costs["index MiB"] > 0 for costs in rows.values())
    sparse = {name for name, costs in rows.items() if "products per pair" in costs}
    assert sparse == {n for n in rows if "splade:" in n or "cross:" in n or n == "bm25"}
    cross = next(n for n in rows if "@ cross:" in n)
    assert rows[cross]["index MiB"] == rows["bm25"]["index MiB"]  # it has none of its own
    dense, count = rows["infonce"]["index MiB"] * 2**20, len(mixed[0].collection.documents)
    assert dense == count * 256 * 4  # float32
    from rankbench.training.comparing import plot_pareto

    (axes,) = plot_pareto(mixed[1]).figure.axes
    assert axes.get_xlabel() == "ms per query"


def test_a_mixed_comparison_resumes(mixed, monkeypatch):
    comparison, record = mixed
    monkeypatch.setattr(comparing, "run_unit", lambda *_: pytest.fail("ran a unit again"))
    again = Comparison(comparison.recipe, comparison.folder, True, collection=make_collection())
    assert run_comparison(again)["systems"] == record["systems"]


def test_the_static_encoder_is_trained_as_by_hand(finished):
    from rankbench.data.collections import with_training
    from rankbench.models.static_encoder import StaticEncoder, idf_weights, train_pieces
    from rankbench.training.pairs import PairData, train

    comparison, record = finished
    data = with_training(make_collection())
    texts = [d.full for d in data.documents.values()]
    texts += [data.queries[q] for q in data.split("train")]
    pieces, unit = train_pieces(texts), choose(comparison)["ranknet"]
    encoder = StaticEncoder(pieces, idf_weights(pieces, texts), seed=1)
    pairs = PairData(data, encoder.tokenize)
    curve = train(encoder, pairs, "ranknet", steps=4, batch_size=16, rate=unit.rate,
                  temperature=0.05, seed=1, evaluations=2)  # fmt: skip
    result = comparison.result(replace(unit, role="final", seed=1))
    assert result["losses"] == curve.losses
    assert [tuple(point) for point in result["curve"]] == curve.dev


def test_a_reranker_orders_what_bm25_finds(mixed):
    comparison, _ = mixed
    unit = next(u for u in comparing.final_units(comparison) if "cross:" in u.system)
    found = comparison.task.carry_out(unit).run
    first = comparison.task.ground.candidates("test", comparison.recipe.depth)
    assert {q: set(run) for q, run in found.items()} == {q: set(run) for q, run in first.items()}
    assert any(sorted(found[q], key=found[q].get) != sorted(first[q], key=first[q].get)
               for q in found)  # fmt: skip


def test_terms_of_splade_are_those_of_the_collection(mixed):
    task, (name,) = mixed[0].task, [m for m in mixed[0].task.untrained.values() if "splade" in m]
    model = task.model(name, 0)
    used = {i for ids in model.tokenize(task._texts) for i in ids}
    assert set(model.columns.tolist()) <= used and len(model.columns) < model.dim


def test_a_splade_model_has_the_pooling_and_the_queries_that_its_name_asks_for(language_model):
    from rankbench.models.inference_free import query_idf

    plain, summed, table = (
        f"splade:{language_model}{asked}" for asked in ("", "?pooling=sum", "?queries=idf")
    )
    recipe = replace(RECIPE, losses=(f"infonce @ {table}", f"infonce @ {summed}"), max_length=7)
    task = systems.RetrievalTask(recipe, make_collection())
    assert [task.model(name, 0).pooling for name in (plain, summed)] == ["max", "sum"]
    model = task.model(table, 0)
    texts = [d.full for d in task.data.documents.values()]
    assert model.weights.equal(query_idf(model.documents, texts))
    assert model.documents.columns.tolist() == task.model(plain, 0).columns.tolist()
    assert max(map(len, model.tokenize(texts))) == 7
    both = systems.open_model(f"{table}&pooling=sum")
    assert both.documents.pooling == "sum" and both.weights.eq(1).all()


def test_the_name_of_a_splade_model_asks_for_what_is_known(language_model, tmp_path):
    with pytest.raises(ValueError, match="setting of splade:.*'poling'.* did you mean pooling"):
        systems.open_model(f"splade:{language_model}?poling=sum")
    with pytest.raises(ValueError, match="pooling of splade:.*'mean'; did you mean max"):
        systems.open_model(f"splade:{language_model}?pooling=mean")
    systems.open_model(f"splade:{language_model}?queries=idf").save(tmp_path / "table")
    with pytest.raises(ValueError, match="holds inference_free_splade, which has its own settings"):
        systems.open_model(f"splade:{tmp_path / 'table'}?pooling=sum")


def test_products_are_counted_as_the_report_on_sparsity_counts_them():
    import torch

    from rankbench.losses.norms import sparsity
    from rankbench.training.retrieval import build_bm25

    index = build_bm25({"a": "milk tea", "b": "milk", "c": "saw"}, block=2)
    documents = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    queries = ["milk tea", "saw", "tea tea"]
    asked = torch.tensor(index.embed(queries).toarray())
    expected = sparsity(asked, documents)["multiplications"]
    assert systems.products_per_pair(index, queries) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("entry", "message"),
    [("infonce @ cross:FOLDER", "^infonce @ cross:FOLDER: infonce compares vectors .* ranknet"),
     ("kl @ cross:FOLDER", "kl needs teacher scores, .* losses that fit: .*softmax"),
     ("ranknet + flops.documents @ cross:FOLDER", "flops weighs the activations"),
     ("kl @ FOLDER", "^kl @ FOLDER: kl needs teacher scores.* losses that fit: .*infonce"),
     ("flops.documents", "flops ranks nothing; .* such as 'infonce"),
     ("infonce @ splade:FOLDER", "comes without a language-model head"),
     ("infonce + @ FOLDER", "is no loss; expected an expression"),
     ("infonse @ FOLDER", "did you mean infonce"),
     ("infonce @ ./nowhere", "no model './nowhere'")],
)  # fmt: skip
def test_entries_that_cannot_be_trained_are_refused(entry, message, transformer_folder, tmp_path):
    place = str(transformer_folder)
    recipe = replace(RECIPE, losses=("infonce", entry.replace("FOLDER", place)))
    with pytest.raises(ValueError, match=message.replace("FOLDER", re.escape(place))):
        Comparison(recipe, tmp_path / "run", collection=make_collection())
    assert not (tmp_path / "run").exists()


def test_what_diverges_ranks_nothing_and_the_rest_goes_on(tmp_path):
    recipe = replace(RECIPE, losses=("infonce",), rates=(1e38, 0.003), seeds=1)
    comparison = Comparison(recipe, tmp_path / "run", collection=make_collection())
    run_comparison(comparison)
    assert choose(comparison)["infonce"].rate == 0.003
