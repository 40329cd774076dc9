"""Every published number has a source, a status and one meaning."""

import csv
from itertools import product
from pathlib import Path

import pytest

from rankbench.cards import references
from rankbench.core import UnknownName
from rankbench.papers import STATUSES, paper_tables, paper_value, parse_paper, read_paper

FOLDER = Path(__file__).resolve().parent.parent / "data" / "papers"
ROWS = [(table, row) for table in paper_tables() for row in read_paper(table)]
HEAD = "paper,setting,metric,system,value,source,status\n"
GOOD = "li2023,Avg,nDCG@10,a,0.5,README,read\n"


def test_all_tables_are_read():
    assert paper_tables() == sorted(path.stem for path in FOLDER.glob("*.csv"))
    assert {"gte_bidirectional", "splade", "margin_mse", "rerankers", "dense", "inf_cl"} <= {
        *paper_tables()
    }


def test_every_status_is_used_and_none_is_unknown():
    assert {row.status for _, row in ROWS} == set(STATUSES)


def test_what_looks_like_a_key_is_in_the_bibliography():
    keys = {row.paper for _, row in ROWS if row.paper.islower() and row.paper[-1].isalnum()}
    assert keys and keys <= set(references())


def test_sources_are_public():
    private = ("shared", "seed", "/work", ".md", "home")
    assert not [row for _, row in ROWS if any(word in row.source for word in private)]


def test_a_setting_and_a_metric_have_one_scale():
    cells = {}
    for table, row in ROWS:
        if row.metric.startswith(("nDCG", "MRR", "R@")):
            cells.setdefault((table, row.setting, row.metric), set()).add(row.value > 1)
    assert [cell for cell, scales in cells.items() if len(scales) > 1] == []


def test_from_memory_is_said_in_the_source():
    assert all(("not checked" in row.source) == (row.status == "memory") for _, row in ROWS)


@pytest.mark.parametrize(("table", "row"), ROWS[::9])
def test_a_row_is_found_by_its_names(table, row):
    found = paper_value(table, setting=row.setting, system=row.system, metric=row.metric)
    assert found == row


@pytest.mark.parametrize(("table", "row"), [r for r in ROWS if r[1].status == "memory"])
def test_a_number_from_memory_carries_no_claim(table, row):
    asked = {"setting": row.setting, "system": row.system, "metric": row.metric}
    with pytest.raises(ValueError, match="was never looked up"):
        paper_value(table, **asked, claim=True)


def test_a_number_that_was_read_carries_a_claim():
    asked = {"setting": "Avg", "system": "CMNBRL", "claim": True}
    assert paper_value("gte_bidirectional", **asked).value == 0.5571


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "spalde"}, "unknown table of papers 'spalde'; did you mean splade"),
        ({"setting": "MS MARCO"}, "unknown setting of splade 'MS MARCO'; .*MS MARCO dev"),
        ({"system": "bm52"}, "unknown system of splade at 'MS MARCO dev' 'bm52'"),
        ({"metric": "MRR"}, "metric of splade of 'BM25' at 'MS MARCO dev' 'MRR'; .*MRR@10"),
    ],
)
def test_unknown_names_are_met_with_those_that_are_there(changes, message):
    asked = {"table": "splade", "setting": "MS MARCO dev", "system": "BM25", **changes}
    with pytest.raises(UnknownName, match=message):
        paper_value(**asked)


def test_one_of_several_metrics_has_to_be_chosen():
    with pytest.raises(ValueError, match=r"several metrics .*: MRR@10, R@1000"):
        paper_value("splade", setting="MS MARCO dev", system="BM25")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper,value\n", "line 1: .* expected paper,setting"),
        (HEAD + GOOD + "x,y\n", "line 3: 2 cells; expected 7"),
        (HEAD + GOOD.replace("0.5", "high"), "line 2: the value 'high' is not a number"),
        (HEAD + GOOD.replace("0.5", "nan"), "the value 'nan' is not a number"),
        (HEAD + GOOD.replace("README", ""), "source is empty"),
        (HEAD + GOOD.replace("README", " README"), "source is empty or has blanks"),
        (HEAD + GOOD.replace("read\n", "sure\n"), "the status is 'sure'; expected read"),
        (HEAD + GOOD + GOOD.replace("0.5", "0.6"), "line 3: .* there twice"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_paper(path)


def test_the_files_end_as_git_wants_them():
    for path in FOLDER.glob("*.csv"):
        text = path.read_bytes()
        assert text.endswith(b"\n") and b"\r" not in text
        assert len(list(csv.reader(text.decode().splitlines()))) == len(read_paper(path.stem)) + 1


def test_what_the_table_of_the_bidirectional_loss_supports():
    rows = [row for row in read_paper("gte_bidirectional") if row.setting.startswith("Nano")]
    new, old = ({r.setting: r.value for r in rows if r.system == s} for s in ("CMNBRL", "CMNRL"))
    gains = {name: round(10_000 * (new[name] - old[name])) for name in new}
    for system, values in (("CMNBRL", new), ("CMNRL", old)):
        printed = paper_value("gte_bidirectional", setting="Avg", system=system).value
        assert len(values) == 13 and round(sum(values.values()) / 13, 4) == printed
    assert sum(g > 0 for g in gains.values()) == 6 and sum(g < 0 for g in gains.values()) == 7
    share = (gains["NanoArguAna"] + gains["NanoMSMARCO"]) / sum(gains.values())
    assert share == pytest.approx(0.82, abs=0.005)
    sums = [sum(map(int.__mul__, s, gains.values())) for s in product((1, -1), repeat=13)]
    far = sum(abs(found) >= sum(gains.values()) for found in sums)
    assert far / 2**13 == pytest.approx(0.150, abs=0.0005)
