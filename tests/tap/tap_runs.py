"""A run of the tap in the test's own process, and what it wrote."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tap_datasync.errors import TapDataSyncError
from tap_datasync.state import ScanState
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync

from tests.tap.tap_helpers import KEY, FakeClock, FakeTransport, body_of, event, lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest
    from tap_datasync.client import Clock, RawResponse

SOURCE = "https://example.com/api/v1"

PAGES: dict[str | None, bytes | RawResponse] = {
    None: body_of(*map(event, range(5)), nextCursor="c5", total=12),
    "c5": body_of(
        *map(event, range(5, 9)), event(9, type=5), event(10, id=...), nextCursor="c11", total=12
    ),
    "c11": body_of(event(11), nextCursor=None, hasMore=False, total=12),
}


class Output:
    """What a run wrote.

    Attributes:
        error: How it failed; ``None`` if the scan is finished.
        cursors: Cursors of its requests, where they were not sent over HTTP.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.messages = lines_of(text)
        self.error: TapDataSyncError | None = None
        self.cursors: list[str | None] = []

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind and stream in (None, m.get("stream"))]

    def rows(self, stream: str = "events") -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD", stream)]

    @property
    def emitted(self) -> list[str]:
        return [row["id"] for row in self.rows()]

    @property
    def bookmarks(self) -> list[dict[str, Any]]:
        return [m["value"]["bookmarks"]["events"] for m in self.of("STATE")]

    @property
    def states(self) -> list[ScanState]:
        return [ScanState.from_dict(bookmark) for bookmark in self.bookmarks]

    @property
    def state(self) -> ScanState:
        return self.states[-1]


class Runner:
    """Runs the tap."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._monkeypatch = monkeypatch

    def __call__(  # noqa: PLR0913 - all that a run may be given
        self,
        *outcomes: RawResponse | Exception | bytes,
        feed: Mapping[str | None, bytes | RawResponse] = PAGES,
        url: str | None = None,
        state: ScanState | None = None,
        catalog: dict[str, Any] | None = None,
        clock: Clock | None = None,
        latency: float = 0.0,
        **config: Any,
    ) -> Output:
        """Run the tap once.

        Args:
            outcomes: Responses in their order.
            feed: Responses by cursor, where there are no outcomes.
            url: Address of a server, in place of both.
            state: State that the last run has left.
            catalog: Catalog; all streams by default.
            clock: Clock of the tap.
            latency: Seconds that each response takes.
            config: Settings.
        """
        clock = clock or FakeClock()
        transport = FakeTransport(clock, *outcomes, feed=feed, latency=latency)
        self._monkeypatch.setattr(EventsStream, "clock", clock)
        if url is None:
            self._monkeypatch.setattr(EventsStream, "transport", lambda _: transport)
        tap = TapDataSync(
            config={"api_url": url or f"{SOURCE}/", "api_key": KEY, "lookback": 10} | config,
            state={"bookmarks": {"events": state.to_dict()}} if state else None,
            catalog=catalog,
        )
        self._capfd.readouterr()
        error = None
        try:
            tap.sync_all()
        except TapDataSyncError as caught:
            error = caught
        sys.stdout.flush()
        output = Output(self._capfd.readouterr().out)
        output.error, output.cursors = error, transport.cursors
        return output


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
