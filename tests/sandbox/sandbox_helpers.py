"""A minimal client for the tests of the sandbox: over HTTP, or of the model in this process."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from datasync_sandbox.testing import BASE, ApiModel, ApiOptions, Feed, FeedOptions

KEY = {"X-API-Key": "sandbox-key"}
START = 1_700_000_000.25


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(api, path="/events", *, method="GET", headers=None, base=None, **query) -> Reply:
    """Send one request on a connection of its own, by default with the right key."""
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
    try:
        target = (parts.path if base is None else base) + path
        target += f"?{urlencode(query)}" if query else ""
        sent = {"X-API-Key": api.key} if headers is None else headers
        connection.request(method, target, headers=sent)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def api(*fault, started_at=None, **options) -> ApiModel:
    """Return a model of the API with faults and other options."""
    return ApiModel(ApiOptions(fault=fault, **options), started_at=started_at)


def feed_of(events, **options) -> Feed:
    return Feed(FeedOptions(events, **options))


def ask(model: ApiModel, now=START, path="/events", headers=KEY, method="GET", **query):
    """Return the outcome of a request to a model."""
    texts = {name: str(value) for name, value in query.items() if value is not None}
    return model.handle(method, BASE + path, texts, headers, now=now)


def page(model: ApiModel, now=START, **query) -> Any:
    """Return a page of a model."""
    response = ask(model, now, **query)
    assert response.status == 200, response
    return json.loads(response.body)


def code(response) -> tuple[int, str]:
    """Return status and code of an error."""
    return response.status, json.loads(response.body)["code"]
