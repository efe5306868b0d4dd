"""A small kill storm; ``python -m tests.storm`` is the large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storm.storm import SHOWN, _some, storm

if TYPE_CHECKING:
    from pathlib import Path


# Both run in this checkout, where one load at a time may run.
@pytest.mark.xdist_group("checkout")
@pytest.mark.parametrize("lane", ["records", "bulk"])
def test_a_load_under_fire_equals_the_feed(tmp_path: Path, lane: str) -> None:
    """Whatever is killed, the table holds the feed, row by row."""
    report = storm(
        tmp_path,
        kills=4,
        events=4_000,
        page_size=100,
        seed=5,
        arguments=["--bulk"] if lane == "bulk" else [],
    )
    assert not report.differences, report
    assert report.kills.total() >= 1


def test_a_report_names_some_rows_and_counts_the_others() -> None:
    """A table that is wrong from end to end is told in lines that one can read."""
    assert _some(["7"], "is missing") == ["row 7 is missing"]
    lines = _some([str(number) for number in range(1_000 + SHOWN)], "is missing")
    assert len(lines) == SHOWN + 1
    assert lines[-1] == "and so it is with 1,000 more"
