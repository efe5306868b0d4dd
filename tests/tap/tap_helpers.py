"""Shared by the tests of the tap: events, pages, a clock, a scripted transport, servers."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from tap_datasync.client import PageClient, RawResponse
from tap_datasync.parsing import EventRecord, FetchedPage, parse_page
from tap_datasync.timestamps import from_milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

KEY = "sesame-0f3a-key"
NOON = datetime(2026, 1, 27, 12, tzinfo=timezone.utc)
MILLIS = 1_769_515_200_000
"""NOON in Unix milliseconds."""

QUIET = logging.getLogger("tests.quiet")


def event(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a documented event; each higher number is a second older.

    A change to ``...`` removes the field.
    """
    whole = {
        "id": f"id-{number:06}",
        "sessionId": f"session-{number // 50}",
        "userId": f"user-{number % 7}",
        "type": "page_view",
        "name": "event_abc123",
        "properties": {"page": "/home"},
        "timestamp": MILLIS - 1000 * number,
        "session": {"id": f"session-{number // 50}", "deviceType": "mobile", "browser": "Edge"},
    } | changes
    return {name: value for name, value in whole.items() if value is not ...}


def page_of(*events: Any, **changes: Any) -> dict[str, Any]:
    """Return a page as the API sends it; changes go to ``pagination`` or ``meta`` by name."""
    page = {
        "data": list(events),
        "pagination": {
            "limit": 5000,
            "hasMore": True,
            "nextCursor": "next",
            "cursorExpiresIn": 116,
        },
        "meta": {"total": 1000, "returned": len(events), "requestId": "r"},
    }
    for name, value in changes.items():
        part = page["meta" if name in page["meta"] else "pagination"]
        if value is ...:
            del part[name]
        else:
            part[name] = value
    return page


def body_of(*events: Any, **changes: Any) -> bytes:
    """Return :func:`page_of` as bytes."""
    return json.dumps(page_of(*events, **changes)).encode()


def last_page(*events: Any, **changes: Any) -> bytes:
    """Return the body of a page that is the only one."""
    whole = {"hasMore": False, "nextCursor": None, "total": len(events)} | changes
    return body_of(*events, **whole)


def record_at(name: str, timestamp: datetime | None) -> EventRecord:
    """Return a record of which only the id and the timestamp matter."""
    raw = msgspec.Raw(b"{}")
    return EventRecord(name, None, None, None, None, raw, timestamp, raw)


def fetched(
    records: list[EventRecord],
    *,
    cursor: str | None = "next",
    has_more: bool | None = True,
    total: int = 1000,
    at: datetime = NOON,
    **changes: Any,
) -> FetchedPage:
    """Return a page that was requested at a time, and received two seconds later."""
    fields: dict[str, Any] = {
        "records": records,
        "rejections": [],
        "returned": len(records),
        "has_more": has_more,
        "next_cursor": cursor,
        "expires_in": 116,
        "total": total,
        "unknown_fields": frozenset(),
        "invalid_events": 0,
        "corrupted": False,
        "requested_at": at,
        "received_at": at + timedelta(seconds=2),
        "response_bytes": 100,
        "rate_limit": None,
    }
    return FetchedPage(**fields | changes)


class FakeClock:
    """A clock that moves only when it sleeps or is moved."""

    def __init__(self, now: datetime = NOON) -> None:
        self.started = now
        self.passed = 0.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def now(self) -> datetime:
        return self.started + timedelta(seconds=self.passed)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.passed += seconds


class FakeTransport:
    """Returns responses or raises errors: in order, and then the last one; or by cursor."""

    def __init__(
        self,
        clock: FakeClock,
        *outcomes: RawResponse | Exception | bytes,
        feed: Mapping[str | None, bytes | RawResponse] = MappingProxyType({}),
        latency: float = 0.0,
    ) -> None:
        self.clock = clock
        self.outcomes = deque(outcomes)
        self.feed = feed
        self.latency = latency
        self.cursors: list[str | None] = []

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        assert limit == 5000
        assert len(self.cursors) < 500, "the run does not end"
        self.cursors.append(cursor)
        self.clock.passed += self.latency
        if self.outcomes:
            outcome = self.outcomes.popleft() if len(self.outcomes) > 1 else self.outcomes[0]
        else:
            outcome = self.feed[cursor]
        if isinstance(outcome, Exception):
            raise outcome
        return RawResponse(200, {}, outcome) if isinstance(outcome, bytes) else outcome


def client_of(
    *outcomes: RawResponse | Exception | bytes, logger: logging.Logger = QUIET
) -> tuple[PageClient, FakeTransport, FakeClock]:
    """Return a client over prepared outcomes."""
    clock = FakeClock()
    transport = FakeTransport(clock, *outcomes)
    client = PageClient(transport, parse_page, page_size=5000, clock=clock, logger=logger)
    return client, transport, clock


def limits(limit: int, remaining: int, reset: int) -> dict[str, str]:
    """Return the headers of the rate limit."""
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(reset),
    }


@dataclass
class Server:
    """An HTTP server; ``requests`` are the heads of the requests that it has received."""

    url: str
    requests: list[str]


@contextmanager
def serving(respond: Callable[[socket.socket, str], None]) -> Iterator[Server]:
    """Serve over a bare socket.

    Args:
        respond: Receives each connection and the head of its request; closed afterwards.
    """

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (part := connection.recv(65536)):
                head += part
            server.requests.append(head.decode("latin-1"))
            respond(connection, server.requests[-1])

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1", [])
        threading.Thread(target=accept, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def http(body: bytes, status: int = 200, **headers: str) -> bytes:
    """Return a response; ``_`` in the name of a header stands for ``-``."""
    lines = [f"HTTP/1.1 {status} x", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def sending(*parts: bytes) -> Callable[[socket.socket, str], None]:
    """Return what sends the same bytes on every connection."""

    def respond(connection: socket.socket, _head: str) -> None:
        for part in parts:
            connection.sendall(part)

    return respond


def cursor_of(head: str) -> str | None:
    """Return the cursor of a request."""
    return parse_qs(urlsplit(head.split(" ")[1]).query).get("cursor", [None])[0]


def feeding(pages: dict[str | None, bytes], **headers: str) -> AbstractContextManager[Server]:
    """Serve pages by their cursor; any other cursor has expired."""

    def respond(connection: socket.socket, head: str) -> None:
        cursor = cursor_of(head)
        if f"X-API-Key: {KEY}\r\n" not in head:
            connection.sendall(http(b"{}", 401))
        elif cursor in pages:
            connection.sendall(http(pages[cursor], **headers))
        else:
            connection.sendall(http(b'{"code":"CURSOR_EXPIRED"}', 400))

    return serving(respond)


def seconds_after_noon(seconds: float) -> datetime:
    """Return the time so many seconds after NOON."""
    return from_milliseconds(MILLIS + round(seconds * 1000))


def lines_of(output: str) -> list[dict[str, Any]]:
    """Return the messages of a tap's output; every line must be complete."""
    assert not output or output.endswith("\n")
    return [json.loads(line) for line in output.split("\n")[:-1]]
