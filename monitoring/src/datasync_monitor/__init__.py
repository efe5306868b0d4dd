"""Progress, health check, dashboard and metrics of a load, read from PostgreSQL."""

from __future__ import annotations

__version__ = "0.1.0"
