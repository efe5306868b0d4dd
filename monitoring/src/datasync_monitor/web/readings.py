"""What the page reads, shared by all who look at it at the same time.

All visitors share one `Reader` and, for as long as a refresh lasts, each answer of the database:
ten open tabs cost as much as one.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta

import streamlit as st

from datasync_monitor.database import Settings
from datasync_monitor.history import Run, Timeline, read_runs, read_timeline
from datasync_monitor.progress import Progress, read_progress
from datasync_monitor.reader import Reader
from datasync_monitor.shape import Rejected, Shape, read_reasons, read_rejected, read_shape


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schema", required=True)
    parser.add_argument("--every", type=float, required=True)
    parser.add_argument("--patience", type=float, required=True)
    return parser.parse_args(sys.argv[1:])


OPTIONS = _options()
# The questions to `events` and `rejected_events` are asked less often, by default every 15 s.
SLOWLY_S = OPTIONS.every * 7.5


@st.cache_resource
def reader() -> Reader:
    """Share one connection."""
    return Reader(Settings.from_environment(schema=OPTIONS.schema))


@st.cache_data(ttl=OPTIONS.every * 0.8, show_spinner=False)
def progress() -> Progress:
    """Read the progress."""
    patience = timedelta(seconds=OPTIONS.patience)
    return reader().read(
        lambda connection, schema: read_progress(connection, schema=schema, patience=patience)
    )


@st.cache_data(ttl=OPTIONS.every * 0.8, show_spinner=False)
def timeline(since: datetime, until: datetime) -> Timeline:
    """Read the load's history since `since`; see `read_timeline`."""
    return reader().read(read_timeline, since, until)


@st.cache_data(ttl=SLOWLY_S * 0.8, show_spinner=False)
def runs() -> tuple[Run, ...]:
    """Read the newest runs."""
    return reader().read(read_runs)


@st.cache_data(ttl=SLOWLY_S * 0.8, show_spinner=False)
def shape() -> Shape:
    """Count or sample the events."""
    return reader().read(read_shape)


@st.cache_data(ttl=SLOWLY_S * 0.8, show_spinner=False)
def rejected() -> tuple[dict[str, int], tuple[Rejected, ...]]:
    """Read the reasons of rejected events, and the newest ones."""
    return reader().read(read_reasons), reader().read(read_rejected)
