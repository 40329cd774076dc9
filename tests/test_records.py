"""Every record that is committed is what its recipe says."""

import math
from pathlib import Path

import pytest

from rankbench.records import read_record

RECORDS = sorted((Path(__file__).parent.parent / "data" / "results").rglob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_committed_record_is_valid(path):
    record = read_record(path)  # recomputes the digest of the recipe
    assert record["provenance"]["commit"] and not record["provenance"]["dirty"]
    assert [s["system"] for s in record["systems"]][: len(record["recipe"]["losses"])] == record[
        "recipe"
    ]["losses"]
    for system in record["systems"]:
        assert all(math.isfinite(system[m]) for m in record["recipe"]["measures"])


def test_there_are_records():
    assert RECORDS
