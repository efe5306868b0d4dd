"""A run of the tap in the test's own process, and what it wrote."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync
from tap_helpers import KEY, FakeClock, body_of, event, feeding, lines_of

PAGES: dict[str | None, bytes] = {
    None: body_of(*map(event, range(5)), nextCursor="c5", total=12),
    "c5": body_of(
        *map(event, range(5, 9)), event(9, type=5), event(10, id=...), nextCursor="c11", total=12
    ),
    "c11": body_of(event(11), nextCursor=None, hasMore=False, total=12),
}


class Output:
    """What a run wrote."""

    def __init__(self, text: str) -> None:
        self.messages = lines_of(text)

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind and stream in (None, m.get("stream"))]

    def rows(self, stream: str = "events") -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD", stream)]

    @property
    def bookmarks(self) -> list[dict[str, Any]]:
        return [m["value"]["bookmarks"]["events"] for m in self.of("STATE")]

    @property
    def outline(self) -> list[str]:
        """Return the messages as words; equal ones in a row once, with their count."""
        words: list[str] = []
        for message in self.messages:
            word = f"{message['type']} {message.get('stream', '')}".strip()
            if words and words[-1].split(" x")[0] == word:
                count = int([*words[-1].split(" x"), "1"][1])
                words[-1] = f"{word} x{count + 1}"
            else:
                words.append(word)
        return words


class Runner:
    """Runs the tap against pages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._monkeypatch = monkeypatch

    def __call__(  # noqa: PLR0913 - all that a run may be given
        self,
        pages: dict[str | None, bytes] = PAGES,
        *,
        config: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        catalog: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        error: type[BaseException] | None = None,
    ) -> Output:
        self._monkeypatch.setattr(EventsStream, "clock", FakeClock())
        with feeding(pages, headers) as server:
            # The same feed, although it has another port now.
            if state and "source" in state["bookmarks"]["events"]:
                state = copy.deepcopy(state)
                state["bookmarks"]["events"]["source"] = server.url
            tap = TapDataSync(
                config={"api_url": server.url, "api_key": KEY} | (config or {}),
                state=state,
                catalog=catalog,
            )
            self._capfd.readouterr()
            if error is None:
                tap.sync_all()
            else:
                with pytest.raises(error):
                    tap.sync_all()
        sys.stdout.flush()
        return Output(self._capfd.readouterr().out)


def catalog_with(*deselected: tuple[str, ...], **events: str) -> dict[str, Any]:
    """Return the discovered catalog without these streams or fields."""
    tap = TapDataSync(config={}, validate_config=False)
    catalog = json.loads(tap.catalog_json_text)
    for stream in catalog["streams"]:
        if stream["tap_stream_id"] == "events":
            stream.update(events)
        for metadata in stream["metadata"]:
            place = (stream["tap_stream_id"], *metadata["breadcrumb"][1:])
            metadata["metadata"]["selected"] = place not in deselected
    return catalog
