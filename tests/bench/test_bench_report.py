from __future__ import annotations

import pytest
from datasync_bench import pages
from datasync_bench.goals import judge
from datasync_bench.growth import Load, Point
from datasync_bench.pacing import Pace
from datasync_bench.pages import BEGIN, END, MissingPartError, headline, insert, peers
from datasync_bench.processes import role
from datasync_bench.report import markdown

MACHINE = {"cores": 2, "memory_gib": 24, "python": "3.11.7", "postgres": "18.0"}


def row(name: str, rate: float | None, *, rows: int = 10_000, kind: str = "ours") -> dict:
    spread = {"median": 1.0, "low": 0.5, "high": 2.0}
    loaded = {"rows": rows, "distinct": rows, "complete": rows, "size": 2**22}
    return {
        "name": name,
        "title": f"title of {name}",
        "kind": kind,
        "events": 10_000,
        "valid": rows == 10_000,
        "wall_s": spread,
        "one_page_s": spread,
        "events_per_s": None if rate is None else {"median": rate, "low": rate, "high": rate},
        "cpu_s_per_million": spread,
        "peak_mib": {"tap": 60.0, "target": 90.0},
        "trials": [{"loaded": loaded}],
    }


def report(*rows: dict) -> dict:
    return {"machine": MACHINE, "load": {"comparison": 0.1}, "comparison": list(rows)}


def goal(results: dict, start: str):
    return next(goal for goal in judge(results) if goal.title.startswith(start))


def test_a_ratio_is_judged_by_the_medians():
    results = {"comparison": [row("bulk", 90_000.0), row("hand", 40_000.0)]}
    found = goal(results, "title of bulk, against title of hand")
    assert (found.found, found.reached) == ("2.25 x", True)


def test_a_ratio_that_is_missed_says_so():
    results = {"comparison": [row("bulk", 90_000.0), row("dlt-append", 40_000.0)]}
    assert goal(results, "title of bulk, against title of dlt-append").verdict == "no"


def test_a_void_row_is_compared_with_nothing():
    results = {"comparison": [row("bulk", 90_000.0, rows=9_999), row("hand", 40_000.0)]}
    assert goal(results, "bulk against hand").verdict == "not measured"


def test_a_rate_that_is_lost_in_the_noise_is_compared_with_nothing():
    results = {"comparison": [row("bulk", None), row("hand", 40_000.0)]}
    assert goal(results, "bulk against hand").reached is None


def pace(*, refused: int = 0, rows: int = 30_500) -> dict:
    return Pace("bulk lane", 10.0, 0.995, 61, refused, 36.2, events=30_500, rows=rows).document()


def test_a_429_spoils_a_full_use_of_the_limit():
    title = "share of the limit, bulk lane"
    assert goal({"paced": [pace()]}, title).reached is True
    assert goal({"paced": [pace(refused=1)]}, title).reached is False


def test_a_run_under_the_limit_that_lost_a_row_is_void():
    results = {"machine": MACHINE, "load": {"paced": 0.1}, "paced": [pace(rows=30_499)]}
    assert goal(results, "share of the limit").verdict == "not measured"
    text = markdown(results)
    assert "| bulk lane (void) |" in text
    assert "Window 6 s, latency 0.4 s, limit 10 requests a window." in text


def test_the_ends_of_a_load_are_compared_where_they_can_be():
    def verdict(change: float) -> str:
        spread = {"median": change, "low": change - 0.02, "high": change + 0.02}
        found = point("bulk", 1.0, 1.0) | {"change": spread}
        return goal({"growth": [found]}, "last tenth against first, bulk lane").verdict

    assert [verdict(change) for change in (-0.05, -0.2, 0.6)] == ["yes", "no", "too noisy to tell"]


def point(subject: str, first: float, last: float) -> dict:
    def spread(value: float) -> dict:
        return {"median": value, "low": value, "high": value}

    return {
        "subject": subject,
        "events": 3_000_000,
        "valid": True,
        "rate": spread((first + last) / 2),
        "first": spread(first),
        "last": spread(last),
        "change": {"median": last / first - 1, "low": -0.25, "high": -0.15},
        "peaks": {"program": 49.0},
        "growth": {"program": 0.4},
        "loads": [{}] * 3,
    }


def test_growth_tells_the_ends_and_the_share_of_the_key():
    points = [point("upsert", 100_000.0, 80_000.0), point("keyless", 200_000.0, 200_000.0)]
    text = markdown({"machine": MACHINE, "load": {"growth": 0.1}, "growth": points})
    assert "Medians and ranges of 3 loads of each size." in text
    assert "| upsert | 3,000,000 | 90,000 | 100,000 | 80,000 | -20.0% | -25.0% to -15.0% |" in text
    assert "at 3,000,000 events: 50% in the first tenth, 60% in the last." in text


def test_a_void_load_is_neither_judged_nor_quoted():
    void = point("bulk", 100_000.0, 100_000.0) | {"valid": False}
    void["peaks"] = {"tap": 64.0, "target": 95.0}
    found = {goal.title: goal.reached for goal in judge({"growth": [void]})}
    assert found["peak memory"] is None
    assert found["last tenth against first"] is None
    results = whole()
    for entry in results["growth"]:
        entry["valid"] = False
    for quote in (headline, pages.report):
        with pytest.raises(MissingPartError):
            quote(results)


def test_a_void_load_tells_nothing_of_the_key():
    points = [point("upsert", 1.0, 1.0), point("keyless", 2.0, 2.0) | {"valid": False}]
    text = markdown({"machine": MACHINE, "load": {"growth": 0.1}, "growth": points})
    assert "| keyless (void) |" in text
    assert "The primary key's share" not in text


def test_peaks_that_were_not_seen_are_not_judged():
    found = point("bulk", 1.0, 1.0) | {"peaks": {"tap": 64.0}}
    assert goal({"growth": [found]}, "peak memory").verdict == "not measured"


def test_a_process_that_one_load_has_not_seen_is_known_from_the_others():
    loads = [
        Load(rate=1.0, ends=None, peaks=peaks, growth=peaks, valid=True)
        for peaks in ({"tap": 1.0}, {"tap": 3.0, "target": 2.0})
    ]
    document = Point("bulk", 10, loads).document()
    assert document["peaks"] == document["growth"] == {"tap": 3.0, "target": 2.0}


def test_nothing_measured_is_nothing_reached():
    assert {goal.reached for goal in judge({})} == {None}


def test_a_void_row_shows_its_counts_and_no_speed():
    text = markdown(report(row("bulk", 90_000.0, rows=9_999)))
    assert "void: 9,999 rows, 9,999 ids" in text
    assert "90,000" not in text


def test_a_report_names_rate_memory_and_size():
    text = markdown(report(row("bulk", 90_000.0)))
    line = next(line for line in text.splitlines() if line.startswith("| title of bulk |"))
    for value in ("90,000", "tap 60, target 90", "10,000", "| 4 |"):
        assert value in line


def test_a_report_takes_the_place_of_the_one_before():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = insert(page, "new\n")
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert insert(once, "new\n") == once


def test_a_page_without_markers_is_left_alone():
    with pytest.raises(ValueError, match="has no"):
        insert("text", "new")


def whole() -> dict:
    names = ("bulk", "bulk-meltano", "record-meltano", "plain-meltano", "dlt-append", "dlt-merge")
    results = report(*(row(name, 60_000.0) for name in names), row("hand", 20_000.0))
    peaks = {"tap": 64.4, "target": 95.0}
    sizes = (100_000, 3_000_000)
    results["growth"] = [
        point("bulk", 1.0, 1.0) | {"events": size, "peaks": peaks} for size in sizes
    ]
    results["real"] = [
        {"name": name, "share": share, "refused": refused, "valid": True}
        for name, share, refused in (
            ("record lane", 0.998, 0),
            ("bulk lane", 0.997, 0),
            ("hand-written loop", 0.514, 0),
            ("dlt, append", 0.929, 2),
        )
    ]
    return results


def test_the_readme_says_what_was_measured():
    text = " ".join(headline(whole()).split())
    for words in (
        "use 0.998 and 0.997 of it with no 429",
        "uses 0.51.",
        "60,000 events/s on 2 cores, 3.0 times as many as that loop and 1.0 times as many as dlt",
        "64 MiB and 95 MiB of memory for tap and loader at 3,000,000 events",
    ):
        assert words in text


def test_the_comparison_has_a_line_for_each_program():
    lines = peers(whole()).splitlines()
    assert len(lines) == 2 + 6
    assert "| title of dlt-append | 60,000 | 1 | 90 | 0.929 | 2 |" in lines


@pytest.mark.parametrize("part", ["comparison", "growth", "real"])
def test_half_a_measurement_is_quoted_nowhere(part):
    with pytest.raises(MissingPartError):
        headline(whole() | {part: []})


@pytest.mark.parametrize("part", ["comparison", "growth"])
def test_half_a_measurement_replaces_no_report(part, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\nold\n{END}\n")
    assert not pages._put(page, pages.report, whole() | {part: []})
    assert "old" in page.read_text()


def test_a_run_under_the_limit_that_is_void_is_quoted_nowhere():
    results = whole()
    results["real"][0]["valid"] = False
    for quote in (headline, peers):
        with pytest.raises(MissingPartError):
            quote(results)


def test_memory_that_was_not_seen_is_quoted_nowhere():
    results = whole()
    results["growth"][0]["peaks"] = {}
    with pytest.raises(MissingPartError):
        headline(results)


def test_a_void_row_is_quoted_nowhere():
    results = whole()
    results["comparison"][-1]["valid"] = False
    for quote in (headline, peers):
        with pytest.raises(MissingPartError):
            quote(results)


def test_the_parts_of_a_pipeline_are_told_apart():
    venv = "/x/.meltano/extractors/tap-datasync/venv/bin"
    assert role([f"{venv}/python", f"{venv}/tap-datasync", "--config", "c"]) == "tap"
    assert role(["python", "/x/bin/target-postgres-checkpoint"]) == "target"
    assert role(["/x/.venv/bin/python", "/x/.venv/bin/meltano", "run"]) == "meltano"
    assert role(["python", "bench/peers/hand_loop.py"]) == "program"
    assert role(["python", "bench/peers/plain_tap.py"]) == "tap"
