"""Every record that is committed is what its recipe says."""

import math
import re
from pathlib import Path

import pytest

from rankbench.records import provenance, read_record

RESULTS = Path(__file__).parent.parent / "data" / "results"
RECORDS = sorted((RESULTS / "compare").glob("*.json"))  # others: test_bench, test_reproduce


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_committed_record_is_valid(path):
    record = read_record(path)  # recomputes the digest of the recipe
    assert record["provenance"]["commit"] and not record["provenance"]["dirty"]
    assert [s["system"] for s in record["systems"]][: len(record["recipe"]["losses"])] == record[
        "recipe"
    ]["losses"]
    for system in record["systems"]:
        assert all(math.isfinite(system[m]) for m in record["recipe"]["measures"])


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_committed_record_names_no_folder_of_a_machine(path):
    assert not re.search(r'"[^"]*(?<![\w.])/\w+/', path.read_text("utf-8"))


def test_the_command_in_a_record_names_no_folder_of_a_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["rankbench", "compare", "--output", "/home/me/results"])
    assert provenance()["command"] == "rankbench compare --output results"


def test_there_are_records():
    assert RECORDS
