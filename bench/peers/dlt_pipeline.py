"""dlt with its declarative REST source and its PostgreSQL destination.

Usage: ``dlt_pipeline.py append|merge``; addresses come from the environment.

The source is ``rest_api`` with a header key and a cursor paginator. The two objects are hinted as
JSON, otherwise dlt makes columns or tables of their keys; the timestamps, which this API mixes, are
converted in a ``map`` step.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timezone
from typing import Any

import dlt
from dlt.destinations import postgres
from dlt.sources.rest_api import rest_api_resources


def with_datetime(event: dict[str, Any]) -> dict[str, Any]:
    """Convert a timestamp in milliseconds; dlt parses ISO 8601 itself."""
    timestamp = event["timestamp"]
    if isinstance(timestamp, int):
        event["timestamp"] = datetime.fromtimestamp(timestamp / 1000, timezone.utc)
    return event


def main(disposition: str) -> None:
    """Load the whole feed."""
    env = os.environ
    client: Any = {
        "base_url": env["API_BASE_URL"],
        "auth": {
            "type": "api_key",
            "name": "X-API-Key",
            "api_key": env["API_KEY"],
            "location": "header",
        },
        "paginator": {
            "type": "cursor",
            "cursor_path": "pagination.nextCursor",
            "cursor_param": "cursor",
        },
    }
    resource: Any = {
        "name": "events",
        "primary_key": "id",
        "write_disposition": disposition,
        "columns": {
            "properties": {"data_type": "json"},
            "session": {"data_type": "json"},
            "timestamp": {"data_type": "timestamp"},
        },
        "endpoint": {"path": "events", "params": {"limit": 5000}, "data_selector": "data"},
        "processing_steps": [{"map": with_datetime}],
    }
    (events,) = rest_api_resources({"client": client, "resources": [resource]})
    pipeline = dlt.pipeline(
        "bench",
        destination=postgres(env["DATABASE_URL"]),
        dataset_name="public",
        pipelines_dir="pipelines",
    )
    pipeline.run(events, loader_file_format="insert_values").raise_on_failed_jobs()


if __name__ == "__main__":
    main(sys.argv[1])
