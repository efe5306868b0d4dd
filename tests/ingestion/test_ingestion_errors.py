"""Signals end a run at the places that check for them; ignored signals stay ignored."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion import errors
from datasync_ingestion.errors import Interrupted, SignalWatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    handlers = [signal.getsignal(number) for number in HANDLED]
    yield
    for number, handler in zip(HANDLED, handlers, strict=True):
        signal.signal(number, handler)


def test_ignored_signal_stays_ignored() -> None:
    """`nohup` ignores SIGHUP, and a shell SIGINT for its background jobs."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watcher = SignalWatcher()
    watcher.install()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGINT)
    watcher.check()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        watcher.check()


@pytest.mark.parametrize("first", HANDLED)
def test_first_signal_determines_exit_code(first: signal.Signals) -> None:
    watcher = SignalWatcher()
    watcher.install()
    signal.raise_signal(first)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        watcher.check()
    assert caught.value.exit_code == 128 + first


def test_signal_ends_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = SignalWatcher()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 5, "it continues to sleep"
        if len(slept) == 2:
            watcher.received = signal.SIGTERM

    monkeypatch.setattr(errors.time, "sleep", sleep)
    with pytest.raises(Interrupted):
        watcher.sleep(3600)
    assert sum(slept) < 1


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_signal_ends_command(monkeypatch: pytest.MonkeyPatch, trap: str) -> None:
    monkeypatch.setattr(errors, "_KILL_AFTER_SECONDS", 0.2)
    watcher = SignalWatcher()
    watcher.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        watcher.run(["sh", "-c", f"{trap}while :; do sleep 0.1; done"], cwd=Path.cwd())
