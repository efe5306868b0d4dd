"""The sandbox of the containers never gets its events mixed with real ones."""

from __future__ import annotations

import pytest
from datasync_ingestion import sources
from datasync_ingestion.errors import UsageError
from datasync_ingestion.settings import Api, Plan
from packaging_helpers import ROOT


def test_events_of_the_compose_sandbox_count_as_made_up() -> None:
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text()
    assert "API_BASE_URL=http://sandbox:8765/api/v1" in entrypoint
    made_up = sources.name(Plan(api=Api("http://sandbox:8765/api/v1", "sandbox-key")), ROOT)
    real = sources.name(Plan(api=Api("https://example.com/api/v1", "a-key")), ROOT)
    with pytest.raises(UsageError, match="holds made-up events of the sandbox"):
        sources.compare(made_up, real, "events at postgres:5432")
    with pytest.raises(UsageError, match="holds real events"):
        sources.compare(real, made_up, "events at postgres:5432")
