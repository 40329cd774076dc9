"""What test_gradient_caching.py runs in two processes: steps with DistributedDataParallel.

Kept apart so that a process imports no more than it needs.
"""

import datetime
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel as DDP

from rankbench.losses import bidirectional_infonce_loss, infonce_loss
from rankbench.scaling import GradCache

SIZES = (5, 9)  # Items of each process: two pieces of at most four, and three.
PIECE = 4


class Tower(torch.nn.Module):
    """A small encoder; with a learned temperature if asked for."""

    def __init__(self, seed: int, learned: bool = False):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
        ).double()
        self.log_t = torch.nn.Parameter(torch.tensor(-1.0).double()) if learned else None

    def forward(self, x):
        out = self.layers(x)
        return out if self.log_t is None else {"vectors": out, "temperature": self.log_t.exp()}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(SIZES), 6)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def learned_loss(queries, documents, gather):
    temperature = queries["temperature"]
    return infonce_loss(
        queries["vectors"], documents["vectors"], temperature=temperature, gather=gather
    )


def parts_loss(queries, documents, gather):
    left = infonce_loss(queries, documents, gather=gather)
    return {"left": left, "right": 0.5 * infonce_loss(documents, queries, gather=gather)}


# Name → loss, towers: one for both sides, or one for each.
STEPS = {
    "shared": (infonce_loss, [Tower(1)]),
    "separate": (infonce_loss, [Tower(1), Tower(2)]),
    "learned": (learned_loss, [Tower(1, learned=True)]),
    "parts": (parts_loss, [Tower(1)]),
    "tiles": (partial(infonce_loss, chunk_size=2), [Tower(1)]),
    "bidirectional": (bidirectional_infonce_loss, [Tower(1)]),
}


def gradients(towers) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for tower in towers for p in tower.parameters()])


def total(value):
    return value["loss"] if isinstance(value, dict) else value


def whole(name: str) -> torch.Tensor:
    """The gradient that one process finds on all items at once."""
    loss, towers = STEPS[name]
    for tower in towers:
        tower.zero_grad()
    value = loss(*(towers[k % len(towers)](x) for k, x in enumerate(data())), gather=False)
    (sum(value.values()) if isinstance(value, dict) else value).backward()
    return gradients(towers)


def wrapped(towers) -> tuple[list[DDP], list[int]]:
    """The towers as data parallel modules, and a list that grows with every reduction."""
    modules, log = [DDP(tower) for tower in towers], []

    def reduce(which, bucket):
        log.append(which)
        return allreduce_hook(None, bucket)

    for which, module in enumerate(modules):
        module.register_comm_hook(which, reduce)
        module.zero_grad()
    return modules, log


def steps(rank: int) -> dict:
    """What each step finds in this process: its gradient, and which modules were reduced."""
    found = {}
    own = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    mine = [x[own] for x in data()]
    for name, (loss, towers) in STEPS.items():
        modules, log = wrapped(towers)
        encoders = modules[0] if len(modules) == 1 else modules
        cache = GradCache(partial(loss, gather=True), encoders, max_items=PIECE)
        for module in modules:
            module.zero_grad()
        total(cache(*mine)).backward()
        found[name] = gradients(towers), sorted(log)
        if name == "shared":
            total(cache(*mine)).backward()
            found["twice"] = gradients(towers), sorted(log)
    found["closure"] = closure(mine)
    found["accumulated"] = accumulated(mine)
    found["inside"] = inside(mine)
    return found


def closure(mine):
    """The data parallel module is hidden in a function, and runs in evaluation as well."""
    (module,), log = wrapped(STEPS["shared"][1])
    encode = lambda x: module(x) * 1.0  # noqa: E731
    cache = GradCache(partial(infonce_loss, gather=True), encode, max_items=PIECE)
    with torch.no_grad():
        cache(*mine)
    assert module.require_backward_grad_sync and not log
    cache(*mine).backward()
    assert module.require_backward_grad_sync
    return gradients([module]), log


def accumulated(mine):
    """Two steps, the first without a reduction because its caller says so."""
    (module,), log = wrapped(STEPS["shared"][1])
    cache = GradCache(partial(infonce_loss, gather=True), module, max_items=PIECE)
    with module.no_sync():
        cache(*mine).backward()
    before = list(log)
    cache(*mine).backward()
    return gradients([module]), [before, log]


def inside(mine):
    """A cache within a data parallel module."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = Tower(1)

        def forward(self, *inputs):
            return GradCache(infonce_loss, self.tower, max_items=PIECE)(*inputs)

    try:
        DDP(Model())(*mine)
    except ValueError as error:
        return str(error)


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=limit)
    torch.save(steps(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
