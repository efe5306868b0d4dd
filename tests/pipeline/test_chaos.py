"""A small chaos test; ``python -m tests.chaos`` is the large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.chaos import SHOWN, ChaosTest, differences

if TYPE_CHECKING:
    from pathlib import Path


def test_table_equals_feed_after_random_kills(tmp_path: Path) -> None:
    report = ChaosTest(tmp_path, kills=4, events=4_000, page_size=100, seed=5).run()
    assert not report.differences, report
    assert report.kills.total() >= 1


def test_report_names_some_rows_and_counts_the_others() -> None:
    """A completely wrong table is reported in a readable number of lines."""
    assert differences(["7"], "is missing") == ["row 7 is missing"]
    lines = differences([str(number) for number in range(1_000 + SHOWN)], "is missing")
    assert len(lines) == SHOWN + 1
    assert lines[-1] == "1,000 more: is missing"
