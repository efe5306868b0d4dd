"""Fixtures of the tap's tests."""

from __future__ import annotations

import logging
import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings
from tap_datasync.signals import SIGNALS

from tests.tap.tap_runs import Runner

# The same examples in every run; `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore",
    deadline=None,
    max_examples=2000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def _isolated():
    """Restore what a tap changes in its process: signals, logging, hooks."""
    signals = (*SIGNALS, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in signals}
    root = logging.getLogger()
    level, handlers, hook = root.level, list(root.handlers), sys.excepthook
    filters = {handler: list(handler.filters) for handler in handlers}
    yield
    signal.alarm(0)
    for number, handler in before.items():
        signal.signal(number, handler)
    root.setLevel(level)
    root.handlers[:] = handlers
    for handler, kept in filters.items():
        handler.filters[:] = kept
    sys.excepthook = hook
    logging.captureWarnings(capture=False)


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the tap in this process against pages; returns what it wrote."""
    monkeypatch.chdir(tmp_path)
    return Runner(monkeypatch, capfd)
