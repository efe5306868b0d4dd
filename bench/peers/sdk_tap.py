"""A plain tap on the Singer SDK, made from its template.

A ``RESTStream`` with an API key in a header, a cursor as the token of the next page, a typed
schema, and ``post_process`` for names and timestamps.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, ClassVar

from singer_sdk import Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import APIKeyAuthenticator
from singer_sdk.pagination import JSONPathPaginator
from singer_sdk.streams import RESTStream
from typing_extensions import override


class EventsStream(RESTStream[str]):
    """All events, newest first."""

    name = "events"
    path = "/events"
    primary_keys: ClassVar[list[str]] = ["id"]
    records_jsonpath = "$.data[*]"
    schema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property("id", th.StringType, required=True),
        th.Property("session_id", th.StringType),
        th.Property("user_id", th.StringType),
        th.Property("type", th.StringType),
        th.Property("name", th.StringType),
        th.Property("properties", th.ObjectType(additional_properties=True)),
        th.Property("timestamp", th.DateTimeType),
        th.Property("session", th.ObjectType(additional_properties=True)),
    ).to_dict()

    @property
    @override
    def url_base(self) -> str:
        return str(self.config["api_url"])

    @property
    @override
    def authenticator(self) -> APIKeyAuthenticator:
        return APIKeyAuthenticator(key="X-API-Key", value=self.config["api_key"], location="header")

    @override
    def get_new_paginator(self) -> JSONPathPaginator:
        return JSONPathPaginator("$.pagination.nextCursor")

    @override
    def get_url_params(self, context: Any, next_page_token: str | None) -> dict[str, Any]:
        params: dict[str, Any] = {"limit": self.config["page_size"]}
        if next_page_token:
            params["cursor"] = next_page_token
        return params

    @override
    def post_process(self, row: dict[str, Any], context: Any = None) -> dict[str, Any]:
        timestamp = row["timestamp"]
        if isinstance(timestamp, int):
            timestamp = datetime.fromtimestamp(timestamp / 1000, timezone.utc).isoformat()
        return {
            "id": row["id"],
            "session_id": row["sessionId"],
            "user_id": row["userId"],
            "type": row["type"],
            "name": row["name"],
            "properties": row["properties"],
            "timestamp": timestamp,
            "session": row["session"],
        }


class TapPlain(Tap):
    """The tap."""

    name = "tap-plain"
    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True),
        th.Property("api_key", th.StringType, required=True, secret=True),
        th.Property("page_size", th.IntegerType, default=5000),
    ).to_dict()

    @override
    def discover_streams(self) -> list[EventsStream]:
        return [EventsStream(self)]


if __name__ == "__main__":
    TapPlain.cli()
