"""Fixtures of all tests."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    """Handle the signals that `nohup` or a background job ignores, which processes inherit."""
    for signum in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    """A tap or a target that is created in this process installs its own handlers."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The directory of recorded responses of the real API, which is not part of the project."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "recorded"
    if not directory.is_dir():
        pytest.skip("the recorded responses are not available")
    return directory
