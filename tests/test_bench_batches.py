"""Measuring losses of a batch: like with like, bars, records, memory. No clock is trusted."""

import json
import subprocess
import sys

import pytest
import torch

from rankbench import bench_batches
from rankbench.bench import read_bench
from rankbench.bench_batches import (
    BARRED,
    BATCH_CASES,
    BatchCase,
    add_memory,
    bare_products,
    batch_step,
    batches_table,
    disagreement,
    inputs_of,
    judge_batch,
    memory_of,
    memory_table,
    our_batch_step,
    random_batch,
    run_batches,
)
from rankbench.cards import cards
from rankbench.cli import main
from rankbench.core import UnknownName
from rankbench.peers import BATCH_PEERS, installed

HERE = {card.name for card in cards()}
CASES = [pytest.param(c, id=c.name) for c in BATCH_CASES if c.loss in HERE]


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_a_gradient_for_every_input(case):
    batch = random_batch(16, 8)
    value, gradients = our_batch_step(case, batch)()
    assert value.isfinite() and len(gradients) == len(inputs_of(case, batch))
    assert all(g.any() for g in gradients)


@pytest.mark.parametrize("case", CASES)
def test_a_step_starts_afresh(case):
    step = our_batch_step(case, random_batch(16, 8))
    first, again = step(), step()
    torch.testing.assert_close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "library"),
    [pytest.param(c, n, id=f"{c.name}-{n}") for c in BATCH_CASES for n, (_, losses) in
     BATCH_PEERS.items() if c.name in losses],
)  # fmt: skip
def test_another_library_computes_the_same(case, library):
    if not installed(library) or case.loss not in HERE:
        pytest.skip(f"{library} is not installed")
    batch = random_batch(32, 8)
    theirs = batch_step(BATCH_PEERS[library][1][case.name](batch), inputs_of(case, batch))
    assert disagreement(our_batch_step(case, batch), theirs) < 1e-3


def test_every_bar_is_about_a_library_that_has_the_loss():
    for case in BATCH_CASES:
        for against in (*case.bars, *case.memory):
            assert against == "products" or case.name in BATCH_PEERS[against][1]


@pytest.mark.parametrize("case", CASES)
def test_the_bare_products_are_as_many_as_the_case_says(case):
    count = 0

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, fn, types, args=(), kwargs=None):
            nonlocal count
            count += fn.overloadpacket is torch.ops.aten.mm
            return fn(*args, **(kwargs or {}))

    step = bare_products(case, random_batch(8, 4))
    with Count():
        step()
    assert count == sum(case.products)


def test_a_wrong_value_is_not_timed(monkeypatch):
    batch, case = random_batch(16, 8), BATCH_CASES[0]
    monkeypatch.setattr(bench_batches, "paired_ratios", lambda *_: pytest.fail("timed"))
    theirs = batch_step(lambda q, d: (q * d).sum(), inputs_of(case, batch))
    row = bench_batches.measure_batch(case, batch, "other", theirs, 3, 0.1)
    assert row["error"] == "computes another value" and "ratio" not in row


# Bars -------------------------------------------------------------------------------------------

CASE = BatchCase("one", "infonce", (1, 2), bars={"lib": 0.5}, memory={"lib": 0.1})


def row(ratio, ours, theirs, size=BARRED, against="lib"):
    return {"case": "one", "batch": size[0], "dim": size[1], "against": against, "ratio": ratio,
            "bytes": [ours, theirs]}  # fmt: skip


@pytest.mark.parametrize(("ratio", "met"), [(0.5, True), (0.51, False)])
def test_a_ratio_is_held_against_its_bar(ratio, met):
    judged = judge_batch(CASE, row(ratio, 1, 100))
    assert judged["bar"] == 0.5 and judged["met"] is met


@pytest.mark.parametrize(("ours", "met"), [(10, True), (11, False)])
def test_bytes_are_held_against_their_bar(ours, met):
    assert judge_batch(CASE, row(0.1, ours, 100))["memory_met"] is met


def test_bars_are_about_one_size_and_one_library():
    assert "bar" not in judge_batch(CASE, row(0.1, 1, 100, size=(64, 8)))
    assert "bar" not in judge_batch(CASE, row(0.1, 1, 100, against="other"))


def test_the_table_shows_bars():
    text = batches_table({"rows": [
        {**judge_batch(CASE, row(0.25, 1, 100)), "low": 0.2, "high": 0.3},
        {"case": "one", "batch": 8, "dim": 2, "against": "lib", "error": "no"},
    ]})  # fmt: skip
    assert text[0]["time"] == "0.25 (0.2-0.3)" and text[0]["bar"] == "≤0.5 ✓"
    assert text[0]["memory"] == "0.01 ≤0.1 ✓" and text[1]["time"] == "–"


# Runs -------------------------------------------------------------------------------------------


def test_a_run_is_a_record(tmp_path):
    path = tmp_path / "batches.json"
    record = run_batches(["infonce"], [(32, 8)], [], rounds=3, seconds=0.01, output=path)
    assert record["complete"] and read_bench(path)["rows"] == json.loads(path.read_text())["rows"]
    assert [r["against"] for r in record["rows"]] == ["products"]


def test_an_unknown_case_is_refused():
    with pytest.raises(UnknownName) as error:
        run_batches(["infonc"])
    assert "did you mean infonce" in str(error.value)


def test_an_unknown_library_is_refused():
    with pytest.raises(UnknownName):
        run_batches(["infonce"], libraries=["sentence_transformer"])


def test_an_interrupted_run_keeps_what_it_has(monkeypatch, tmp_path):
    def interrupt(case, shape, name, rounds, seconds):
        if shape == (16, 8):
            raise KeyboardInterrupt
        return {"case": case.name, "batch": 8, "dim": 8, "against": name}

    monkeypatch.setattr(bench_batches, "_batch_row", interrupt)
    record = run_batches(["infonce"], [(8, 8), (16, 8)], [], output=tmp_path / "b.json")
    assert not record["complete"] and len(record["rows"]) == 1


# Memory -----------------------------------------------------------------------------------------


def test_tiles_take_less_than_the_table():
    rows = [memory_of("infonce", 6144, 16, chunk_size=c) for c in (None, 64)]
    assert rows[1]["extra"] < rows[1]["table"] < rows[0]["extra"]
    assert memory_table(rows)[0]["one table of scores"] == "144"


def test_a_loss_of_lists_has_no_batch():
    with pytest.raises(ValueError) as error:
        memory_of("ranknet")
    assert str(error.value) == "ranknet takes scores; expected embeddings or classes."


def test_too_many_negatives_are_refused():
    with pytest.raises(ValueError) as error:
        memory_of("infonce", negatives=2)
    assert str(error.value) == "negatives is 2; expected 0, or 1 for a loss of pairs."


def test_memory_goes_into_a_record_of_batches(tmp_path):
    path = tmp_path / "batches.json"
    run_batches(["infonce"], [(16, 8)], [], rounds=3, seconds=0.01, output=path)
    found = {"loss": "infonce", "batch": 16, "dim": 8, "negatives": 0, "inputs": 1, "extra": 2}
    add_memory(path, [found])
    add_memory(path, [{**found, "extra": 3}])
    assert read_bench(path)["largest"] == [{**found, "extra": 3}]


def test_memory_needs_a_record_to_go_into(tmp_path):
    with pytest.raises(ValueError) as error:
        add_memory(tmp_path / "none.json", [])
    assert "write that first" in str(error.value)


# The command ------------------------------------------------------------------------------------


def test_the_command_measures_memory(capsys):
    assert main(["bench", "memory", "--losses", "infonce", "--batch", "64", "--dim", "8"]) == 0
    assert "infonce  64x8" in capsys.readouterr().out


def test_the_command_measures_batches(capsys):
    arguments = ["--losses", "infonce", "--shapes", "32x8", "--rounds", "3", "--peers", ""]
    assert main(["bench", "batches", *arguments]) == 0
    out = capsys.readouterr().out
    assert (
        "infonce  32x8" in out.replace("infonce 32x8", "infonce  32x8") and "ours / theirs" in out
    )


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "rankbench.bench", "memory", "--loss", "infonce",
                           "--batch", "64", "--dim", "8"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0 and "infonce" in done.stdout, done.stderr
