"""The command line of the bench, with parts that measure nothing."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import psycopg
import pytest


@pytest.fixture
def cli(monkeypatch, tmp_path):
    # Nothing is drawn: matplotlib is of the bench's own environment.
    picture = SimpleNamespace(draw=lambda *_: None)
    monkeypatch.setitem(sys.modules, "datasync_bench.picture", picture)
    module = importlib.import_module("datasync_bench.cli")
    machine = {"cores": 2, "memory_gib": 24, "python": "3.11.7", "postgres": "18.0"}
    monkeypatch.setattr(module, "machine", lambda: machine)
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    return module


def again(requests: int):
    found = {"name": "a full walk", "requests": requests}
    found |= dict.fromkeys(("seconds", "cpu", "limited"), 1.0)
    return SimpleNamespace(document=lambda: found)


def failing(error: Exception):
    def fail(*_: object, **__: object):
        raise error

    return fail


@pytest.mark.parametrize(
    "failure",
    [
        (RuntimeError("PostgreSQL has stopped."), "RuntimeError: PostgreSQL has stopped."),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (
            psycopg.OperationalError("connection failed:\n  Connection refused"),
            "OperationalError: connection failed: Connection refused",
        ),
    ],
)
def test_a_failure_ends_in_one_sentence(cli, monkeypatch, tmp_path, capsys, failure):
    error, sentence = failure
    monkeypatch.setattr(cli, "compare", failing(error))
    assert cli.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"The bench stopped: {sentence}\n"


def test_a_part_that_fails_costs_none_that_was_measured(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "compare", lambda *_, **__: [again(1)])
    monkeypatch.setattr(cli.growth, "grow", failing(RuntimeError("PostgreSQL has stopped.")))
    assert cli.main(["--growth", "--out", str(tmp_path)]) == 1
    assert "comparison" in json.loads((tmp_path / "results.json").read_text())


def test_what_is_kept_is_written_again_without_being_measured(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(cli.pacing, "run_again", lambda _: [again(1)])
    monkeypatch.setattr(cli.os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    arguments = ["--only", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--again"]) == 0
    (tmp_path / "results.md").unlink()
    assert cli.main([*arguments, "--keep"]) == 0
    text = (tmp_path / "results.md").read_text()
    assert text.count("Load of the machine before the bench began: 0.2.") == 1
    assert "| a full walk | 1 |" in text


@pytest.mark.parametrize("part", ["growth", "real"])
def test_a_void_load_is_a_failure_in_every_part(cli, tmp_path, capsys, part):
    growth = {"subject": "bulk", "events": 10, "loads": [{}], "peaks": {}, "growth": {}}
    real = {"name": "bulk lane", "factor": 1.0, "share": 1.0, "requests": 21, "refused": 0}
    void = {
        "growth": growth | {"rate": None, "change": None},
        "real": real | {"seconds": 120.0},
    }
    results = {"load": {part: 0.0}, part: [void[part] | {"valid": False}]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert cli.main(["--only", "--keep", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "lane (void)" in captured.out or "bulk (void)" in captured.out
    assert "not loaded every event once" in captured.err


def test_a_smoke_run_is_written_into_no_page(cli, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--smoke", "--update-readme"])
    assert end.value.code == 2
    assert "--smoke measures nothing" in capsys.readouterr().err


def test_a_smoke_run_tries_growth_too(cli):
    args = cli.settle(cli.parser().parse_args(["--smoke"]))
    assert [name for name, _, _ in cli.asked(args)] == ["comparison", "growth", "again"]


def test_all_is_everything_but_the_run_in_real_time(cli):
    args = cli.settle(cli.parser().parse_args(["--all"]))
    names = [name for name, _, _ in cli.asked(args)]
    assert names == ["comparison", "growth", "paced", "again"]


@pytest.mark.parametrize("option", ["--events", "--growth"])
def test_a_size_from_which_start_up_cannot_be_taken_is_refused(cli, option):
    with pytest.raises(SystemExit) as end:
        cli.main([option, "5000"])
    assert end.value.code == 2
