"""Stand-ins for a laptop: the DataSync API with its limits and faults, and a real PostgreSQL."""

from __future__ import annotations

from datasync_sandbox.blocks import Oddities
from datasync_sandbox.faults import Fault, Faults
from datasync_sandbox.feed import Feed, FeedPage
from datasync_sandbox.head import Growth
from datasync_sandbox.model import ApiModel
from datasync_sandbox.options import ApiOptions
from datasync_sandbox.outcomes import NoReply, Outcome, Refused, Reset, Response
from datasync_sandbox.policy import Exchange, Policy
from datasync_sandbox.rows import Row, row_fields

__all__ = [
    "ApiModel",
    "ApiOptions",
    "Exchange",
    "Fault",
    "Faults",
    "Feed",
    "FeedPage",
    "Growth",
    "NoReply",
    "Oddities",
    "Outcome",
    "Policy",
    "Refused",
    "Reset",
    "Response",
    "Row",
    "row_fields",
]
