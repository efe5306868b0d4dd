"""What people look at while events are loaded, read from PostgreSQL alone."""

from __future__ import annotations

__version__ = "0.1.0"
