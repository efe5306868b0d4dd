"""Who is let in, and how often: keys and budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasync_sandbox.answers import error, too_many
from datasync_sandbox.ratelimit import Verdict, is_over, make_bucket, whole_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasync_sandbox.outcomes import Response
    from datasync_sandbox.policy import ApiConfig, Exchange

BULK_LIMIT = 20
"""Requests a window to the bulk endpoint."""


@dataclass
class Call:
    """A request on its way through the model.

    Attributes:
        now: Arrival, in seconds of the clock.
        delay: Seconds until its answer is due.
        query: Parameters, decoded.
        headers: Headers, their names in lower case.
        body: Bytes of the body.
        exchange: Its entry in the log.
        request_id: Its id.
    """

    now: float
    delay: float
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    exchange: Exchange
    request_id: str

    def answer_headers(self, verdict: Verdict | None) -> dict[str, str]:
        """Return the headers that every answer of the API has."""
        return {"X-Request-ID": self.request_id, **(verdict.headers() if verdict else {})}


class Gate:
    """The state of one key."""

    def __init__(self, policy: ApiConfig) -> None:
        """Open with a full budget.

        Args:
            policy: The rules.
        """
        self._policy = policy
        self._bucket = make_bucket(policy.window_kind, policy.limit, policy.window)
        self._bulk_bucket = make_bucket(policy.window_kind, BULK_LIMIT, policy.window)
        self._blocked_until = -math.inf
        self._key_used: float | None = None
        self._key_requests = 0

    def authenticate(self, call: Call) -> Response | None:
        """Return a refusal, or ``None`` for a good key. A refused request spends no budget."""
        headers = call.answer_headers(None)
        given = call.headers.get("x-api-key", call.query.get("api_key"))
        if given is None:
            return error(401, "UNAUTHORIZED", "Missing API key", headers, call.delay)
        if given != self._policy.key:
            return error(401, "UNAUTHORIZED", "Invalid API key", headers, call.delay)
        if self._key_used is None:
            self._key_used = call.now
        lifetime, requests = self._policy.key_lifetime, self._policy.key_requests
        outlived = lifetime is not None and call.now >= self._key_used + lifetime
        if outlived or (requests is not None and self._key_requests >= requests):
            return error(401, "API_KEY_EXPIRED", "API key expired", headers, call.delay)
        self._key_requests += 1
        return None

    def spend(self, call: Call) -> Verdict | Response:
        """Count the request, or refuse it with 429."""
        if is_over(self._blocked_until, call.now):
            verdict = self._bucket.take(call.now)
        else:
            reset = whole_seconds(self._blocked_until - call.now)
            verdict = Verdict(allowed=False, limit=self._policy.limit, remaining=0, reset=reset)
        if verdict.allowed:
            return verdict
        return _refusal(call, verdict)

    def spend_bulk(self, call: Call) -> Verdict | Response:
        """Count a request for many events, which have a budget of their own."""
        verdict = self._bulk_bucket.take(call.now)
        return verdict if verdict.allowed else _refusal(call, verdict)

    def block_until(self, instant: float) -> None:
        """Refuse all requests before an instant."""
        self._blocked_until = max(self._blocked_until, instant)


def _refusal(call: Call, verdict: Verdict) -> Response:
    """Answer 429; ``Retry-After`` equals the reset."""
    headers = {**call.answer_headers(verdict), "Retry-After": str(verdict.reset)}
    return too_many(verdict.reset, verdict.limit, headers, call.delay)
