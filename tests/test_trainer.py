"""The trainer: steps, logs, checkpoints, several processes."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import launched
import pytest
import torch
from small_models import WordEncoder, WordReranker
from tiny import make_collection
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from rankbench.data.examples import Example, Examples, TrainingSet
from rankbench.losses import infonce_loss
from rankbench.losses.combining import select, weighted_sum
from rankbench.models.loading import load_model
from rankbench.models.static_encoder import StaticEncoder
from rankbench.scaling.schedules import Schedule
from rankbench.training.trainer import DevSet, RankArguments, RankTrainer, Shuffled

TINY = make_collection()
TEXTS = [*(d.full for d in TINY.documents.values()), *TINY.queries.values()]


def pairs(count=20):
    names = list(TINY.split("train"))[:count]
    return [Example(TINY.queries[q], (TINY.documents[f"d{q[1:]}"].full,), None, q, (f"d{q[1:]}",),
                    frozenset(TINY.split("train")[q])) for q in names]  # fmt: skip


def lists(count=12):
    names = list(TINY.split("train"))[:count]
    found = []
    for i, q in enumerate(names):
        documents = (f"d{q[1:]}", f"d{(i + 5) % 12}-0", f"d{(i + 7) % 12}-1")
        texts = tuple(TINY.documents[d].full for d in documents)
        found.append(Example(TINY.queries[q], texts, (2.0, 0.0, 0.0), q, documents))
    return Examples(found, "relevance")


def arguments(folder, **settings):
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.05, "seed": 3,
             "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}  # fmt: skip
    return RankArguments(str(folder), **{**given, **settings})


def weights(model):
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


# Steps ------------------------------------------------------------------------------------------


def test_a_step_is_that_of_the_loss_by_hand(tmp_path):
    model, twin = WordEncoder(TEXTS), WordEncoder(TEXTS)
    settings = arguments(tmp_path, max_steps=1, optim="sgd", max_grad_norm=0.0)
    RankTrainer(model, settings, Examples(pairs()), "infonce", batches=[[0, 4, 8, 12]]).train()
    chosen = [pairs()[i] for i in (0, 4, 8, 12)]  # of four topics
    ids = [
        twin.tokenize([e.query for e in chosen]),
        twin.tokenize([e.documents[0] for e in chosen]),
    ]
    infonce_loss(*(twin(**twin.batch(i)) for i in ids)).backward()
    expected = twin.vectors.weight - 0.05 * twin.vectors.weight.grad
    torch.testing.assert_close(model.vectors.weight, expected)


def test_a_reranker_learns_from_lists(tmp_path):
    model = WordReranker(TEXTS)
    before = DevSet(TINY, depth=20)(model)
    settings = arguments(tmp_path, max_steps=30, per_device_train_batch_size=12)
    trainer = RankTrainer(model, settings, lists(), "softmax", evaluate=DevSet(TINY, depth=20))
    trainer.train()
    assert trainer.evaluate()["eval_nDCG@10"] > before["nDCG@10"]


def test_targets_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="kl needs scores of a teacher"):
        RankTrainer(WordEncoder(TEXTS), arguments(tmp_path), Examples(pairs()), "kl")


def test_parts_are_logged_as_means(tmp_path):
    loss = weighted_sum({"rank": (1.0, "infonce"),
                         "flops": (Schedule(0.5, delay=3), select("flops", 1))})  # fmt: skip
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **rest):
            seen.append({n: x.item() for n, x in trainer.latest.items()})

    trainer = RankTrainer(WordEncoder(TEXTS), arguments(tmp_path, logging_steps=2),
                          Examples(pairs()), loss, callbacks=[Watch()])  # fmt: skip
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert "flops" not in first
    for name in ("rank", "loss"):
        assert first[name] == pytest.approx((seen[0][name] + seen[1][name]) / 2)
    assert second["rank"] == pytest.approx((seen[2]["rank"] + seen[3]["rank"]) / 2)
    assert second["flops"] == pytest.approx(seen[3]["flops"])  # the only step that had it


def test_schedules_go_by_optimizer_steps(tmp_path):
    weight = Schedule(1.0, warmup=4)
    loss = weighted_sum({"rank": (weight, "infonce")})
    settings = arguments(tmp_path, gradient_accumulation_steps=2, logging_steps=1, max_steps=3)
    trainer = RankTrainer(WordEncoder(TEXTS), settings, Examples(pairs()), loss)
    trainer.train()
    for step, log in enumerate(trainer.state.log_history[:3]):
        if step:
            assert log["loss"] == pytest.approx(weight(step) * log["rank"], rel=1e-5)
        else:
            assert log["loss"] == 0 and "rank" not in log


@pytest.mark.parametrize("cut", [{"grad_cache": 2}, {"max_tokens": 64}])
def test_a_gradient_cache_trains_alike(tmp_path, cut):
    found = []
    for settings in ({}, cut):
        model = WordEncoder(TEXTS)
        RankTrainer(model, arguments(tmp_path, optim="sgd", **settings), Examples(pairs()),
                    "infonce").train()  # fmt: skip
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_accumulation_does_not_enlarge_the_batch(tmp_path):
    """A batch of 4 that says nothing costs log 4, however many of them make a step."""
    model = WordEncoder(TEXTS)
    with torch.no_grad():
        model.vectors.weight.fill_(1.0)
    examples = [replace(e, relevant=frozenset()) for e in pairs()]
    for batch, accumulated, cache in ((4, 4, None), (16, 1, 4)):
        settings = arguments(tmp_path, max_steps=1, per_device_train_batch_size=batch,
                             gradient_accumulation_steps=accumulated, grad_cache=cache,
                             logging_steps=1, learning_rate=0.0)  # fmt: skip
        trainer = RankTrainer(model, settings, Examples(examples), "infonce")
        trainer.train()
        loss = trainer.state.log_history[0]["loss"]
        assert loss == pytest.approx(torch.tensor(float(batch)).log().item(), rel=1e-5)


def test_bf16_trains(tmp_path):
    model = StaticEncoder.from_texts(TEXTS, size=200, dim=16)
    before = weights(model)
    trainer = RankTrainer(model, arguments(tmp_path, bf16=True), Examples(pairs()), "infonce")
    trainer.train()
    assert trainer.latest["loss"].dtype == torch.float32
    assert model.vectors.weight.dtype == torch.float32
    assert not torch.equal(before["vectors.weight"], model.vectors.weight)


def test_a_mixture_trains_each_source_with_its_loss(tmp_path):
    mixed = [replace(e, source="pairs") for e in pairs(8)]
    mixed += [replace(e, source="lists") for e in lists(8).examples]
    batches = [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [12, 13, 14, 15]]
    losses = {"pairs": weighted_sum({"a": (1.0, "infonce")}),
              "lists": weighted_sum({"b": (1.0, "ranknet")})}  # fmt: skip
    trainer = RankTrainer(WordEncoder(TEXTS), arguments(tmp_path, logging_steps=1), mixed, losses,
                          batches=batches)  # fmt: skip
    trainer.train()
    assert [("a" in log, "b" in log) for log in trainer.state.log_history[:4]] == [
        (True, False), (False, True), (True, False), (False, True)]  # fmt: skip


def test_workers_make_the_same_batches(tmp_path):
    found = []
    for workers in (0, 2):
        model = WordEncoder(TEXTS)
        settings = arguments(tmp_path, dataloader_num_workers=workers, max_steps=7,
                             dataloader_persistent_workers=workers > 0)  # fmt: skip
        RankTrainer(model, settings, Sampled(), "infonce").train()
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


# Failures ---------------------------------------------------------------------------------------


def broken(q, d):
    return (q - d).square().mean() * torch.nan


@pytest.mark.parametrize(
    ("loss", "message"),
    [(lambda: broken, "the loss is nan at step 0"),
     (lambda: weighted_sum({"rank": (1.0, "infonce"), "bad": (1.0, broken)}),
      "'bad' is nan at step 0; rank ="),
     (lambda: weighted_sum({"rank": (1.0, "infonce"), "bad": (1.0, broken)}, check_finite=False),
      "the loss is nan at step 0: part 'bad' is nan")],
)  # fmt: skip
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, loss, message):
    with pytest.raises(FloatingPointError, match=message):
        RankTrainer(WordEncoder(TEXTS), arguments(tmp_path), Examples(pairs()), loss()).train()


def test_wrong_choices_are_said(tmp_path):
    model, examples = WordEncoder(TEXTS), Examples(pairs())
    with pytest.raises(ValueError, match="20 examples, which make no batch of 32"):
        settings = arguments(tmp_path, per_device_train_batch_size=32, dataloader_drop_last=True)
        RankTrainer(model, settings, examples, "infonce").train()
    with pytest.raises(ValueError, match="batches is 7, which has no __iter__"):
        RankTrainer(model, arguments(tmp_path), examples, "infonce", batches=7).train()
    with pytest.raises(ValueError, match="is no checkpoint of a RankTrainer"):
        RankTrainer(model, arguments(tmp_path), examples, "infonce").train(tmp_path)
    settings = arguments(tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model="RR")
    with pytest.raises(ValueError, match="metric_for_best_model is 'RR'; the evaluation found x."):
        RankTrainer(model, settings, examples, "infonce", evaluate=lambda m: {"x": 1.0}).train()


# Checkpoints ------------------------------------------------------------------------------------


class Sampled(TrainingSet):
    """Draws another document in each epoch."""

    def __len__(self):
        return 18

    def __getitem__(self, index):
        one = pairs()[index]
        document = TINY.documents[f"d{one.query_id[1:-1]}{(index + self.epoch) % 6}"].full
        return replace(one, documents=(document,), document_ids=())


class Backwards(Shuffled):
    """A sampler of somebody else's."""

    def __iter__(self):
        return reversed(list(super().__iter__()))


def run(folder, resume=None, steps=6, accumulated=2, **settings):
    """A run with dropout, epochs, accumulation, and a batch sampler of its own."""
    torch.manual_seed(len(str(folder)) + (resume is not None))  # whatever happened before
    model = WordEncoder(TEXTS, dropout=0.3, seed=resume is not None)
    loss = weighted_sum({"rank": (1.0, "infonce"), "flops": (Schedule(0.1, warmup=6), "flops")})
    settings = arguments(folder, max_steps=steps, save_strategy="steps", save_steps=1,
                         logging_steps=2, eval_strategy="steps", eval_steps=2,
                         gradient_accumulation_steps=accumulated, **settings)  # fmt: skip
    trainer = RankTrainer(model, settings, Sampled(), loss, evaluate=lambda m: {"x": 1.0},
                          batches=Backwards(18, 4, seed=5))  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def numbers(trainer):
    """What was logged, but for times."""
    logs = [log for log in trainer.state.log_history if "train_loss" not in log]
    return [{n: x for n, x in log.items() if "runtime" not in n} for log in logs]


@pytest.mark.parametrize("step", [1, 3, 4])  # epochs have three steps
def test_a_resumed_run_is_the_same_to_the_bit(straight, tmp_path, step):
    folder, whole = straight
    rest = run(tmp_path, folder / f"checkpoint-{step}")
    assert rest.state.global_step == 6
    torch.testing.assert_close(weights(rest.model), weights(whole.model), rtol=0, atol=0)
    if step % 2 == 0:  # the mean of a log that spans the stop has one step only
        assert numbers(rest) == numbers(whole)


def test_a_checkpoint_opens_as_a_model(tmp_path):
    model = StaticEncoder.from_texts(TEXTS, size=200, dim=16)
    RankTrainer(model, arguments(tmp_path, save_strategy="steps", save_steps=2), Examples(pairs()),
                "infonce").train()  # fmt: skip
    reopened = load_model(tmp_path / "checkpoint-4")
    assert torch.equal(reopened.encode(TEXTS[:3]), model.encode(TEXTS[:3]))
    assert (tmp_path / "checkpoint-2").is_dir() and not (tmp_path / ".saving").exists()
    settings = json.loads((tmp_path / "checkpoint-4" / "training_arguments.json").read_text())
    assert settings["learning_rate"] == 0.05


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("where", ["model", "optimizer", "move"])
def test_an_interrupted_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch, where):
    model = StaticEncoder.from_texts(TEXTS, size=200, dim=16)
    settings = arguments(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=1)
    trainer = RankTrainer(model, settings, Examples(pairs()), "infonce")
    before = {}

    def fail(*args, **rest):
        if trainer.state.global_step == 4:
            before.update(contents(tmp_path / "checkpoint-2"))
            raise OSError("no space left on device")
        return kept(*args, **rest)

    of_trainer = "_save_optimizer_and_scheduler"
    target, name = {"model": (model, "save"), "optimizer": (trainer, of_trainer),
                    "move": (Path, "rename")}[where]  # fmt: skip
    kept = getattr(target, name)
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    monkeypatch.undo()
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert before == contents(tmp_path / "checkpoint-2")
    again = RankTrainer(model, settings, Examples(pairs()), "infonce")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4


def test_the_best_checkpoint_is_loaded_and_stopping_is_early(tmp_path):
    model, measured = WordEncoder(TEXTS), []
    values = [0.1, 0.5, 0.3, 0.2, 0.4, 0.6]

    def evaluation(model):
        torch.rand(3)  # must not move the run
        measured.append(weights(model))
        return {"nDCG@10": values[len(measured) - 1]}

    settings = arguments(tmp_path, max_steps=6, save_strategy="steps", save_steps=1,
                         eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
                         metric_for_best_model="nDCG@10", save_total_limit=1)  # fmt: skip
    trainer = RankTrainer(model, settings, Examples(pairs()), "infonce", evaluate=evaluation,
                          callbacks=[EarlyStoppingCallback(2)])  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_metric == 0.5
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    torch.testing.assert_close(weights(model), measured[1], rtol=0, atol=0)
    plain = WordEncoder(TEXTS)
    RankTrainer(plain, arguments(tmp_path / "b", max_steps=6), Examples(pairs()), "infonce",
                callbacks=[StopAfter(2)]).train()  # fmt: skip
    torch.testing.assert_close(weights(plain), measured[1], rtol=0, atol=0)


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **rest):
        control.should_training_stop = state.global_step == self.step


def test_other_sets_are_measured_after_training(tmp_path):
    settings = arguments(tmp_path, max_steps=1)
    trainer = RankTrainer(WordEncoder(TEXTS), settings, Examples(pairs()), "infonce", evaluate=TINY)
    trainer.train()
    dev = trainer.evaluate()["eval_nDCG@10"]
    assert trainer.evaluate(metric_key_prefix="test")["test_nDCG@10"] == dev
    assert trainer.evaluate(TINY)["eval_nDCG@10"] == dev
    assert "eval_RR@10" in trainer.evaluate(DevSet(TINY, ["RR@10"]))
    bare = RankTrainer(WordEncoder(TEXTS), settings, Examples(pairs()), "infonce")
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        bare.evaluate()


def test_a_collection_is_measured_on_its_dev_queries(tmp_path):
    model = StaticEncoder.from_texts(TEXTS, size=200, dim=16)
    settings = arguments(tmp_path, max_steps=20, save_strategy="steps", save_steps=10,
                         eval_strategy="steps", eval_steps=10,
                         load_best_model_at_end=True)  # fmt: skip
    trainer = RankTrainer(model, settings, Examples(pairs(48)), "infonce", evaluate=TINY)
    trainer.train()
    logged = [log["eval_nDCG@10"] for log in trainer.state.log_history if "eval_nDCG@10" in log]
    assert len(logged) == 2 and trainer.state.best_metric == max(logged)
    assert trainer.evaluate()["eval_nDCG@10"] == max(logged)


@pytest.mark.parametrize("how", ["signal", "exception"])
def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path, how):
    class Interrupt(TrainerCallback):
        def on_substep_end(self, args, state, control, **rest):
            if how == "signal" and state.global_step == 1:
                os.kill(os.getpid(), signal.SIGINT)  # in the middle of the second step

        def on_step_end(self, args, state, control, **rest):
            if how == "exception" and state.global_step == 2:
                raise KeyboardInterrupt

    def make(folder, callbacks):
        model = WordEncoder(TEXTS, dropout=0.3)
        settings = arguments(folder, save_strategy="steps", gradient_accumulation_steps=2)
        return RankTrainer(model, settings, Examples(pairs()), "infonce", callbacks=callbacks)

    before = signal.getsignal(signal.SIGINT)
    trainer = make(tmp_path / "a", [Interrupt()])
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2; go on with train.*-2'"):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before
    rest, whole = make(tmp_path / "a", []), make(tmp_path / "b", [])
    rest.train(resume_from_checkpoint=True)
    whole.train()
    torch.testing.assert_close(weights(rest.model), weights(whole.model), rtol=0, atol=0)


def test_plain_arguments_of_transformers_will_do(tmp_path):
    settings = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, save_strategy="no",
                                 report_to="none", disable_tqdm=True,
                                 remove_unused_columns=False)  # fmt: skip
    RankTrainer(WordEncoder(TEXTS), settings, Examples(pairs()), "infonce").train()


def test_a_progress_bar_is_for_terminals(tmp_path):
    assert RankArguments(str(tmp_path), use_cpu=True).disable_tqdm is not sys.stderr.isatty()


# Several processes ------------------------------------------------------------------------------

# Without a GPU, --multi_gpu starts as many processes all the same.
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
                 "--rdzv_endpoint", "localhost:0"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                   "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                   "--main_process_port", "0"],
}  # fmt: skip


def launch(how, folder, names):
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCHERS[how], str(here / "launched.py"), str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    launch("torchrun", folder, launched.JOBS)
    return folder


def check_equal(name, folder, tmp_path):
    here = [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]
    whole = launched.steps(name, tmp_path, 1)
    for found in here:
        torch.testing.assert_close(found["weights"], whole["weights"], rtol=1e-10, atol=1e-12)
        for log, expected in zip(found["log"][:1], whole["log"][:1], strict=True):
            assert log == pytest.approx(expected, rel=1e-6)
        assert found["dev"]["eval_size"] == pytest.approx(whole["dev"]["eval_size"])
    return here


@pytest.mark.parametrize("name", [n for n in launched.JOBS if n != "alone"])
def test_two_processes_are_one_with_the_whole_batch(by_torchrun, tmp_path, name):
    check_equal(name, by_torchrun, tmp_path)
    assert (by_torchrun / f"{name}-2" / "checkpoint-3" / "rng_state_1.pth").is_file()


def test_without_gathering_each_process_has_its_own_negatives(by_torchrun, tmp_path):
    here = [torch.load(by_torchrun / f"alone-{rank}.pt", weights_only=False) for rank in (0, 1)]
    torch.testing.assert_close(here[0]["weights"], here[1]["weights"], rtol=0, atol=0)
    whole = launched.steps("alone", tmp_path, 1)
    assert here[0]["log"][0]["loss"] < whole["log"][0]["loss"] - 0.1


def test_accelerate_launch_does_the_same(tmp_path):
    launch("accelerate", tmp_path, ["cached"])
    check_equal("cached", tmp_path, tmp_path / "one")
