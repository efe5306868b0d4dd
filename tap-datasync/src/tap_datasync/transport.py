"""The API over HTTP."""

# ruff: noqa: EM101 - the literal is the cause, the message has a name

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
from requests import exceptions
from urllib3.exceptions import HTTPError, LocationParseError, ReadTimeoutError

from tap_datasync import __version__
from tap_datasync.client import Reply
from tap_datasync.failures import ApiChangedError, SurroundingsError, TransportError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection has to stand."""

_CHUNK = 64 * 1024
_OVERDUE_SHARE = 0.5


class HttpTransport:
    """Sends requests to one address, and the key nowhere else."""

    def __init__(
        self, api_url: str, api_key: str, *, timeout: float, logger: logging.Logger
    ) -> None:
        """Prepare a session.

        Args:
            api_url: The API's base address, e.g. ``https://example.com/api/v1``.
            api_key: The key; sent as header ``X-API-Key``.
            timeout: Seconds within which a reply has to be complete.
            logger: Told when a reply is overdue.
        """
        self._url = f"{api_url.rstrip('/')}/events"
        self._timeout = timeout
        self._logger = logger
        self._session = requests.Session()
        self._session.headers.update(
            {
                "X-API-Key": api_key,
                "Accept": "application/json",
                "User-Agent": f"tap-datasync/{__version__}",
            }
        )

    def get(self, cursor: str | None, limit: int) -> Reply:
        """Send one request for a page; redirects are not followed.

        Raises:
            TransportError: No complete reply came.
            ApiChangedError: The address cannot be used at all.
            SurroundingsError: A proxy or a certificate that the environment names cannot.
        """
        params: dict[str, str | int] = {"limit": limit}
        if cursor is not None:
            params["cursor"] = cursor
        with self._overdue_warning(), _translated():
            return self._exchange(params)

    def _exchange(self, params: dict[str, str | int]) -> Reply:
        deadline = time.monotonic() + self._timeout
        with self._session.get(
            self._url,
            params=params,
            stream=True,
            allow_redirects=False,
            timeout=(min(CONNECT_TIMEOUT, self._timeout), self._timeout),
        ) as response:
            chunks = []
            # What has come so far, not a whole chunk: the library's timeout is for each
            # receipt of bytes, so a trickle would hold a read of a chunk for hours.
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise exceptions.ReadTimeout
            return Reply(response.status_code, response.headers, b"".join(chunks))

    @contextmanager
    def _overdue_warning(self) -> Iterator[None]:
        after = self._timeout * _OVERDUE_SHARE
        timer = threading.Timer(
            after,
            self._logger.warning,
            ("No complete reply after %.0f s; it is given up after %.0f s", after, self._timeout),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's exceptions into ours, which hold no address and no cursor."""
    try:
        yield
    except exceptions.ConnectTimeout as error:
        msg = "no connection within the time allowed"
        raise TransportError("timeout", msg, counted=False) from error
    except (exceptions.Timeout, ReadTimeoutError) as error:
        msg = "no complete reply within the time allowed"
        raise TransportError("timeout", msg, counted=True) from error
    except exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            msg = "The API's certificate cannot be verified. Check api_url."
            raise ApiChangedError(msg) from None
        msg = "the encrypted connection broke"
        raise TransportError("connection", msg, counted=False) from error
    except exceptions.InvalidProxyURL:
        msg = "The address of the proxy cannot be used. Check HTTPS_PROXY and HTTP_PROXY."
        raise SurroundingsError(msg) from None
    except (exceptions.InvalidURL, exceptions.InvalidSchema, LocationParseError):
        msg = "api_url is not an address that can be asked. Check api_url."
        raise ApiChangedError(msg) from None
    except HTTPError as error:
        msg = "the connection broke in the middle of the reply"
        raise TransportError("connection", msg, counted=True) from error
    except (exceptions.RequestException, ConnectionError, TimeoutError) as error:
        refused = "NewConnectionError" in repr(error) or "NameResolution" in repr(error)
        msg = "the API cannot be reached" if refused else "the connection broke"
        raise TransportError("connection", msg, counted=not refused) from error
    except OSError as error:
        # What the library finds missing before it sends anything is no exception of its own.
        msg = f"No connection can be made: {error}. Check REQUESTS_CA_BUNDLE."
        raise SurroundingsError(msg) from None
