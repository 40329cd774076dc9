"""Measuring: turns, bytes, bars, growth, and like with like. No clock is trusted."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rankbench import bench
from rankbench.bench import (
    CASES,
    SHAPES,
    Case,
    bench_table,
    claimed_slope,
    disagreement,
    find_cases,
    growth_of,
    growth_table,
    judge,
    make_rival,
    measure,
    paired_ratios,
    peak_bytes,
    plot_bench,
    random_lists,
    read_bench,
    run_bench,
    run_growth,
    slope,
)
from rankbench.cards import cards, find
from rankbench.checks import LISTS
from rankbench.cli import main
from rankbench.core import UnknownName
from rankbench.peers import PEERS, Peer, installed, torch_step

RESULTS = Path(__file__).parent.parent / "data/results/bench"
RECORDS = sorted(p for p in RESULTS.glob("*.json") if p.stem != "retrieval")
HERE, _ = find_cases()
SCORES = [card for card in cards() if card.signature == "scores"]
LISTNET = next(case for case in CASES if case.name == "listnet")
QUICK = {"shapes": [(4, 12)], "libraries": [], "rounds": 3, "seconds": 0.01}


class Machine:
    """Work of a given cost on a clock of its own, and who did it in which order."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def clock(self):
        return self.now

    def step(self, name, cost):
        def run():
            self.calls.append(name)
            self.now += cost

        return run


# Turns ------------------------------------------------------------------------------------------


def test_a_ratio_is_ours_over_theirs():
    machine = Machine()
    steps = machine.step("ours", 2.0), machine.step("theirs", 8.0)
    found = paired_ratios(*steps, rounds=4, seconds=1e9, clock=machine.clock)
    assert found == pytest.approx([0.25] * 4)


def test_whoever_went_first_goes_second_in_the_next_round():
    machine = Machine()
    steps = machine.step("a", 1.0), machine.step("b", 1.0)
    paired_ratios(*steps, rounds=4, seconds=1e9, clock=machine.clock)
    assert "".join(machine.calls[-8:]) == "abbaabba"


def test_both_are_warmed_up_before_anything_counts():
    machine = Machine()
    steps = machine.step("a", 1.0), machine.step("b", 1.0)
    paired_ratios(*steps, rounds=0, clock=machine.clock)
    assert sorted(machine.calls) == ["a", "a", "b", "b"]


def test_short_steps_are_repeated_and_long_ones_are_not(monkeypatch):
    monkeypatch.setattr(bench, "SAMPLE", 1.0)
    machine = Machine()
    steps = machine.step("a", 0.25), machine.step("b", 2.0)
    paired_ratios(*steps, rounds=1, clock=machine.clock)
    assert machine.calls[4:] == ["a"] * 4 + ["b"]


def test_long_measurements_stop_early_but_not_before_three_rounds():
    machine = Machine()
    steps = machine.step("a", 1.0), machine.step("b", 1.0)
    assert len(paired_ratios(*steps, rounds=99, seconds=0.0, clock=machine.clock)) == 3
    assert len(paired_ratios(*steps, rounds=99, seconds=9.0, clock=machine.clock)) == 5


# Bytes ------------------------------------------------------------------------------------------


def test_bytes_are_counted_alike_every_time():
    step = bench.our_step(LISTNET, random_lists(3, 50))
    step()
    assert len({peak_bytes(step) for _ in range(3)}) == 1


def test_what_is_released_does_not_count_twice():
    x = torch.zeros(10_000)

    def chain():
        y = x + 1
        for _ in range(20):
            y = y * 2
        return y

    assert peak_bytes(chain) == pytest.approx(2 * 40_000, rel=0.01)


def test_memory_of_a_backward_pass_is_seen():
    x = torch.zeros(10_000, requires_grad=True)
    assert peak_bytes(lambda: x.exp().sum().backward()) >= 2 * 40_000


# Lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["binary", "graded", "ranking", "teacher"])
def test_lists_are_padded_and_can_be_ranked(labels):
    lists = random_lists(64, 100, labels)
    assert 1 - lists.where.float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert lists.where[0].all() and lists.where.sum(-1).min() >= 2
    for y, real in zip(lists.labels, lists.where, strict=True):
        assert y[real].max() > y[real].min() or labels == "binary"
        assert labels != "ranking" or y.unique().numel() >= 99


def test_lists_that_cannot_be_made_are_refused():
    with pytest.raises(UnknownName, match="unknown kind of labels 'grade'; did you mean graded"):
        random_lists(2, 4, "grade")
    with pytest.raises(ValueError, match="padding is 0.5; expected a share from 0 to below 0.5"):
        random_lists(2, 4, padding=0.5)


# Like with like ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in HERE if c.dense], ids=lambda c: c.name)
def test_the_textbook_version_is_the_same_loss(case):
    lists = random_lists(5, 30, case.labels)
    assert disagreement(case, lists, make_rival(case, lists, "dense")) < 1e-4


@pytest.mark.parametrize("case", HERE, ids=lambda c: c.name)
@pytest.mark.parametrize("library", PEERS)
def test_an_installed_library_computes_the_same_loss(library, case):
    if installed(library) is None or case.name not in PEERS[library][1]:
        pytest.skip("not installed, or has no such loss")
    lists = random_lists(5, 30, case.labels)
    assert disagreement(case, lists, make_rival(case, lists, library)) < bench.TOLERANCE


def test_what_computes_another_value_is_not_timed():
    lists = random_lists(3, 10)
    other = Peer(torch_step(lambda s: s.square().sum(), lists.scores), torch.Tensor.mean)
    row = measure(LISTNET, lists, "other", other)
    assert row["error"] == "computes another value" and "ratio" not in row


def test_equal_values_with_another_gradient_are_seen():
    lists = random_lists(3, 10)
    right = make_rival(LISTNET, lists, "dense")
    upside_down = replace(right, spread=lambda gradient: -gradient)
    assert (
        disagreement(LISTNET, lists, right) < 1e-5 < 1 < disagreement(LISTNET, lists, upside_down)
    )


def test_every_peer_measures_a_case_that_exists():
    names = {case.name for case in CASES}
    assert {name for _, offered in PEERS.values() for name in offered} <= names


# Bars -------------------------------------------------------------------------------------------


def row(against, ratio, case="ranknet", shape=(16, 1000)):
    return {"case": case, "lists": shape[0], "items": shape[1], "against": against, "ratio": ratio}


def test_a_bar_is_held_against_the_fastest_library():
    judged = judge([row("rax", 0.02), row("allrank", 0.05), row("dense", 9.0)])
    assert [r.get("met") for r in judged] == [None, True, None]
    assert judged[1]["bar"] == 0.1


def test_a_bar_that_names_a_library_is_held_against_it():
    rows = [row("sentence_transformers", 0.02, "lambda@10"), row("allrank", 0.5, "lambda@10")]
    assert [r.get("met") for r in judge(rows)] == [False, None]


def test_without_a_library_there_is_no_verdict():
    assert "met" not in judge([row("dense", 0.5)])[0]


def test_another_shape_has_no_bar():
    assert "bar" not in judge([row("rax", 0.5, shape=(2, 7))])[0]


def test_the_bars_fit_the_shapes():
    assert all(len(case.bars) == len(SHAPES) for case in CASES)


# Runs -------------------------------------------------------------------------------------------


def test_a_run_is_a_record_that_can_be_read(tmp_path):
    path = tmp_path / "new" / "quick.json"
    record = run_bench(["softmax", "listnet"], output=path, **QUICK)
    assert read_bench(path) == json.loads(json.dumps(record)) and record["complete"]
    assert [r["case"] for r in record["rows"]] == ["softmax", "listnet"]


def test_a_record_keeps_no_absolute_times():
    record = run_bench(["softmax"], **QUICK)
    assert not {"seconds", "time", "times"} & set(record["rows"][0])


def test_an_interrupted_run_keeps_what_is_finished(monkeypatch, tmp_path, capsys):
    real, seen = bench._row, []

    def interrupted(*args):
        seen.append(args)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(bench, "_row", interrupted)
    path = tmp_path / "cut.json"
    arguments = ["--losses", "softmax,listnet,ranknet", "--shapes", "4x12", "--peers", ""]
    assert main(["bench", *arguments, "--rounds", "3", "--output", str(path)]) == 130
    record = read_bench(path)
    assert not record["complete"] and [r["case"] for r in record["rows"]] == ["softmax"]
    assert "interrupted" in capsys.readouterr().err


def test_a_library_that_fails_is_a_row(monkeypatch):
    def broken(lists):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setitem(PEERS, "broken", ("torch", {"softmax": broken}))
    record = run_bench(["softmax"], **{**QUICK, "libraries": ["broken"]})
    assert record["rows"][1]["error"] == "RuntimeError: no kernel"
    assert bench_table(record)[1]["time"] == "–"


def test_lists_that_a_library_cannot_hold_are_left_out(monkeypatch):
    monkeypatch.setitem(PEERS, "slow", ("torch", {"softmax": None}))
    monkeypatch.setitem(bench.LONGEST, ("slow", "softmax"), 11)
    record = run_bench(["softmax"], **{**QUICK, "libraries": ["slow"]})
    assert [r["against"] for r in record["rows"]] == ["dense"]


def test_a_library_that_is_not_installed_is_absent(monkeypatch):
    monkeypatch.setitem(PEERS, "nowhere", ("no-such-distribution", {"softmax": None}))
    record = run_bench(["softmax"], **{**QUICK, "libraries": ["nowhere"]})
    assert record["peers"] == {"nowhere": None}
    assert [r["against"] for r in record["rows"]] == ["dense"]


def test_a_loss_that_is_not_here_is_absent(monkeypatch):
    monkeypatch.setattr(bench, "CASES", (*CASES, Case("not_yet@5")))
    assert find_cases(["softmax", "not_yet@5"]) == ([find_cases(["softmax"])[0][0]], ["not_yet@5"])


def test_a_case_without_a_name_is_refused():
    with pytest.raises(UnknownName, match="did you mean softmax"):
        find_cases(["softmx"])


def test_a_record_with_a_changed_ratio_is_refused(tmp_path):
    path = tmp_path / "record.json"
    record = run_bench(["softmax"], output=path, **QUICK)
    record["rows"] = [{**row("rax", 9.9), "met": True, "bar": 0.1}]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="do not follow"):
        read_bench(path)


def test_another_record_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"recipe": {}}')
    with pytest.raises(ValueError, match="no record of rankbench bench"):
        read_bench(path)


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()
    run_bench(["softmax"], **QUICK)
    assert torch.get_num_threads() == before


# Growth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", [c for c in cards() if c.signature in LISTS], ids=lambda c: c.name)
def test_memory_grows_no_faster_than_the_card_says(card):
    (found,) = growth_of(card, lengths=(64, 128, 256, 512, 1024), timed=False)
    assert found["kept"] is not False, found


def test_a_card_that_promises_too_much_is_caught():
    def over_pairs(scores, labels, *, where=None, reduction="mean"):
        return (scores.unsqueeze(-1) - scores.unsqueeze(-2)).exp().sum()

    guilty = [
        peak_bytes(torch_step(lambda s: over_pairs(s, s), torch.zeros(1, n)))
        for n in (256, 512, 1024)
    ]
    found = bench._growth_row("guilty", "memory", "n", [256, 512, 1024], guilty)
    assert found["kept"] is False and found["measured"] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("power", [0, 1, 2.5])
def test_the_slope_of_a_power_is_its_exponent(power):
    assert slope((10, 20, 80), [7 * n**power for n in (10, 20, 80)]) == pytest.approx(power)


def test_claims_have_slopes():
    lengths = bench.LENGTHS
    assert claimed_slope("n", lengths) == pytest.approx(1)
    assert claimed_slope("n·m", lengths) == pytest.approx(2)
    assert claimed_slope("n²·√n", lengths) == pytest.approx(2.5)
    assert claimed_slope("n² · iterations", lengths) == pytest.approx(2)
    assert 1 < claimed_slope("n log n", lengths) < 1.2
    assert claimed_slope("b²·d", lengths) is None


def test_lengths_that_would_not_fit_are_left_out():
    (found,) = growth_of(find("listnet"), timed=False, limit=100_000)
    assert 250 <= found["lengths"][-1] < 8000


def test_growth_is_a_record(tmp_path):
    names = ["softmax", "dpo", "infonce"]  # the last has no lists of its own
    record = run_growth(names, (64, 128, 256), tmp_path / "g.json", timed=False)
    assert read_bench(tmp_path / "g.json")["complete"]
    assert [line["loss"] for line in growth_table(record)] == ["softmax", "dpo"]


# Command line -----------------------------------------------------------------------------------

ARGUMENTS = [
    "bench",
    "--losses",
    "softmax,ranknet",
    "--shapes",
    "4x12",
    "--rounds",
    "3",
    "--peers",
    "",
]


def test_the_table_fits_the_terminal(capsys):
    assert main(ARGUMENTS) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "softmax 4x12  dense" in out


def test_the_widest_row_fits_the_terminal():
    widest = {
        "case": "unique_softmax", "lists": 64, "items": 100, "against": "sentence_transformers",
        "ratio": 0.1234, "low": 0.1111, "high": 0.2222, "bytes": [123456, 7],
        "bar": 0.36, "met": False,
    }  # fmt: skip
    from rankbench.cli import table

    text = table(bench_table({"rows": [widest]}), gap=" ")
    assert max(map(len, text.splitlines())) <= 80


def test_json_is_the_record(capsys):
    assert main([*ARGUMENTS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bench"


@pytest.mark.parametrize("text", ["64", "64x", "axb", "0x10", "4x1"])
def test_a_shape_that_is_none_is_refused(capsys, text):
    assert main(["bench", "--shapes", text]) == 2
    assert "expected lists x items" in capsys.readouterr().err


def test_an_unknown_library_is_refused(capsys):
    assert main(["bench", "--losses", "softmax", "--peers", "rex"]) == 2
    assert "did you mean rax" in capsys.readouterr().err


# Records that are committed ---------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_committed_record_is_valid(path):
    record = read_bench(path)
    assert record["complete"] and record["provenance"]["commit"]
    assert not record["provenance"]["dirty"]
    if record["what"] == "losses":
        ratios = [r["ratio"] for r in record["rows"] if "ratio" in r]
        assert ratios and all(math.isfinite(r) and r > 0 for r in ratios)
        assert any(record["peers"].values())
        plot_bench(record, items=record["shapes"][0][1])


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_committed_record_names_no_folder_of_a_machine(path):
    assert not re.search(r'"[^"]*(?<![\w.])/\w+/', path.read_text("utf-8"))


def test_the_record_of_a_large_corpus_says_where_it_comes_from():
    record = json.loads((RESULTS / "retrieval.json").read_text("utf-8"))
    assert record["provenance"]["commit"] and not record["provenance"]["dirty"]
    assert record["documents"] == 200_000
    assert all(row["grown_mib"] > 0 for row in record["rows"])
    assert not re.search(r'"[^"]*(?<![\w.])/\w+/', json.dumps(record))
