import functools
import gzip
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import make_collection

from rankbench.cards import cards
from rankbench.cli import comparison_text, main, split_list
from rankbench.data.collections import write_beir

pytestmark = pytest.mark.usefixtures("blank_pictures")

NAMES = [c.name for c in cards()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_beir(make_collection(), folder)
    return str(folder)


def run(capsys, *arguments):
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_losses_lists_every_loss(capsys):
    status, out, _ = run(capsys, "losses")
    assert status == 0
    assert all(f" {name} " in out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_show_fits_the_terminal_and_says_the_formula(capsys, name):
    status, out, _ = run(capsys, "show", name)
    card = next(c for c in cards() if c.name == name)
    assert status == 0
    assert card.formula.splitlines()[0].strip() in out
    wide = [line for line in out.splitlines() if len(line) > 80 and not line.startswith("    ")]
    assert not wide


def test_tables_fit_the_terminal(capsys, folder):
    for arguments in (["losses"], ["collection", "stats", folder]):
        _, out, _ = run(capsys, *arguments)
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["losses"], ["show", "ranknet"], ["check", "ranknet"]])
def test_json_is_json(capsys, arguments):
    _, out, _ = run(capsys, *arguments, "--json")
    assert json.loads(out)


def test_check_passes(capsys, without_shape_checks):
    status, out, _ = run(capsys, "check", "ranknet")
    assert status == 0
    assert "✗" not in out and "✓ padding is invisible" in out


def test_checking_several_prints_a_matrix(capsys, without_shape_checks):
    status, out, _ = run(capsys, "check", "ranknet", "flops")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["ranknet", "flops"]


def test_settings_are_shown_as_they_are_typed(capsys):
    _, out, _ = run(capsys, "show", "ordinal")
    assert "thresholds=(0.0,)" in out


def test_every_check_and_every_law_has_a_column():
    from rankbench.cards import LAWS
    from rankbench.checks import CONTRACT, CheckResult
    from rankbench.cli import check_matrix

    names = [*(fn.__name__ for fn in CONTRACT), *LAWS]
    text = check_matrix([CheckResult(loss, n, True) for loss in ("one", "two") for n in names])
    header, _, first = text.splitlines()[:3]
    assert len(header.split()) == len(first.split()) == 1 + len(names)
    assert all(name.replace("_", " ") in text for name in names)


def test_a_failing_check_fails_the_command(capsys, monkeypatch):
    from rankbench import checks

    def broken(card):
        raise AssertionError("as planned")

    monkeypatch.setattr(checks, "CONTRACT", (broken,))
    status, out, _ = run(capsys, "check", "ranknet")
    assert status == 1
    assert "✗ broken: as planned" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "ranknt"], "unknown loss 'ranknt'; did you mean ranknet"),
        (["compare", "--losses", "infonse"], "unknown loss 'infonse'; did you mean infonce"),
        (["compare", "--rates", "0.1,fast"], "--rates is '0.1,fast'; expected numbers such as"),
        (["compare", "--profile", "cpus"], "unknown profile 'cpus'; did you mean cpu"),
        (["compare", "--metrics", "nDGC@10", "--output", "x"], "did you mean nDCG@10"),
        (["compare", "--collection", "nowhere", "--output", "x"], "no collection 'nowhere'"),
        (["compare", "--losses", "kl", "--output", "x"], "kl needs teacher scores"),
        (["compare", "--task", "leter"], "unknown task 'leter'; did you mean letor"),
        (
            ["compare", "--task", "letor", "--losses", "flops", "--output", "x"],
            "flops is no loss on",
        ),
        (
            ["compare", "--task", "letor", "--model", "big", "--output", "x"],
            "model is 'big'; expected",
        ),
        (["compare", "--task", "letor", "--collection", "nowhere"], "no collection 'nowhere'"),
        (["losses", "--family", "pairwse"], "unknown family 'pairwse'; did you mean pairwise"),
        (["eval", "a.run", "qrels", "--metrics", "nDGC@10"], "did you mean nDCG@10"),
        (["eval", "a.run", "qrels", "--metrics", "P"], "takes a cutoff such as @10"),
        (["eval", "a.run", "qrels"], "qrels, line 0: not found"),
        (["eval", "a.run", "qrels", "--worst", "3"], "--worst shows texts; give --corpus"),
        (["search", "bm25", "x", "--collection", "nowhere"], "no collection 'nowhere'"),
        (["search", "bm25", "x", "--k", "0"], "expected at least 1"),
        (["index", "bm25", "--collection", "nowhere", "--output", "x"], "no collection 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1 and not out
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_one_line_and_status_two(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "--lossess", "infonce"])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


SMALL = ["--losses", "infonce,ranknet", "--steps", "3", "--batch-size", "16", "--rates", "0.01",
         "--seeds", "2", "--temperatures", "0.05"]  # fmt: skip


def test_compare_prints_a_table_that_fits(capsys, folder, tmp_path):
    status, out, _ = run(capsys, "compare", "--collection", folder, *SMALL, "--output",
                         tmp_path / "run")  # fmt: skip
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ["infonce", "ranknet", "bm25",
                                                                   "untrained"]  # fmt: skip
    assert max(len(line) for line in out.splitlines()[:7]) <= 80
    assert str(tmp_path / "run" / "report.html") in out


@pytest.fixture(scope="module")
def letor(tmp_path_factory):
    """A folder of LETOR files in which feature 1 tells the grade, with noise."""
    import random

    rng, folder = random.Random(0), tmp_path_factory.mktemp("letor")
    for split in ("train", "vali", "test"):
        rows = ((q, g, g + rng.gauss(0, 1), rng.random()) for q in range(30) for g in (0, 1, 2, 0))
        lines = [f"{g} qid:{q} 1:{x:.4f} 2:{y:.4f}" for q, g, x, y in rows]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


FEW = ["--task", "letor", "--profile", "smoke", "--steps", "3", "--seeds", "1"]


def test_compare_ranks_features(capsys, letor, tmp_path):
    status, out, _ = run(capsys, "compare", "--collection", letor, *FEW, "--losses",
                         "softmax,ranknet", "--output", tmp_path / "run")  # fmt: skip
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[2:7]] == [
        "softmax", "ranknet", "best_feature", "ridge", "chance"
    ]  # fmt: skip
    assert max(len(line) for line in out.splitlines()[:8]) <= 80


def test_all_losses_are_those_that_fit_the_task(capsys, letor, tmp_path):
    arguments = ["--collection", letor, *FEW, "--losses", "softmax,all", "--json"]
    status, out, _ = run(capsys, "compare", *arguments, "--output", tmp_path / "run")
    losses = json.loads(out)["recipe"]["losses"]
    assert status == 0 and losses[0] == "softmax" and len(losses) == len(set(losses))
    assert set(losses) == {c.name for c in cards() if c.signature == "scores"}


def test_a_diverged_loss_is_said_in_the_table():
    row = {"system": "x", "nDCG@10": 0.0, "low": 0.0, "high": 0.0, "p": 0.001, "rate": 0.1,
           "seeds": 3, "temperature": 1.0, "seconds": 1.0, "steps": 5, "diverged": 2}  # fmt: skip
    text = comparison_text({"recipe": {"measures": ["nDCG@10"]}, "systems": [row]})
    assert "2/3 diverged" in text


def test_compare_takes_several_collections(capsys, folder, tmp_path):
    from rankbench.data.collections import read_beir, write_beir

    write_beir(read_beir(folder), tmp_path / "second")
    both = f"{folder},{tmp_path / 'second'}"
    status, out, _ = run(capsys, "compare", "--collection", both, *SMALL, "--output",
                         tmp_path / "runs")  # fmt: skip
    lines = out.splitlines()
    assert status == 0 and "average" in lines[0] and max(map(len, lines[:-1])) < 81
    suite = json.loads((tmp_path / "runs" / "suite.json").read_text())
    assert suite["collections"] == [Path(folder).name, "second"]
    assert all(r["average"] == pytest.approx(r["second"]) for r in suite["systems"])


def test_a_list_may_hold_commas_in_parentheses():
    entries = ["infonce", "kl(temperature=2,teacher_temperature=3) @ some/model", "ranknet"]
    assert split_list(", ".join(entries)) == entries


def test_compare_reads_a_recipe(capsys, folder, tmp_path):
    from rankbench.recipes import make_recipe

    recipe = make_recipe(("ranknet",), "smoke", collection=folder, steps=2, batch_size=8)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    status, out, _ = run(capsys, "compare", "--recipe", tmp_path / "recipe.yaml", "--output",
                         tmp_path / "run", "--json")  # fmt: skip
    assert status == 0
    assert json.loads(out)["digest"] == recipe.digest


def test_collection_build_writes_a_folder(capsys, folder, tmp_path):
    status, _, _ = run(capsys, "collection", "build", folder, "--output", tmp_path / "copy")
    assert status == 0
    from rankbench.data.collections import read_beir

    assert read_beir(tmp_path / "copy").fingerprint == make_collection().fingerprint


@pytest.mark.parametrize("task", ["retrieval", "letor"])
def test_ctrl_c_keeps_what_is_finished(folder, letor, tmp_path, task):
    options = (
        ["--collection", folder, *SMALL] if task == "retrieval" else ["--collection", letor, *FEW]
    )
    command = [sys.executable, "-m", "rankbench.cli", "compare", *options,
               "--seeds", "200", "--output", str(tmp_path / "run")]  # fmt: skip
    # A shell that runs the tests in the background would have its children ignore Ctrl-C.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    units = tmp_path / "run" / "units"
    for _ in range(600):
        time.sleep(0.2)
        if process.poll() is not None or (units.exists() and len(list(units.glob("*.json"))) > 2):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finished units are kept" in err and "--resume" in err
    assert all(json.loads(p.read_text()) for p in units.glob("*.json"))


# Runs in files


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """BM25's run on the tiny collection, one that is always wrong, and one of strangers."""
    from rankbench.data.formats import write_run
    from rankbench.training.evaluation import bm25_run

    place, collection = tmp_path_factory.mktemp("runs"), make_collection()
    good = {q: dict.fromkeys(ds, 1.0) for q, ds in collection.split("test").items()}
    write_run(good, place / "good.run.gz")
    write_run(bm25_run(collection, list(good)), place / "bm25.run", notes=[])
    write_run({q: {"d0-5": 1.0} for q in good}, place / "bad.run")
    write_run({"stranger": {"d0-0": 1.0}}, place / "stranger.run")
    lines = [f"{q} 0 {d} {g}" for q, ds in collection.split("test").items() for d, g in ds.items()]
    (place / "qrels.txt").write_text("\n".join(lines) + "\n")
    return place


def test_eval_prints_a_table_that_fits(capsys, runs):
    paths = runs / "bad.run", runs / "qrels.txt", runs / "good.run.gz", runs / "bm25.run"
    status, out, _ = run(capsys, "eval", *paths)
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["bad", "good", "bm25"]
    assert "p: paired randomisation test against bad" in out and "12 judged queries" in out
    assert out.count("won/tied/lost") == 3


def test_eval_reads_a_beir_folder_and_says_the_same(capsys, runs, folder):
    for qrels in (runs / "qrels.txt", folder, f"{folder}/qrels/test.tsv"):
        status, out, _ = run(capsys, "eval", runs / "bad.run", qrels, "--metrics", "AP", "--json")
        record = json.loads(out)
        assert status == 0 and record["queries"] == 12
        assert record["rows"][0]["mean"] == pytest.approx(1 / 12 / 6)  # one of six, for one of 12


def test_eval_reads_packed_judgments(capsys, runs, folder, tmp_path):
    (tmp_path / "qrels").mkdir()
    packed = tmp_path / "qrels" / "test.tsv.gz"
    packed.write_bytes(gzip.compress(Path(folder, "qrels", "test.tsv").read_bytes()))
    for qrels in (tmp_path, packed):
        status, out, _ = run(capsys, "eval", runs / "bad.run", qrels, "--json")
        assert status == 0 and json.loads(out)["queries"] == 12
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq3-0\td0-5\t1\n")
    status, out, _ = run(capsys, "eval", runs / "bad.run", tmp_path, "--json")
    assert json.loads(out)["queries"] == 1  # the plain file is read where both are there


def test_eval_compares_with_a_named_run_query_by_query(capsys, runs, folder):
    paths = [runs / "bad.run", folder, runs / "good.run.gz"]
    options = ["--baseline", "good.run.gz", "--per-query", "--metrics", "R@100", "--json"]
    record = json.loads(run(capsys, "eval", *paths, *options)[1])
    bad, good = record["rows"]
    assert record["baseline"] == "good" and good["p"] is None and bad["losses"] == 12
    assert record["per_query"]["good"]["R@100"]["q3-0"] == 1.0
    _, out, _ = run(capsys, "eval", *paths, *options[:-1])
    assert re.search(r"^q3-0 +0\.0000 +1\.0000$", out, re.M)


def test_eval_shows_texts(capsys, runs, folder):
    status, out, _ = run(capsys, "eval", runs / "bad.run", folder, "--worst", "2")
    assert status == 0 and out.count("worst  q") == 2 and "missed" in out
    paths = runs / "bad.run", runs / "qrels.txt", runs / "good.run.gz"
    _, out, _ = run(capsys, "eval", *paths, "--corpus", folder, "--worst", "1")
    assert "improved  q" in out and make_collection().documents["d0-5"].full[:20] in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5\n", "line 1: expected"),
        ("q Q0 d 1 0.5 n\nq Q0 d 2 0.4 n\n", "line 2: .*'d'"),
        ("q Q0 d 1 nan n\n", "line 1: .*nan"),
        ("", "is empty"),
        ("\x00\udcff", "line 1: byte 2 of the line is not UTF-8"),
    ],
)
def test_broken_runs_are_one_line(capsys, runs, tmp_path, text, message):
    (tmp_path / "x.run").write_bytes(text.encode("utf-8", "surrogateescape"))
    status, _, err = run(capsys, "eval", tmp_path / "x.run", runs / "qrels.txt")
    assert status == 2 and re.search(message, err) and len(err.strip().splitlines()) == 1


def test_eval_says_what_does_not_fit(capsys, runs, folder, tmp_path):
    for arguments, message in (
        ([runs / "stranger.run", folder], "none of its queries is judged; it has ids such as"),
        (
            [runs / "bad.run", folder, "--split", "tests"],
            "unknown split 'tests'; did you mean test",
        ),
        ([runs / "bad.run", folder, "--baseline", "bat"], "unknown run for --baseline 'bat'"),
        ([runs / "bad.run", tmp_path], "has no qrels/*.tsv"),
    ):
        status, _, err = run(capsys, "eval", *arguments)
        assert status == 2 and message in err and len(err.strip().splitlines()) == 1


# Searching by hand


def test_search_prints_documents_and_why(capsys, folder):
    document = make_collection().documents["d2-1"].full
    query = " ".join(document.split()[:6])
    status, out, _ = run(capsys, "search", "bm25", query, "--collection", folder, "--explain",
                         "--k", "3")  # fmt: skip
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[0].split()[::2] == ["1", "d2-1"] and out.count("terms: ") == 3
    _, out, _ = run(capsys, "search", "bm25", query, "--collection", folder, "--json")
    assert json.loads(out)["results"][0]["text"] == document
    _, out, _ = run(capsys, "search", "bm25", "zzzzz", "--collection", folder)
    assert out.strip() == "nothing found"


def test_search_reads_queries_from_the_terminal(capsys, folder, monkeypatch):
    words = make_collection().documents["d2-1"].full.split()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{words[0]}\n\n{words[1]}\n"))
    status, out, _ = run(capsys, "search", "bm25", "--collection", folder, "--k", "1")
    assert status == 0 and len(re.findall(r"^  1  ", out, re.M)) == 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from rankbench.models.static_encoder import StaticEncoder

    place = tmp_path_factory.mktemp("model") / "static"
    texts = [d.full for d in make_collection().documents.values()]
    StaticEncoder.from_texts(texts, size=300, dim=8).save(place)
    return str(place)


def test_an_index_is_made_once_and_searched(capsys, folder, model, tmp_path):
    where = ["--collection", folder]
    for name, more in (("bm25", []), (model, ["--half", "--block", "50"])):
        place = tmp_path / name.rpartition("/")[2]
        status, out, _ = run(capsys, "index", name, *where, "--output", place, *more)
        assert status == 0 and out.startswith("72 documents, ")
        query = make_collection().documents["d1-1"].full
        found = [
            json.loads(run(capsys, "search", name, query, *where, "--json", *kept)[1])["results"]
            for kept in ([], ["--index", place])
        ]
        assert [r["document"] for r in found[0]] == [r["document"] for r in found[1]]
        assert found[0][0]["document"] == "d1-1"
    status, _, err = run(capsys, "search", "bm25", "x", *where, "--index", tmp_path / "static")
    assert status == 2 and "holds a dense index" in err
    status, _, err = run(capsys, "search", model, "x", *where, "--explain")
    assert status == 2 and "only bm25 and sparse models" in err
    status, _, err = run(capsys, "search", "bm25", "x", *where, "--rerank", model)
    assert status == 2 and "is no reranker" in err


def test_search_reranks(capsys, folder, monkeypatch):
    from rankbench import cli
    from rankbench.models.base import Reranker

    class Last(Reranker):
        def score(self, lists, batch_size=64, progress=False):
            return [[float(i) for i, _ in enumerate(documents)] for _, documents in lists]

    monkeypatch.setattr(cli, "load_ranker", lambda name: Last())
    query = make_collection().documents["d1-1"].full
    plain, turned = (
        json.loads(run(capsys, "search", "bm25", query, "--collection", folder, "--json", *more)[1])
        for more in ([], ["--rerank", "last", "--depth", "3"])
    )
    names = [[r["document"] for r in found["results"]] for found in (plain, turned)]
    assert names[1] == [*names[0][2::-1], *names[0][3:]][: len(names[1])]


@pytest.mark.parametrize("command", ["eval", "search", "index"])
def test_help_fits_the_terminal(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "examples:" in out


def test_a_corpus_is_measured(capsys, tmp_path):
    status, out, _ = run(capsys, "bench", "retrieval", "--documents", "300", "--output",
                         tmp_path / "retrieval.json")  # fmt: skip
    assert status == 0 and "BM25 search" in out and max(map(len, out.splitlines())) <= 80
    record = json.loads((tmp_path / "retrieval.json").read_text())
    assert record["documents"] == 300 and all(r["seconds"] > 0 for r in record["rows"])
