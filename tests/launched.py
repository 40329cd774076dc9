"""What test_trainer.py starts with torchrun and with accelerate: a few steps in each process."""

import gc
import os
import sys
from pathlib import Path

import torch
from small_models import WordEncoder
from tiny import make_collection

from rankbench.data.examples import Example, Examples
from rankbench.losses.combining import select, weighted_sum
from rankbench.scaling.schedules import Schedule
from rankbench.training.trainer import RankArguments, RankTrainer

TINY = make_collection()
TEXTS = [*(d.full for d in TINY.documents.values()), *TINY.queries.values()]
WHOLE = 8  # Examples of a step, in all processes.


def examples() -> Examples:
    """Pairs, each with a hard negative; some documents are relevant to several queries."""
    found = []
    for i in range(24):
        query, own, other = f"q{i % 6}-{2 + i // 6}", f"d{i % 6}-{i // 6}", f"d{6 + i % 6}-1"
        texts = tuple(TINY.documents[d].full for d in (own, other))
        known = frozenset(f"d{i % 6}-{k}" for k in range(2))
        found.append(Example(TINY.queries[query], texts, None, query, (own, other), known))
    return Examples(found)


def both():
    return weighted_sum({"rank": (1.0, "infonce"),
                         "flops": (Schedule(0.5, delay=1), select("flops", 1))})  # fmt: skip


# Name → loss, settings.
JOBS = {
    "gathered": (both, {"gather": True}),
    "cached": (both, {"gather": True, "grad_cache": 3}),
    "accumulated": (both, {"gather": True, "grad_cache": 3, "gradient_accumulation_steps": 2}),
    "lists": (lambda: "ranknet", {"gather": True}),
    "alone": (lambda: "infonce", {}),
}


def steps(name: str, folder: Path, world: int) -> dict:
    """Three steps of a job: the weights, and the log."""
    make_loss, settings = JOBS[name]
    torch.manual_seed(len(name))
    model = WordEncoder(TEXTS).double()
    arguments = RankArguments(
        str(folder / f"{name}-{world}"), max_steps=3, per_device_train_batch_size=WHOLE // world,
        learning_rate=0.05, optim="sgd", seed=1, use_cpu=True, logging_steps=3, save_steps=3,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    counted = lambda model: {"size": model.vectors.weight.detach().norm().item()}  # noqa: E731
    trainer = RankTrainer(model, arguments, examples(), make_loss(), evaluate=counted)
    trainer.train()
    found = trainer.evaluate()
    return {"weights": model.state_dict(), "log": trainer.state.log_history, "dev": found}


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    world = int(os.environ["WORLD_SIZE"])
    for name in names:
        found = steps(name, Path(folder), world)
        torch.save(found, Path(folder) / f"{name}-{os.environ['RANK']}.pt")
    torch.distributed.barrier()
    gc.collect()  # Trainers are cycles; the threads of a group that is still held outlive Python.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
