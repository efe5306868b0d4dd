"""The stand-ins, with the real sandbox: what died comes back as it was, and where it was."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion.interrupts import Interrupts
from datasync_ingestion.standins import StandIns
from ingestion_helpers import is_alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def standins(tmp_path: Path) -> Iterator[StandIns]:
    program = tmp_path / ".venv" / "bin" / "datasync-sandbox"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m datasync_sandbox "$@"\n')
    program.chmod(0o755)
    standins = StandIns(tmp_path, Interrupts())
    yield standins
    standins.stop()


def note(standins: StandIns) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((standins.directory / "api.json").read_text())
    return found


def test_what_died_comes_back_as_it_was_and_where_it_was(standins: StandIns) -> None:
    """Port 0 is a free one, but only the first time; what lives is left alone."""
    options = ("--port=0", "--events=20", "--key=a-key", "--db-port=0")
    api, _ = standins.start(options, api=True)
    assert api is not None
    first = note(standins)
    assert standins.revive()
    assert note(standins) == first
    for _ in range(2):
        pid = note(standins)["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not is_alive(pid))
        assert standins.revive()
        second = note(standins)
        assert second["pid"] != pid
        assert (second["url"], second["key"]) == (api.url, "a-key")
        assert "--events=20" in second["args"]
        # And once more, now that it lives again.
        assert standins.revive()
        assert note(standins) == second


def test_where_nothing_was_started_nothing_is_revived(standins: StandIns) -> None:
    assert standins.revive()
    assert not standins.directory.exists()
