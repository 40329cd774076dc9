"""Run the jobs of a test module in several processes at once, as `torchrun` would.

A module has `JOBS: dict[str, Callable[[], Any]]`. Every process runs all of them in order; a job
that fails is reported under its name, and the others go on.
"""

import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

HERE = Path(__file__).resolve().parent
PATIENCE = timedelta(seconds=20)  # With a process that does not take part in an exchange.


def wait_for(paths: list[Path], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not all(p.exists() for p in paths):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def join(folder: Path, attempt: int, rank: int, world: int) -> None:
    """A new group, once everybody is there; files, because a free port may be taken by then."""
    here = [folder / f"ready{attempt}-{r}" for r in range(world)]
    here[rank].touch()
    assert wait_for(here, 200), "the others did not come"
    address = (folder / f"meet{attempt}").resolve().as_uri()
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=world, timeout=PATIENCE
    )
    dist.barrier()  # connected from here on: who leaves is noticed at once


def attempted(job) -> tuple[str, object]:
    """What a job returned, or how it failed here; no reference to the group survives."""
    try:
        return "ok", job()
    except Exception:
        return "error", f"process {dist.get_rank()}: {traceback.format_exc(-3)}"


def work(module: str, folder: Path, rank: int, world: int) -> None:
    """All jobs in this process; a failure anywhere ends the job, and the group, everywhere."""
    torch.set_num_threads(1)
    jobs, results, attempt = importlib.import_module(module).JOBS, {}, 0
    join(folder, attempt, rank, world)
    for name, job in jobs.items():
        results[name] = attempted(job)
        if results[name][0] == "error" or attempted(dist.barrier)[0] == "error":
            attempt += 1
            gc.collect()
            dist.destroy_process_group()
            join(folder, attempt, rank, world)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


def run(module: str, folder: Path, world: int = 2, seconds: float = 240) -> list[dict]:
    """What the jobs of a module returned: for each process, name → ("ok" or "error", value)."""
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started, logs = [], []
    for rank in range(world):
        arguments = json.dumps([module, str(folder), rank, world])
        logs.append(folder / f"log{rank}")
        with logs[-1].open("w") as log:
            command = [sys.executable, __file__, arguments]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    end = time.monotonic() + seconds
    try:
        for process in started:
            process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = "\n".join(f"process {i}:\n{log.read_text()[-2000:]}" for i, log in enumerate(logs))
    assert not any(p.returncode for p in started), f"not finished within {seconds} s\n{said}"
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


def run_once(module: str, tmp_path_factory, world: int = 2) -> list[dict]:
    """The same, once for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    folder = folder / f"{module}-{world}"
    try:
        folder.mkdir()
    except FileExistsError:  # another worker is at it
        assert wait_for([folder / "done"], 300), f"no results of {module} by another worker"
        return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(world)]
    try:
        return run(module, folder, world)
    finally:
        (folder / "done").touch()


if __name__ == "__main__":
    module, folder, rank, world = json.loads(sys.argv[1])
    work(module, Path(folder), rank, world)
