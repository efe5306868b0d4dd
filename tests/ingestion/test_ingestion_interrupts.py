"""Signals are looked at where it is fit, and those that were ignored before stay so."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion import interrupts
from datasync_ingestion.interrupts import Interrupts, StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _hangups_are_put_back() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, handler)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """`nohup` ignores SIGHUP, and a shell SIGINT for what it starts in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    heard = Interrupts()
    heard.install()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGINT)
    heard.check()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="SIGTERM"):
        heard.check()


def test_the_first_signal_counts() -> None:
    heard = Interrupts()
    heard.install()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StoppedError) as caught:
        heard.check()
    assert caught.value.exit_code == 129


def test_a_pause_ends_at_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Interrupts()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 5, "it sleeps on"
        if len(slept) == 2:
            heard.received = signal.SIGTERM

    monkeypatch.setattr(interrupts.time, "sleep", sleep)
    with pytest.raises(StoppedError):
        heard.sleep(3600)
    assert sum(slept) < 1


def test_a_command_is_ended_at_a_signal() -> None:
    heard = Interrupts()
    heard.received = signal.SIGTERM
    with pytest.raises(StoppedError):
        heard.run(["sleep", "600"], cwd=Path.cwd())
