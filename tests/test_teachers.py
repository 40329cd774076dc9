"""Teachers of a comparison, and what is learned from them; pairs that are trained on otherwise."""

import threading
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from tiny import make_collection

from rankbench.core import UnknownName
from rankbench.data.collections import Collection
from rankbench.data.formats import read_run
from rankbench.models.cross_encoder import CrossEncoder
from rankbench.recipes import Recipe, teacher_of
from rankbench.training import comparing, systems
from rankbench.training.comparing import Comparison, OutputError, run_comparison, seed_values
from rankbench.training.evaluation import evaluate
from rankbench.training.systems import RetrievalTask
from rankbench.training.tasks import Unit

pytestmark = pytest.mark.usefixtures("blank_pictures")

SCORES = {"kind": "run", "run": "teacher", "depth": 12, "sample_size": 6, "strategy": "random"}
STUDENTS = {
    "kl": {"data": SCORES},
    "ranknet": {"data": {**SCORES, "targets": "rank"}},
    "hard lists": {"loss": "softmax", "data": {**SCORES, "strategy": "single_relevant",
                                               "targets": "relevance"}},
    "filled lists": {"loss": "softmax", "data": {"kind": "lists", "run": "teacher", "size": 9}},
    "mined": {"loss": "infonce", "data": {"kind": "triples", "run": "teacher",
                                          "num_negatives": 2}},
    "pairs": {"loss": "infonce", "data": {"kind": "pairs", "run": "teacher", "negatives": 1}},
}  # fmt: skip
TEACHER = {"model": "static", "steps": 6, "batch_size": 16, "rate": 0.03, "depth": 12}
TRAINED = ("kl", "filled lists", "mined")  # One of each kind of data.
RECIPE = Recipe(TRAINED, "tiny", variants={name: STUDENTS[name] for name in TRAINED},
                teacher=TEACHER, also=("other",), steps=3, batch_size=8, rates=(0.01,), seeds=1,
                evaluations=1)  # fmt: skip
KL = replace(RECIPE, losses=("kl",), variants={"kl": STUDENTS["kl"]}, also=())


def other() -> Collection:
    """Another small collection, with no split but its own."""
    found = make_collection(topics=5)
    return Collection("other", found.documents, found.queries, {"all": found.judgments["test"]})


def make(recipe: Recipe, folder, resume: bool = False) -> Comparison:
    return Comparison(recipe, folder, resume, collection=make_collection())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(systems, "load_collection", lambda name, _: other())
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        patch.setattr(comparing, "report", lambda *_: "")
        comparison = make(RECIPE, tmp_path_factory.mktemp("teachers") / "run")
        yield comparison, run_comparison(comparison)


@pytest.fixture
def no_training(monkeypatch):
    """Nobody may train a teacher."""
    monkeypatch.setattr(systems, "_train_teacher", lambda *_: pytest.fail("trained a teacher"))


# The teacher


def test_the_teacher_has_a_row_beside_its_students(finished):
    rows = {row["system"]: row for row in finished[1]["systems"]}
    assert list(rows) == [*TRAINED, "bm25", "teacher", "untrained"]
    teacher = rows["teacher"]
    assert teacher["p"] is not None and teacher["rate"] is None and teacher["seeds"] == 1
    assert teacher["costs"]["index MiB"] == rows["kl"]["costs"]["index MiB"]
    assert all(row["nDCG@10"] != teacher["nDCG@10"] for row in rows.values() if row != teacher)


def test_the_teacher_is_trained_as_by_hand(finished):
    comparison, record = finished
    hand = Recipe(("infonce",), steps=6, batch_size=16, evaluations=1)
    task = RetrievalTask(hand, make_collection())
    model = task.model("static", seed=0)
    systems._train_pairs(task, model, Unit("tune", "infonce", 0.03, 0.05), None)
    run = task.ground.pairs("static", model).rank(model, "train", 12)
    kept = read_run(comparison.folder / "shared" / "train.run.gz")
    assert kept == run and {len(found) for found in kept.values()} == {12}
    found = systems.answers(task.ground, model, "static", "test")[0]
    values = evaluate(found, task.data.split("test"), ["nDCG@10"])["nDCG@10"]
    assert seed_values(comparison)["teacher"]["nDCG@10"] == [pytest.approx(values)]


def test_bm25_teaches_without_training_and_without_a_row(tmp_path, no_training):
    recipe = replace(KL, teacher={"model": "bm25", "depth": 12})
    comparison = make(recipe, tmp_path / "run")
    record = run_comparison(comparison)
    assert [row["system"] for row in record["systems"]] == ["kl", "bm25", "untrained"]
    kept = read_run(tmp_path / "run" / "shared" / "train.run.gz")
    found = comparison.task.ground.candidates("train", 12)
    assert kept == {query: run for query, run in found.items() if run}
    assert not (tmp_path / "run" / "shared" / "model").exists()


def test_a_reranker_orders_what_bm25_finds_for_its_students(transformer_folder, tmp_path):
    teacher = {"model": f"cross:{transformer_folder}", "loss": "softmax", "steps": 2,
               "batch_size": 16, "rate": 1e-3, "temperature": 1.0, "depth": 12}  # fmt: skip
    comparison = make(replace(KL, teacher=teacher, max_length=24), tmp_path / "run")
    task = comparison.task
    task.prepare()
    kept, first = read_run(task._taught(None)), task.ground.candidates("train", 12)
    assert {q: set(run) for q, run in kept.items()} == {q: set(run) for q, run in first.items()}
    assert any(sorted(kept[q], key=kept[q].get) != sorted(first[q], key=first[q].get) for q in kept)
    model = task._teacher()
    assert isinstance(model, CrossEncoder) and model.reader.max_length == 24
    again = systems._teach(task.ground, model, teacher_of(task.recipe))
    assert all(again[q] == pytest.approx(kept[q]) for q in kept)
    assert task.carry_out(Unit("baseline", "teacher")).costs["products per pair"] > 0


def test_a_teacher_of_no_steps_is_what_it_is(transformer_folder, tmp_path):
    teacher = {"model": str(transformer_folder), "steps": 0, "depth": 12}
    task = make(replace(KL, teacher=teacher), tmp_path / "run").task
    kept, model = read_run(task._taught(None)), task.model(str(transformer_folder), 0)
    run = systems._teach(task.ground, model, teacher_of(task.recipe))
    assert all(run[q] == pytest.approx(kept[q]) for q in kept)


def test_a_teacher_that_diverges_stops_the_comparison(tmp_path):
    comparison = make(replace(KL, teacher={**TEACHER, "rate": 1e38}), tmp_path / "run")
    with pytest.raises(ValueError, match="the teacher diverged at rate 1e[+]38; lower its rate"):
        run_comparison(comparison)
    assert not list((tmp_path / "run").glob("shared/*"))


def test_a_ranking_has_to_be_kept_somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="set `folder` of the task"):
        RetrievalTask(KL, make_collection()).prepare()
    assert not list(tmp_path.iterdir())


# Once and for all


def test_resuming_trains_no_second_teacher(finished, no_training):
    comparison, record = finished
    kept = comparison.folder / "shared" / "train.run.gz"
    unit = Unit("final", "kl", 0.01, 0.05, 1)
    before, stamp = comparison.result(unit), kept.stat().st_mtime_ns
    comparison.path(unit).unlink()
    again = make(RECIPE, comparison.folder, resume=True)
    rows = run_comparison(again)["systems"]
    assert [r["nDCG@10"] for r in rows] == [r["nDCG@10"] for r in record["systems"]]
    assert again.result(unit)["losses"] == before["losses"]
    assert kept.stat().st_mtime_ns == stamp


def test_another_teacher_does_not_resume(finished):
    with pytest.raises(OutputError, match="made with another teacher"):
        make(replace(RECIPE, teacher={**TEACHER, "steps": 7}), finished[0].folder, resume=True)


def test_an_interrupted_teacher_is_trained_again(tmp_path, monkeypatch):
    comparison = make(KL, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(systems, "write_run", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            comparison.task.prepare()
    again = make(KL, tmp_path / "run", resume=True)
    again.task.prepare()
    assert (tmp_path / "run" / "shared" / "train.run.gz").is_file()


def test_a_worker_learns_from_the_same_ranking(finished, no_training, monkeypatch):
    comparison, _ = finished
    monkeypatch.setattr(comparing, "_worker", [])
    threads = torch.get_num_threads()
    stop = threading.Event()
    comparing._begin(RECIPE, comparison.folder, make_collection(), threads, None, stop)
    for unit in (Unit("final", "mined", 0.01, 0.05, 1), Unit("baseline", "teacher")):
        before = comparison.result(unit)["values"]
        comparison.path(unit).unlink()
        assert comparing._work(unit) == unit
        assert comparing._worker[0].result(unit)["values"] == before


# What students see


@pytest.mark.parametrize("entry", STUDENTS)
def test_students_see_what_the_teacher_ranked(finished, entry):
    task = finished[0].task
    kept, judged = read_run(task._taught(None)), task.data.split("train")
    found = task.examples(STUDENTS[entry]["data"], seed=1)
    assert len(found)
    for i in range(0, len(found), 7):
        example = found[i]
        run, grades = kept[example.query_id], judged[example.query_id]
        label = dict(zip(example.document_ids, example.labels or (), strict=False))
        known = {d for d in label if d in run}
        if entry == "kl":
            assert label == {d: pytest.approx(run[d]) for d in known} and len(label) == 6
        elif entry == "ranknet":
            assert sorted(label, key=label.get) == sorted(label, key=run.get) and len(label) == 6
        elif entry in ("hard lists", "filled lists"):
            assert all(y == grades.get(d, 0) for d, y in label.items()) and max(label.values()) > 0
            assert len(known | {d for d in label if grades.get(d)}) == len(label)
        else:
            first, *others = example.document_ids
            assert grades[first] == 2 and others
            assert all(d in run and d not in grades for d in others)


def test_students_of_one_seed_see_the_same_and_of_another_do_not(finished):
    task = finished[0].task
    a, b, c = (task.examples(SCORES, seed)[0].document_ids for seed in (1, 1, 2))
    assert a == b != c


def test_rows_of_a_file_need_no_seed(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": "b", "negative": "c"}\n' * 4)
    data = {"kind": "rows", "path": str(tmp_path / "rows.jsonl")}
    recipe = replace(KL, losses=("infonce",), variants={"infonce": {"data": data}}, teacher={})
    assert len(RetrievalTask(recipe, make_collection()).examples(data, seed=1)) == 4


# Other collections, masks, pieces


def test_everybody_searches_the_other_collection(finished):
    comparison, record = finished
    assert all(0 <= r["also"]["other"]["nDCG@10"] <= 1 for r in record["systems"])
    values = seed_values(comparison, "other")
    assert list(values) == [row["system"] for row in record["systems"]]
    ground, judged = comparison.task.others["other"], other().judgments["all"]
    found = systems.answers(ground, comparison.task._teacher(), "teacher", "all")[0]
    assert values["teacher"]["nDCG@10"] == [evaluate(found, judged, ["nDCG@10"])["nDCG@10"]]


def losses_of(entry: str, **variant) -> list[float]:
    """The loss of each step of an entry that differs from the recipe."""
    recipe = replace(KL, losses=(entry,), variants={entry: variant} if variant else {}, teacher={},
                     batch_size=24)  # fmt: skip
    task = RetrievalTask(recipe, make_collection())
    return task.carry_out(Unit("tune", entry, 0.01, 0.05)).curve.losses


def test_without_masks_known_answers_are_negatives():
    masked, unmasked = losses_of("infonce"), losses_of("infonce", masking=False)
    assert all(a < b for a, b in zip(masked, unmasked, strict=True))


@pytest.mark.parametrize("data", [None, {"kind": "lists", "size": 5}])
def test_pieces_change_nothing_but_rounding(data):
    own = {"data": data} if data else {}
    assert losses_of("infonce", mini_batch=7, **own) == pytest.approx(losses_of("infonce", **own))


# Said before anything is trained


def changed(entry: str = "kl", **variant) -> Recipe:
    """The recipe with one entry that differs."""
    return replace(KL, losses=(entry,), variants={entry: variant})


def data(**settings) -> dict:
    return {"data": {**SCORES, **settings}}


WRONG = {
    "kl needs scores": (changed(**data(targets="rank")), "kl needs scores of a teacher"),
    "relevance of a run": (changed("softmax", **data(targets="binary")), "target of a run"),
    "scores of lists": (changed(data={"kind": "lists", "targets": "score"}), "target of a list"),
    "strategy": (changed(**data(strategy="randm")), "did you mean random"),
    "sample": (changed(**data(sample_size=13)), "kl: sample_size is 13 but depth cuts"),
    "depth": (changed(**data(depth=13)), "kl: depth is 13, and the teacher ranks 12"),
    "kind": (changed(data={"kind": "runs"}), "did you mean run"),
    "masking": (changed(**data(), masking=False), "kl: masking is for pairs"),
    "name": (changed("teacher", loss="kl", **data()), "'teacher' is a baseline"),
    "teacher's loss": (replace(KL, teacher={**TEACHER, "loss": "kl"}), "teacher: kl needs"),
    "teacher's model": (replace(KL, teacher={"model": "./no", "steps": 0}), "no model './no'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_learned_is_refused(name, tmp_path, no_training):
    recipe, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_reranker_cannot_do_is_refused(transformer_folder, tmp_path):
    model = f"cross:{transformer_folder}"
    with pytest.raises(ValueError, match="kl: a reranker scores a query's own list"):
        make(changed(**data(), model=model, mini_batch=4), tmp_path / "run")
    recipe = replace(KL, teacher={**TEACHER, "model": model})
    with pytest.raises(ValueError, match="teacher: infonce compares vectors"):
        make(recipe, tmp_path / "run")


def test_a_collection_without_a_test_split_is_refused(tmp_path):
    found = make_collection()
    judged = {split: found.judgments[split] for split in ("train", "dev")}
    with pytest.raises(UnknownName, match="test"):
        Comparison(KL, tmp_path / "run", collection=replace(found, judgments=judged))
