"""HTTP exchanges: complete, truncated, slow, compressed, oversized, or none."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import tracemalloc
import zlib

import pytest
from requests.exceptions import ConnectTimeout, SSLError
from tap_datasync.errors import ApiChangedError, TransportError, UsageError
from tap_datasync.transport import HttpTransport

from tests.tap.tap_helpers import KEY, http, sending, serving

LOGGER = logging.getLogger("tests.transport")
BODY = b'{"data": []}' * 1000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


def transport(url: str, timeout: float = 5.0) -> HttpTransport:
    return HttpTransport(url, KEY, timeout=timeout, logger=LOGGER)


def failure_of(url: str, timeout: float = 5.0) -> TransportError:
    with pytest.raises(TransportError) as error:
        transport(url, timeout).get("cursor-1", 5000)
    assert KEY not in str(error.value)
    assert "cursor-1" not in str(error.value)
    assert "127.0.0.1" not in str(error.value)
    return error.value


@pytest.fixture
def never():
    """An event that is only set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_request_has_path_parameters_and_key():
    with serving(sending(http(BODY, X_RateLimit_Limit="10"))) as server:
        client = transport(server.url + "/")
        response = client.get(None, 5000)
        client.get("a b&c", 100)
        HttpTransport(server.url, KEY, timeout=5, logger=LOGGER, path="/sessions").get(None, 50)
    assert (response.status, response.body) == (200, BODY)
    assert response.headers["x-ratelimit-limit"] == "10"
    assert [head.split(" ")[1] for head in server.requests] == [
        "/api/v1/events?limit=5000",
        "/api/v1/events?limit=100&cursor=a+b%26c",
        "/api/v1/sessions?limit=50",
    ]
    head = server.requests[0]
    assert f"\r\nX-API-Key: {KEY}\r\n" in head
    assert "\r\nAccept: application/json\r\n" in head
    assert "\r\nUser-Agent: tap-datasync/" in head


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status):
    with (
        serving(sending(http(BODY))) as other,
        serving(sending(http(b"", status, Location=other.url))) as server,
    ):
        response = transport(server.url).get(None, 5000)
    assert response.status == status
    assert other.requests == []


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Encoding: gzip\r\n\r\n", gzip.compress(BODY)),
        (b"Content-Encoding: deflate\r\n\r\n", zlib.compress(BODY)),
        (
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
        ),
    ],
    ids=["gzip", "deflate", "chunked"],
)
def test_body_is_decompressed_and_joined(head, body):
    with serving(sending(OK + head + body)) as server:
        assert transport(server.url).get(None, 5000).body == BODY


@pytest.mark.parametrize(
    ("response", "cause", "message"),
    [
        (b"", "connection", "the connection was lost"),
        (b"garbage\r\n\r\n", "connection", "not HTTP"),
        (b"HTTP/1.1 000 x\r\n\r\n", "connection", "not HTTP"),
        (OK + b"a" * 70_000 + b": x\r\n\r\n", "connection", "was lost"),
        (OK + b"A: x\r\n" * 200 + b"\r\n", "connection", "was lost"),
        (OK + b"Content-Length: 12001\r\n\r\n" + BODY, "connection", "was lost"),
        (OK + b"Content-Length: 5, 6\r\n\r\nhello", "connection", "was lost"),
        (CHUNKED + b"3\r\nabc\r\n", "connection", "was lost"),
        (CHUNKED + b"3\r\nabc\r\n5\r\nab", "connection", "was lost"),
        (CHUNKED + b"3\r\nabc\r\n5", "connection", "was lost"),
        (CHUNKED + b"3\r\nabc\r\nnonsense\r\n", "connection", "was lost"),
        (CHUNKED + b"-5\r\n", "connection", "was lost"),
        (CHUNKED + b"f" * 5000, "connection", ""),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + BODY, "invalid_body", "decompressed"),
        (
            OK + b"Content-Encoding: " + b"gzip, " * 50 + b"gzip\r\n\r\nx",
            "invalid_body",
            "decompressed",
        ),
    ],
)
def test_invalid_or_truncated_response_is_an_error(response, cause, message):
    with serving(sending(response)) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == (cause, True)
    assert message in str(error)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"HTTP/1.1 302 x\r\nLocation: http://[junk\r\n\r\n", 302),
        (b"HTTP/1.1 307 x\r\nLocation: \xff\xfe://\x00\r\n\r\n", 307),
        (b"HTTP/1.1 301 x\r\nLocation: " + b"x" * 60_000 + b"\r\n\r\n", 301),
        (b"HTTP/1.1 101 x\r\nUpgrade: x\r\n\r\n", 101),
        (b"HTTP/1.1 103 x\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 103),
        (b"HTTP/1.1 999 x\r\n\r\n", 999),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 200),
        (OK + b"Content-Length: junk\r\n\r\n", 200),
        (OK + b"Set-Cookie: \xff=;;;=\xff; expires=9999999999999999\r\n\r\n", 200),
        (OK + b"X-RateLimit-Limit: \xff\r\nDate: \x07\r\n\r\n", 200),
    ],
)
def test_unusual_headers_are_no_error_of_the_tap(headers, status):
    with serving(sending(headers)) as server:
        assert transport(server.url).get(None, 5000).status == status


@pytest.mark.parametrize(
    ("start", "drip"),
    [
        (b"", b""),
        (b"", b"a"),
        (OK, b"a"),
        (b"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"\r\n", b"x"),
        (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (OK + b"Content-Length: 100\r\n\r\nhalf", b""),
    ],
)
def test_response_without_end_times_out(never, start, drip):
    def respond(connection: socket.socket, _head: str) -> None:
        connection.sendall(start)
        while not never.wait(0.02):
            connection.sendall(drip)

    with serving(respond) as server:
        error = failure_of(server.url, timeout=0.4)
    assert (error.cause, error.counted) == ("timeout", True)


def test_overdue_response_is_logged_once(never, caplog):
    with serving(lambda *_: never.wait() and None) as server:
        assert failure_of(server.url, timeout=1.2).cause == "timeout"
    assert caplog.text.count("No complete response after 0.6 s") == 1


def test_name_resolution_times_out(monkeypatch, never):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait() and [])
    assert failure_of("http://example.com/api/v1", timeout=0.3).cause == "timeout"
    never.set()


def test_next_request_after_a_timeout_is_answered(never):
    slow = iter([True, False])

    def respond(connection: socket.socket, _head: str) -> None:
        if next(slow):
            never.wait()
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")

    with serving(respond) as server:
        client = transport(server.url, timeout=0.3)
        with pytest.raises(TransportError, match="timeout"):
            client.get(None, 5000)
        assert client.get(None, 5000).body == b"ok"


def test_connection_is_reused():
    connections = []

    def respond(connection: socket.socket, head: str) -> None:
        connections.append(connection)
        while head:
            connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")
            head = connection.recv(65536).decode()

    with serving(respond) as server:
        client = transport(server.url)
        for _ in range(3):
            client.get(None, 5000)
    assert len(connections) == 1


def test_connection_is_not_reused_after_an_informational_status():
    early = b"HTTP/1.1 103 x\r\nLink: x\r\n\r\n"
    late = OK + b"Content-Length: 5\r\n\r\nwrong"
    with serving(sending(early, late)) as server:
        client = transport(server.url)
        assert client.get(None, 5000).status == 103
        assert client.get(None, 5000).status == 103


def test_reset_before_the_response_is_an_error():
    def reset(connection: socket.socket, _head: str) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with serving(reset) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)


def test_unknown_host_is_named_and_not_counted():
    error = failure_of("http://nowhere.invalid/api/v1")
    assert not error.counted
    assert "cannot be resolved" in str(error)


@pytest.mark.parametrize(
    ("scheme", "reply", "message"),
    [
        ("http", TLS_ALERT, "the server requires TLS at this port (use https:// in api_url)"),
        ("https", OK, "the server does not use TLS at this port (check https:// in api_url)"),
        ("https", TLS_ALERT, "the TLS connection failed"),
    ],
)
def test_failed_tls_connection_is_named_and_not_counted(scheme, reply, message):
    def respond() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=respond, daemon=True).start()
        error = failure_of(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
    assert (error.cause, error.counted) == ("connection", False)
    assert str(error) == message


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (ConnectTimeout(KEY), TransportError, "no connection within the timeout"),
        (
            SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
            ApiChangedError,
            "The API's certificate cannot be verified. Check api_url and REQUESTS_CA_BUNDLE.",
        ),
    ],
)
def test_exception_of_the_library_is_translated(monkeypatch, raised, error, message):
    client = transport("https://127.0.0.1:9/api/v1")

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(client._session, "get", fail)
    with pytest.raises(error) as caught:
        client.get(None, 5000)
    assert str(caught.value) == message
    assert not getattr(caught.value, "counted", False)


@pytest.mark.parametrize(
    "url",
    ["http://*.example.com/x", "http://a..b/x", f"http://{'a' * 70}.com/x", "ftp://example.com"],
)
def test_invalid_address_is_a_configuration_error(url):
    with pytest.raises(UsageError, match="Check api_url"):
        transport(url).get(None, 5000)


@pytest.mark.parametrize(
    ("name", "value", "url", "advice"),
    [
        ("REQUESTS_CA_BUNDLE", "/nowhere.pem", "https://127.0.0.1:9/x", "REQUESTS_CA_BUNDLE"),
        *(
            ("HTTP_PROXY", proxy, "http://example.com/x", "HTTPS_PROXY and HTTP_PROXY")
            for proxy in ("http://", "ftp://example.com", "http://x:99999", "socks5://127.0.0.1:9")
        ),
    ],
)
def test_unusable_environment_is_a_configuration_error(monkeypatch, name, value, url, advice):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"Check .*{advice}\.$"):
        transport(url).get(None, 5000)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.10", "[::1]"])
def test_refused_connection_is_not_counted_and_loopback_never_uses_a_proxy(monkeypatch, host):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    error = failure_of(f"http://{host}:9/api/v1")
    assert (error.cause, error.counted) == ("connection", False)
    assert str(error) == "the API cannot be reached"


def test_other_hosts_use_the_proxy_of_the_environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    error = failure_of("http://example.com/api/v1")
    assert "proxy" in str(error)
    assert not error.counted


@pytest.mark.parametrize(
    ("status", "encoding", "outcome"),
    [
        (200, "plain", "the response is larger than 64 MiB"),
        (200, "gzip", "the response is larger than 64 MiB"),
        (302, "plain", "302 8192"),
        (500, "plain", "500 8192"),
        (401, "gzip", "401 8192"),
    ],
)
def test_memory_of_an_oversized_response_is_bounded(status, encoding, outcome):
    mebibyte = bytes(2**20)

    def respond(connection: socket.socket, _head: str) -> None:
        head = f"HTTP/1.1 {status} x\r\nLocation: /other\r\nContent-Encoding: {encoding}\r\n\r\n"
        connection.sendall(head.encode())
        if encoding == "gzip":
            compressor = zlib.compressobj(wbits=31)
            for _ in range(2000):
                connection.sendall(compressor.compress(mebibyte))
        while True:
            connection.sendall(mebibyte)

    kept = None
    tracemalloc.start()
    with serving(respond) as server:
        client = transport(server.url, timeout=60)
        for _ in range(2):
            try:
                response = client.get(None, 5000)
                assert f"{response.status} {len(response.body)}" == outcome
            except TransportError as error:  # noqa: PERF203 - twice
                # Its traceback must not keep the body in memory.
                kept = error
                assert (kept.cause, str(kept)) == ("invalid_body", outcome)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20
