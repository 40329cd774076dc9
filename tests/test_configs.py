"""A training run in one file: what it accepts, what it refuses, and that it runs."""

import json
from dataclasses import replace

import pytest
import yaml
from tiny import make_collection
from tiny_splade import make_models

from rankbench.data.batches import Mixture
from rankbench.data.collections import Collection, Document, with_training, write_beir
from rankbench.data.examples import Example, Examples
from rankbench.data.files import BadFile
from rankbench.data.formats import write_run
from rankbench.data.rows import write_rows, write_triples
from rankbench.models.loading import load_model
from rankbench.training.configs import (
    BATCHES,
    DATA,
    MORE,
    TRAINER,
    TrainConfig,
    build_losses,
    find_config,
    make_batches,
    make_run,
    print_config,
    read_config,
    run_training,
    trainer_settings,
)

TINY = with_training(make_collection(topics=6))
STATIC = ["model.size=200", "model.dim=16", "trainer.learning_rate=0.01"]
SHORT = [*STATIC, "trainer.max_steps=4", "trainer.per_device_train_batch_size=8"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A tiny masked language model."""
    return make_models(tmp_path_factory.mktemp("masked")) / "mlm"


def trained(tmp_path, *changes, path=None, resume=False):
    config = read_config(path, [*changes, f"output={tmp_path / 'out'}"])
    return config, run_training(config, resume, collection=TINY)


def test_a_run_leaves_model_log_settings_and_result(tmp_path):
    config, result = trained(tmp_path, *SHORT, "losses=infonce + 0.1*l2.documents")
    out = tmp_path / "out"
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["before"].keys() == result["after"].keys() == {"nDCG@10", "RR@10", "R@100"}
    again = read_config(out / "config.yaml")
    assert print_config(again) == print_config(config)
    assert "l2.documents" in (out / "log.csv").read_text().splitlines()[0]
    assert load_model(out / "model").encode(["a"]).shape == (1, 16)


def test_the_recipe_for_splade_runs(tmp_path, masked):
    changes = [
        f"model.name={masked}",
        "trainer.max_steps=3",
        "trainer.eval_steps=3",
        "trainer.save_steps=3",
        "trainer.logging_steps=1",
    ]
    changes += ["losses.1.weight.delay=1", "losses.1.weight.warmup=1"]
    _, result = trained(tmp_path, *changes, path=find_config("splade"))
    parts = {k for row in _log(tmp_path) for k, v in row.items() if v}
    assert {"infonce", "flops.queries"} <= parts and result["steps"] == 3
    assert load_model(tmp_path / "out" / "model").sparse


def test_the_recipe_for_distillation_runs(tmp_path, transformer_folder):
    changes = [f"model.name={transformer_folder}", "trainer.max_steps=2", "trainer.eval_steps=2",
               "trainer.save_steps=2"]  # fmt: skip
    _, result = trained(tmp_path, *changes, path=find_config("distillation"))
    assert result["steps"] == 2 and result["config"]["losses"] == "kl"


def _log(tmp_path):
    import csv

    with (tmp_path / "out" / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_reranker_is_trained_on_lists(tmp_path, transformer_folder):
    model = f"model={{kind: cross_encoder, name: {transformer_folder}}}"
    changes = [model, "losses=softmax",
               "data={kind: lists, size: 4}", "trainer.max_steps=2", "evaluate.depth=5",
               "trainer.per_device_train_batch_size=4"]  # fmt: skip
    config, result = trained(tmp_path, *changes)
    assert result["after"]["nDCG@10"] > 0


def test_several_data_sets_have_a_loss_each(tmp_path):
    write_run(make_run("bm25", TINY, "train", 8), tmp_path / "teacher.run", notes=[])
    text = f"""
    data:
      pairs: {{kind: pairs}}
      teacher: {{kind: run, run: {tmp_path / "teacher.run"}, sample_size: 4}}
    losses: {{pairs: infonce, teacher: kl}}
    model: {{kind: static, size: 200, dim: 16}}
    mix: round_robin
    trainer: {{max_steps: 4, per_device_train_batch_size: 4, learning_rate: 1e-2}}
    """
    (tmp_path / "two.yaml").write_text(text)
    config, result = trained(tmp_path, path=tmp_path / "two.yaml")
    assert config.trainer["learning_rate"] == 0.01 and result["steps"] == 4
    assert list(config.several()) == ["pairs", "teacher"]


def test_every_kind_of_data_is_built(tmp_path):
    triples = TrainConfig.data_section({"kind": "triples", "num_negatives": 1}).build(TINY)
    write_triples([triples[i] for i in range(5)], tmp_path / "t.tsv")
    write_rows([triples[i] for i in range(5)], tmp_path / "r.jsonl")
    write_triples([triples[i] for i in range(5)], tmp_path / "ids.tsv", ids=True)
    by_id = TrainConfig.data_section({"kind": "triples", "path": str(tmp_path / "ids.tsv")})
    assert [e.documents for e in by_id.build(TINY)] == [triples[i].documents for i in range(5)]
    given = {
        "pairs": {"negatives": 2}, "lists": {"size": 5, "targets": "binary"},
        "triples": {"path": str(tmp_path / "t.tsv")}, "run": {"sample_size": 3, "targets": "rank"},
        "rows": {"path": str(tmp_path / "r.jsonl")},
    }  # fmt: skip
    assert given.keys() == DATA.keys()
    for kind, settings in given.items():
        built = TrainConfig.data_section({"kind": kind, **settings}).build(TINY)
        assert len(built) and built[0].query and len(built[0].documents) > 1


def numbered(tmp_path, scores=False):
    """A collection whose ids are numbers, and triples of these ids."""
    texts = {str(i): Document("", f"text {i}") for i in range(9)}
    asked = {"100": "query 0", "101": "query 1"}
    rows = [["100", "0", "5", "6"], ["101", "1", "6", "7"]]
    scored = [[q, *([d, 1.0 / (i + 1)] for i, d in enumerate(ds))] for q, *ds in rows]
    path = tmp_path / "ids.jsonl"
    path.write_text("\n".join(map(json.dumps, scored if scores else rows)))
    return Collection("numbers", texts, asked, {"train": {"100": {"0": 1}, "101": {"1": 1}}}), path


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("count", [None, 1])
def test_triples_of_numbers_are_looked_up_and_drawn_from(tmp_path, scores, count):
    data, path = numbered(tmp_path, scores)
    settings = {"kind": "triples", "path": str(path), "num_negatives": count}
    built = TrainConfig.data_section(settings).build(data)
    assert len(built) == 2 and built[1].documents[0] == "text 1"
    shown = [int(d.removeprefix("text ")) for d in built[0].documents]
    assert len(shown) == 1 + (count or 2) and {0} < set(shown) <= {0, 5, 6}
    labels = {0: 1.0, 5: 1 / 2, 6: 1 / 3}
    assert built[0].labels == (tuple(labels[d] for d in shown) if scores else None)


def test_an_unknown_id_in_the_first_triple_is_no_text(tmp_path):
    data, path = numbered(tmp_path)
    path.write_text('["new", "0", "5"]\n' + path.read_text())
    with pytest.raises(BadFile, match="line 1: an unknown query"):
        TrainConfig.data_section({"kind": "triples", "path": str(path)}).build(data)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no triples"):
        TrainConfig.data_section({"kind": "triples", "path": str(path)}).build(data)


def test_what_mining_left_out_is_told():
    queries = {**TINY.queries, "again": TINY.queries[next(iter(TINY.split("test")))]}
    judged = TINY.split("train") | {"again": {next(iter(TINY.documents)): 1}}
    data = replace(TINY, queries=queries, judgments={**TINY.judgments, "train": judged})
    built = TrainConfig.data_section({"kind": "triples"}).build(data)
    assert built.notes == ("1 queries that are also asked in a held-out split were left out",)


def test_batches_of_several_data_sets_are_of_the_kind_asked_for():
    sets = {n: Examples([Example("same", (f"{n}{i}",)) for i in range(6)]) for n in "ab"}
    config = read_config(changes=["data={a: {}, b: {}}", "trainer.batches=no_duplicates"])
    sampler = make_batches(config)(Mixture(sets), 3, seed=0)
    assert [len(b) for b in sampler] == [1] * 12


def test_a_run_that_stopped_goes_on(tmp_path):
    every = [*SHORT, "trainer.save_steps=2", "data.negatives=1"]
    _, straight = trained(tmp_path / "straight", *every)
    trained(tmp_path, *every)
    with pytest.raises(ValueError, match="holds 2 checkpoints; add --resume"):
        trained(tmp_path, *every)
    import shutil

    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    _, resumed = trained(tmp_path, *every, resume=True)
    assert resumed["after"] == straight["after"] and resumed["before"] == straight["before"]


def test_patience_keeps_the_best(tmp_path):
    changes = [*SHORT, "trainer.patience=1", "trainer.eval_steps=1", "trainer.learning_rate=0"]
    _, result = trained(tmp_path, *changes)
    assert result["steps"] == 2 and result["best_dev"] is not None


@pytest.mark.parametrize("name", ["splade", "distillation", None])
def test_what_is_printed_is_a_file(name):
    config = read_config(name and find_config(name))
    again = TrainConfig.from_dict(yaml.safe_load(print_config(config)))
    assert print_config(again) == print_config(config)
    assert build_losses(again.losses) == build_losses(config.losses)


def test_defaults_are_settings_that_exist():
    from dataclasses import fields

    from rankbench.training.trainer import RankArguments

    assert TRAINER.keys() <= {f.name for f in fields(RankArguments)} and "batches" in MORE
    assert "random" in BATCHES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.max_step=5", "unknown setting of trainer 'max_step'; did you mean max_steps"),
        ("data.kind=tripels", "did you mean triples"),
        ("data.spilt=dev", "unknown setting of data 'spilt'; did you mean split"),
        ("model.kind=splad", "did you mean splade"),
        ("model.dims=5", "unknown setting of the static model 'dims'; did you mean dim"),
        ("model=5", "model is 5; expected a folder"),
        ("losses=infonse", "unknown loss 'infonse'"),
        ("trainer.batches=no_duplicate", "did you mean no_duplicates"),
        ("evaluate.measure=AP", "did you mean measures"),
        ("losses.0.weight=2", "infonce', which has no parts"),
        ("output", "is no setting; expected key=value"),
        ("nonsense=1", "unknown setting of the configuration"),
        ("losses=[infonce", "'losses=.infonce' is no YAML"),
        ("output=", "output is None; expected a text"),
        ("data=pairs", "data is 'pairs'; expected settings"),
        ("data.negatives=many", "data: negatives is 'many'; expected a number"),
        ("data.negatives=-1", "negatives is -1; expected at least 0"),
        ("trainer=5", "trainer is 5; expected settings"),
        ("trainer.max_steps=many", "max_steps is 'many'; expected a number"),
        ("trainer.max_steps=0", "expected at least 1, or num_train_epochs"),
        ("trainer.learning_rate=fast", "learning_rate is 'fast'; expected a number"),
        ("trainer.bf16=maybe", "bf16 is 'maybe'; expected true or false"),
        ("model={kind: transformer}", "the transformer model needs name"),
        ("losses={a: infonce}", "losses are named a, and data has one set"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(change, message, monkeypatch):
    monkeypatch.setattr("rankbench.training.configs.load_collection", pytest.fail)
    settings = ["losses=infonce", change] if change.startswith("losses.") else [change]
    with pytest.raises(ValueError, match=message):
        read_config(changes=settings)


def test_every_named_data_set_has_its_loss():
    two = "data={a: {kind: pairs}, b: {kind: run}}"
    with pytest.raises(ValueError, match="unknown data set of losses 'c'; did you mean"):
        read_config(changes=[two, "losses={a: infonce, c: kl}"])
    with pytest.raises(ValueError, match="data set 'b' has no loss; expected one for each"):
        read_config(changes=[two, "losses={a: infonce}"])


def test_patience_without_a_split_to_look_at_is_refused():
    with pytest.raises(ValueError, match="patience needs evaluations"):
        read_config(changes=["trainer.patience=1", "evaluate.dev=null"])


def test_epochs_stand_in_for_steps(tmp_path):
    short = [*STATIC, "trainer.per_device_train_batch_size=8", "trainer.num_train_epochs=2"]
    config, result = trained(tmp_path, *short, "evaluate.measures=RR@10",
                             "trainer.save_strategy=no")  # fmt: skip
    assert 0 < result["steps"] < 20 and result["after"].keys() == {"RR@10"}
    assert "max_steps: -1" in print_config(config)
    assert trainer_settings({"num_train_epochs": 2, "max_steps": 5})[0]["max_steps"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["evaluate.measures=[]"], "measures is empty"),
        (["model.dim=wide"], "the static model: "),
        (["data={kind: triples, path: EMPTY}"], "holds no triples"),
        (["data={kind: run, run: none.run}", "losses=kl"], "there is no run none.run"),
    ],
)
def test_mistakes_in_what_is_built_are_said(changes, message, tmp_path):
    (tmp_path / "empty.tsv").write_text("")
    changes = [c.replace("EMPTY", str(tmp_path / "empty.tsv")) for c in changes]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(tmp_path, *SHORT, *changes)


def test_the_usual_rate_depends_on_the_model(tmp_path):
    changes = [c for c in SHORT if "learning_rate" not in c] + ["trainer.warmup_steps=0"]
    _, result = trained(tmp_path, *changes, "trainer.logging_steps=1")
    assert result["config"]["trainer"].get("learning_rate") is None
    log = (tmp_path / "out" / "log.csv").read_text()
    assert ",0.01," in log.splitlines()[1]


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "x.yaml").write_text("model: {")
    with pytest.raises(ValueError, match="x.yaml is no YAML"):
        read_config(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="expected settings such as model"):
        read_config(tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="no file 'nothing'; give a YAML file, or"):
        find_config("nothing")


def test_a_loss_that_cannot_learn_from_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="kl needs scores of a teacher"):
        trained(tmp_path, *SHORT, "losses=kl")


def test_a_collection_in_a_folder_is_trained_on(tmp_path, capsys):
    from rankbench.cli import main

    write_beir(make_collection(topics=6), tmp_path / "mine")
    out = f"output={tmp_path / 'out'}"
    assert main(["train", *SHORT, f"collection={tmp_path / 'mine'}", out]) == 0
    assert "nDCG@10" in capsys.readouterr().out
    assert main(["train", *SHORT, f"collection={tmp_path / 'mine'}", out]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["train", "--print-config", "--config", "splade", "trainer.max_steps=7"]) == 0
    assert "max_steps: 7  #" in capsys.readouterr().out
