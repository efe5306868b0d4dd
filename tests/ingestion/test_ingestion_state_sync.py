"""Reconciling Meltano's state with the checkpoint, and separating sample and real events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasync_ingestion.config import Api, RunConfig
from datasync_ingestion.errors import ConfigError
from datasync_ingestion.state_sync import (
    SourceChange,
    check_source_change,
    reconcile,
    source_label,
)

ROOT = Path(__file__).parents[2]
REAL, OTHER = "https://a.test/api/v1", "https://b.test/api/v1"


def state(cursor: str | None) -> dict[str, Any]:
    return {"bookmarks": {"events": {"cursor": cursor}, "pages": {}}}


@pytest.mark.parametrize(
    ("saved", "committed"),
    [
        ({}, None),
        (None, None),
        (state("a"), state("a")),
        ({"bookmarks": {}}, {"bookmarks": {"events": None}}),
    ],
)
def test_equal_states_are_not_changed(saved: Any, committed: Any) -> None:
    assert reconcile(saved, committed) is None


@pytest.mark.parametrize("saved", [None, {}, {"bookmarks": {"events": {}}}])
def test_missing_state_resumes_from_checkpoint(saved: Any) -> None:
    update = reconcile(saved, state("a"))
    assert update is not None
    assert update.state == state("a")
    assert "is empty, unlike the database's checkpoint" in update.reason


def test_checkpoint_replaces_different_state() -> None:
    """A backup was restored, or Meltano was killed before it saved its state."""
    update = reconcile(state("b"), state("a"))
    assert update is not None
    assert update.state == state("a")
    assert "differs from the database's checkpoint" in update.reason


def test_clears_state_without_checkpoint() -> None:
    update = reconcile(state("a"), None)
    assert update is not None
    assert update.state is None


@pytest.mark.parametrize("saved", [None, state("a"), state("b")])
def test_full_refresh_clears_state(saved: Any) -> None:
    update = reconcile(saved, state("a"), full_refresh=True)
    assert update is not None
    assert update.state is None


@pytest.mark.parametrize("document", [{"bookmarks": [1]}, {"bookmarks": {"events": [1]}}])
def test_malformed_state_counts_as_empty(document: Any) -> None:
    assert reconcile(document, None) is None


def test_source_of_sample_events_is_their_feed() -> None:
    assert source_label(RunConfig(), "") == "sandbox"
    assert source_label(RunConfig(), "events=20 seed=3") == "sandbox events=20 seed=3"


def test_source_of_real_events_is_api_address() -> None:
    assert source_label(RunConfig(Api(f"{REAL}/", "k")), "") == REAL
    # Address and key have to be those that Compose sets.
    for url, key in (
        ("http://sandbox:8765/api/v1", "a-real-key"),
        ("http://sandbox:80/api/v1", "sandbox-key"),
        ("https://sandbox/api/v1", "sandbox-key"),
    ):
        assert source_label(RunConfig(Api(url, key)), "") == url


def test_compose_sandbox_serves_sample_events() -> None:
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text()
    found = re.search(r"API_BASE_URL=(\S+) API_KEY=(\S+)", entrypoint)
    assert found
    config = RunConfig(Api(found[1], found[2]))
    assert source_label(config, "") == f"sandbox {found[1]}"


@pytest.mark.parametrize(
    ("last", "current", "change"),
    [
        (None, REAL, SourceChange.NONE),
        (None, "sandbox", SourceChange.NONE),
        (REAL, REAL, SourceChange.NONE),
        ("sandbox", "sandbox", SourceChange.NONE),
        ("sandbox", "sandbox events=20", SourceChange.TRUNCATE),
        # The tap compares real addresses itself.
        (REAL, OTHER, SourceChange.NONE),
        # An address is not the sandbox, whatever its name.
        ("https://sandbox.test", "https://sandbox.test/2", SourceChange.NONE),
    ],
)
def test_detects_change_of_source(last: str | None, current: str, change: SourceChange) -> None:
    assert check_source_change(last, current, "events at db") is change


@pytest.mark.parametrize(
    ("last", "current", "message"),
    [
        ("sandbox events=5", REAL, "holds sample events of the sandbox"),
        (REAL, "sandbox", f"holds events from {REAL}"),
    ],
)
def test_refuses_to_mix_sample_and_real_events(last: str, current: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_source_change(last, current, "events at db")
    assert not str(caught.value).count(", or")
    with pytest.raises(ConfigError, match=r", or remove it\.$"):
        check_source_change(last, current, "events at db", "remove it")
