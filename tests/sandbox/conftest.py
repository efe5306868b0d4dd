"""A small HTTP client for the sandbox's own tests: it shows everything and mends nothing."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One request a connection, with the right key unless told otherwise."""

    def __init__(self, api) -> None:
        parts = urlsplit(api.url)
        self.host, self.port, self.base, self.key = parts.hostname, parts.port, parts.path, api.key

    def request(self, method="GET", path="/events", body=None, headers=None, **query) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            target = self.base + path + (f"?{urlencode(query)}" if query else "")
            sent = {"X-API-Key": self.key} if headers is None else headers
            connection.request(method, target, body=body, headers=sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def page(self, **query) -> Any:
        answer = self.request(**query)
        assert answer.status == 200, answer
        return answer.json


@pytest.fixture
def client_of():
    return Client
