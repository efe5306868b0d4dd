"""One HTTP exchange with the API, bounded in time and in bytes.

The exchange happens in a thread, and the caller stops waiting at the deadline. The timeouts
of the HTTP library apply to each receipt of bytes, so alone they would not end a response
whose headers or body drip in, and name resolution has no timeout at all.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import requests
from requests import exceptions
from typing_extensions import override
from urllib3.exceptions import DecodeError, HTTPError, LocationParseError, ReadTimeoutError

from tap_datasync import __version__
from tap_datasync.client import RawResponse
from tap_datasync.errors import ApiChangedError, TransportError, UsageError

CONNECT_TIMEOUT_SECONDS = 10.0

MAX_BODY_BYTES = 64 * 2**20
"""Longest body of a page, decompressed: a page of 5000 events is 1.7 MB."""

MAX_ERROR_BODY_BYTES = 8 * 2**10
"""How much is read of any other body: enough for the API's JSON errors."""

_CHUNK_BYTES = 64 * 2**10
_LONGEST_WAIT_SECONDS = 0.5
_INCOMPLETE = "no complete response within the timeout"

_INVALID_ADDRESS = (
    exceptions.InvalidURL,
    exceptions.InvalidProxyURL,
    exceptions.InvalidSchema,
    LocationParseError,
)
_CONNECTION_ERRORS = (
    exceptions.RequestException,
    HTTPError,
    HTTPException,
    ConnectionError,
    TimeoutError,
    ValueError,
)


class _Session(requests.Session):
    @override
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return no target: finding it, the base class reads the whole body."""


class HttpTransport:
    """Sends requests to one address, and the key nowhere else."""

    def __init__(
        self,
        api_url: str,
        api_key: str,
        *,
        timeout: float,
        logger: logging.Logger,
        path: str = "/events",
    ) -> None:
        """Prepare a session.

        Args:
            api_url: Base address of the API, e.g. ``https://example.com/api/v1``.
            api_key: Sent as header ``X-API-Key``.
            timeout: Seconds from connecting to the last byte of a response.
            logger: Receives a warning when a response is overdue.
            path: What is read, below the base address.
        """
        self._url = api_url.rstrip("/") + path
        self._api_key = api_key
        self._timeout = timeout
        self._logger = logger
        self._session = self._new_session()
        # Its warnings about headers have a traceback, and the cursor.
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        """Send one request for a page; redirects are not followed.

        Raises:
            TransportError: No complete response was received within the timeout.
            ApiChangedError: The address cannot be used.
            UsageError: A proxy or certificate bundle of the environment cannot be used.
        """
        params: dict[str, str | int] = {"limit": limit}
        if cursor is not None:
            params["cursor"] = cursor
        session, deadline = self._session, time.monotonic() + self._timeout
        results: SimpleQueue[RawResponse | Exception] = SimpleQueue()
        threading.Thread(
            target=lambda: results.put(self._exchange(session, params, deadline)),
            name="http-exchange",
            daemon=True,
        ).start()
        result = self._wait(results, deadline)
        if isinstance(result, RawResponse):
            if result.status != 200:  # noqa: PLR2004 - the one status that is read to its end
                session.close()
            return result
        # The thread may still use the session, and its connections are in an unknown state.
        self._session = self._new_session()
        raise result

    def _wait(
        self, results: SimpleQueue[RawResponse | Exception], deadline: float
    ) -> RawResponse | Exception:
        overdue_at = deadline - self._timeout / 2
        # In short steps: a signal that arrives just before a wait is handled after it.
        while (left := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                return results.get(timeout=min(left, _LONGEST_WAIT_SECONDS))
            if time.monotonic() > overdue_at:
                overdue_at = math.inf
                self._logger.warning(
                    "No complete response after %.1f s; the request is canceled after %.1f s",
                    self._timeout / 2,
                    self._timeout,
                )
        return TransportError("timeout", _INCOMPLETE, counted=True)

    def _exchange(
        self, session: requests.Session, params: dict[str, str | int], deadline: float
    ) -> RawResponse | Exception:
        try:
            return self._send(session, params, deadline)
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            return _translate(error)

    def _send(
        self, session: requests.Session, params: dict[str, str | int], deadline: float
    ) -> RawResponse:
        host = urlsplit(self._url).hostname or ""
        with session.get(
            self._url,
            params=params,
            stream=True,
            allow_redirects=False,
            timeout=(min(CONNECT_TIMEOUT_SECONDS, self._timeout), self._timeout),
            proxies={"no_proxy": host} if _is_loopback(host) else None,
        ) as response:
            has_page = response.status_code == 200  # noqa: PLR2004 - the one with a page
            limit = MAX_BODY_BYTES + 1 if has_page else MAX_ERROR_BODY_BYTES
            # Closed, because the traceback of an exception would keep the buffer in memory.
            with io.BytesIO() as body:
                # The parts that have arrived, not whole chunks, to check the deadline while a
                # body drips in. No more is decompressed than is returned.
                while (left := limit - body.tell()) and (
                    part := response.raw.read1(min(_CHUNK_BYTES, left), decode_content=True)
                ):
                    body.write(part)
                    if time.monotonic() > deadline:
                        raise exceptions.ReadTimeout
                if body.tell() > MAX_BODY_BYTES:
                    message = f"the response is larger than {MAX_BODY_BYTES // 2**20} MiB"
                    raise TransportError("invalid_body", message, counted=True)  # noqa: EM101 - a key
                return RawResponse(response.status_code, response.headers, body.getvalue())

    def _new_session(self) -> requests.Session:
        session = _Session()
        session.headers.update(
            {
                "X-API-Key": self._api_key,
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
                "User-Agent": f"tap-datasync/{__version__}",
            }
        )
        return session


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


_CONNECTION_CAUSES = (
    # Text in the library's exception, message, whether the API may have counted the request.
    (
        ("Unable to connect to proxy", "Tunnel connection failed"),
        "the proxy is unreachable or refuses the connection (check HTTPS_PROXY and HTTP_PROXY)",
        False,
    ),
    (
        ("NameResolutionError",),
        "the host in api_url cannot be resolved (check api_url and DNS)",
        False,
    ),
    (("NewConnectionError",), "the API cannot be reached", False),
    (
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"),
        "the server does not use TLS at this port (check https:// in api_url)",
        False,
    ),
    (("SSLError",), "the TLS connection failed", False),
    (("\\x15\\x03",), "the server requires TLS at this port (use https:// in api_url)", False),
    (("BadStatusLine",), "the response is not HTTP", True),
)


def _translate(error: Exception) -> Exception:
    """Return an exception of the tap, without address, key and cursor."""
    text = repr(error)
    if isinstance(error, exceptions.ConnectTimeout):
        return TransportError("timeout", "no connection within the timeout", counted=False)
    if isinstance(error, (exceptions.Timeout, ReadTimeoutError)):
        return TransportError("timeout", _INCOMPLETE, counted=True)
    if isinstance(error, _INVALID_ADDRESS):
        message = (
            "The address of the API or of its proxy is invalid or not supported. "
            "Check api_url, HTTPS_PROXY and HTTP_PROXY."
        )
        return UsageError(message)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        message = "The API's certificate cannot be verified. Check api_url and REQUESTS_CA_BUNDLE."
        return ApiChangedError(message)
    if isinstance(error, DecodeError):
        return TransportError("invalid_body", "the response cannot be decompressed", counted=True)
    if isinstance(error, _CONNECTION_ERRORS):
        for marks, message, counted in _CONNECTION_CAUSES:
            if any(mark in text for mark in marks):
                return TransportError("connection", message, counted=counted)
        return TransportError("connection", "the connection was lost", counted=True)
    if isinstance(error, OSError):
        # A missing certificate bundle is found before anything is sent.
        return UsageError(f"Cannot connect: {error}. Check REQUESTS_CA_BUNDLE.")
    return error
