"""HTTP exchanges: complete, truncated, slow, compressed, oversized, or none."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from tap_datasync.errors import (
    EXIT_CONFIG,
    ApiChangedError,
    TransportError,
    UsageError,
)
from tap_datasync.transport import MAX_ERROR_BODY_BYTES, HttpTransport
from tap_helpers import KEY, raw_server, send, serving

LOGGER = logging.getLogger("tests.transport")
BODY = b'{"data": []}' * 1000


def transport(url: str, timeout: float = 5.0) -> HttpTransport:
    return HttpTransport(url, KEY, timeout=timeout, logger=LOGGER)


def failure_of(url: str, timeout: float = 5.0) -> TransportError:
    with pytest.raises(TransportError) as error:
        transport(url, timeout).get("cursor-1", 5000)
    assert KEY not in str(error.value)
    assert "cursor-1" not in str(error.value)
    assert "127.0.0.1" not in str(error.value)
    return error.value


def test_request_has_path_parameters_and_key():
    with serving(
        lambda handler: send(handler, BODY, headers={"X-RateLimit-Limit": "10"})
    ) as server:
        client = transport(server.url + "/")
        response = client.get(None, 5000)
        client.get("a b&c", 100)
    assert (response.status, response.body) == (200, BODY)
    assert response.headers["x-ratelimit-limit"] == "10"
    first, second = server.requests
    assert first.path == "/api/v1/events?limit=5000"
    assert second.path == "/api/v1/events?limit=100&cursor=a+b%26c"
    assert first.headers["X-API-Key"] == KEY
    assert first.headers["Accept"] == "application/json"
    assert first.headers["User-Agent"].startswith("tap-datasync/")
    assert KEY not in first.path


def test_another_path_is_read():
    with serving(lambda handler: send(handler, BODY)) as server:
        HttpTransport(server.url, KEY, timeout=5, logger=LOGGER, path="/sessions").get(None, 50)
    assert server.requests[0].path == "/api/v1/sessions?limit=50"


@pytest.mark.parametrize("status", [201, 204, 400, 401, 404, 429, 500, 503])
def test_every_status_is_returned(status):
    body = b"" if status == 204 else BODY
    with serving(lambda handler: send(handler, body, status)) as server:
        response = transport(server.url).get(None, 5000)
    assert (response.status, response.body) == (status, body[:MAX_ERROR_BODY_BYTES])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status):
    with serving(lambda handler: send(handler, BODY)) as other:
        headers = {"Location": other.url}
        with serving(lambda handler: send(handler, b"", status, headers)) as server:
            response = transport(server.url).get(None, 5000)
    assert response.status == status
    assert other.requests == []


def test_body_shorter_than_its_length_is_an_error():
    with serving(lambda handler: send(handler, BODY, length=len(BODY) + 1)) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)
    assert str(error) == "the connection was lost"


def chunked(handler, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    handler.wfile.write(end)
    handler.close_connection = True


def test_chunked_body_is_joined():
    with serving(lambda handler: chunked(handler, b"a" * 100_000, b"b", b"c" * 10)) as server:
        response = transport(server.url).get(None, 5000)
    assert response.body == b"a" * 100_000 + b"b" + b"c" * 10


@pytest.mark.parametrize("end", [b"", b"5\r\nab", b"5", b"nonsense\r\n"])
def test_truncated_chunked_body_is_an_error(end):
    with serving(lambda handler: chunked(handler, b"abc", end=end)) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)


def test_compressed_body_is_decompressed():
    for name, packed in (("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY))):
        headers = {"Content-Encoding": name}
        with serving(lambda h, p=packed, e=headers: send(h, p, headers=e)) as server:
            assert transport(server.url).get(None, 5000).body == BODY


def test_body_that_cannot_be_decompressed_is_invalid():
    with serving(lambda h: send(h, BODY, headers={"Content-Encoding": "gzip"})) as server:
        assert failure_of(server.url).cause == "invalid_body"


def reset(handler) -> None:
    """Reset the connection."""
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def test_reset_before_the_response_is_an_error():
    with serving(reset) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)


def test_refused_connection_is_not_counted():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure_of(f"http://127.0.0.1:{port}/api/v1")
    assert (error.cause, error.counted) == ("connection", False)
    assert str(error) == "the API cannot be reached"


def test_unknown_host_is_named_and_not_counted():
    error = failure_of("http://nowhere.invalid/api/v1")
    assert not error.counted
    assert "cannot be resolved" in str(error)


@pytest.fixture
def never():
    """An event that is only set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_missing_response_times_out(never, caplog):

    def hang(_: object) -> None:
        never.wait()

    with serving(hang) as server, caplog.at_level(logging.WARNING):
        error = failure_of(server.url, timeout=0.3)
        never.set()
    assert (error.cause, error.counted) == ("timeout", True)
    assert caplog.text.count("No complete response after") == 1


@pytest.mark.parametrize("declared", [True, False])
def test_dripping_body_times_out(never, declared):

    def drip(handler) -> None:
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            while not never.wait(0.05):
                handler.wfile.write(b"x")

    with serving(drip) as server:
        error = failure_of(server.url, timeout=0.4)
        never.set()
    assert (error.cause, error.counted) == ("timeout", True)


def test_stalled_body_times_out(never):

    def stop(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.wfile.flush()
        never.wait()

    with serving(stop) as server:
        error = failure_of(server.url, timeout=0.3)
        never.set()
    assert error.cause == "timeout"


def test_connect_timeout_is_not_counted(monkeypatch):
    client = transport("http://127.0.0.1:9/api/v1")

    def slow(*_: object, **__: object) -> None:
        from requests.exceptions import ConnectTimeout  # noqa: PLC0415 - used once

        raise ConnectTimeout(KEY)

    monkeypatch.setattr(client._session, "get", slow)
    with pytest.raises(TransportError) as error:
        client.get(None, 5000)
    assert (error.value.cause, error.value.counted) == ("timeout", False)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["http://*.example.com/x", "http://a..b/x", f"http://{'a' * 70}.com/x", "ftp://example.com"],
)
def test_invalid_address_is_a_configuration_error(url):
    with pytest.raises(UsageError, match="Check api_url"):
        transport(url).get(None, 5000)


def test_https_to_a_server_without_tls_is_named():
    with serving(lambda handler: send(handler, BODY)) as server:
        error = failure_of(server.url.replace("http:", "https:"))
    assert (error.cause, error.counted) == ("connection", False)
    assert "does not use TLS" in str(error)


def test_failed_tls_handshake_is_named_and_not_counted():
    def refuse(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accept = threading.Thread(target=lambda: refuse(listener.accept()[0]), daemon=True)
        accept.start()
        error = failure_of(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert (error.cause, error.counted) == ("connection", False)
    assert str(error) == "the TLS connection failed"


def test_unverified_certificate_is_permanent(monkeypatch):
    from requests.exceptions import SSLError  # noqa: PLC0415 - used once

    client = transport("https://127.0.0.1:9/api/v1")

    def refuse(*_: object, **__: object) -> None:
        msg = "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"
        raise SSLError(msg)

    monkeypatch.setattr(client._session, "get", refuse)
    with pytest.raises(ApiChangedError, match="certificate cannot be verified"):
        client.get(None, 5000)


@pytest.mark.parametrize(
    ("name", "value", "url", "advice"),
    [
        ("REQUESTS_CA_BUNDLE", "/nowhere.pem", "https://127.0.0.1:9/x", "REQUESTS_CA_BUNDLE"),
        ("HTTP_PROXY", "http://", "http://example.com/x", "HTTPS_PROXY and HTTP_PROXY"),
        ("HTTP_PROXY", "ftp://example.com", "http://example.com/x", "HTTPS_PROXY and HTTP_PROXY"),
        ("HTTP_PROXY", "http://x:99999", "http://example.com/x", "HTTPS_PROXY and HTTP_PROXY"),
        (
            "HTTP_PROXY",
            "socks5://127.0.0.1:9",
            "http://example.com/x",
            "HTTPS_PROXY and HTTP_PROXY",
        ),
    ],
)
def test_unusable_environment_is_a_configuration_error(monkeypatch, name, value, url, advice):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"Check .*{advice}\.$") as error:
        transport(url).get(None, 5000)
    assert error.value.exit_code == EXIT_CONFIG


def test_connection_is_reused():
    ports = []

    def answer(handler) -> None:
        ports.append(handler.client_address[1])
        send(handler, BODY)

    with serving(answer) as server:
        client = transport(server.url)
        for _ in range(3):
            client.get(None, 5000)
    assert len(set(ports)) == 1


def sending(*parts: bytes):
    """Return a handler that sends bytes as they are."""

    def respond(connection: socket.socket, _target: str) -> None:
        for part in parts:
            connection.sendall(part)

    return respond


@pytest.mark.parametrize(
    ("response", "cause", "message"),
    [
        (b"", "connection", "was lost"),
        (b"garbage\r\n\r\n", "connection", "not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "connection", "requires TLS"),
        (b"HTTP/1.1 000 x\r\n\r\n", "connection", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000 + b": x\r\n\r\n", "connection", "was lost"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 200 + b"\r\n", "connection", "was lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello", "connection", "was lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "connection", "was lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000, "connection", ""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: " + b"gzip, " * 50 + b"gzip\r\n\r\nx",
            "invalid_body",
            "decompressed",
        ),
    ],
)
def test_invalid_http_is_an_error(response, cause, message):
    with raw_server(sending(response)) as url:
        error = failure_of(url)
    assert error.cause == cause
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
        (b"HTTP/1.1 200 x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 200),
        (b"HTTP/1.1 200 x\r\nContent-Length: junk\r\n\r\n", 200),
        (b"HTTP/1.1 200 x\r\nSet-Cookie: \xff=;;;=\xff; expires=9999999999999999\r\n\r\n", 200),
        (b"HTTP/1.1 200 x\r\nX-RateLimit-Limit: \xff\r\nDate: \x07\r\n\r\n", 200),
    ],
)
def test_unusual_headers_are_no_error_of_the_tap(headers, status):
    with raw_server(sending(headers)) as url:
        assert transport(url).get(None, 5000).status == status


def test_connection_is_not_reused_after_an_informational_status():
    early = b"HTTP/1.1 103 x\r\nLink: x\r\n\r\n"
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    with raw_server(sending(early, late)) as url:
        client = transport(url)
        assert client.get(None, 5000).status == 103
        assert client.get(None, 5000).status == 103


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n"]
)
def test_dripping_headers_and_redirects_time_out(never, start):

    def drip(connection: socket.socket, _target: str) -> None:
        connection.sendall(start)
        while not never.wait(0.05):
            connection.sendall(b"a")

    with raw_server(drip) as url:
        began = time.monotonic()
        try:
            error = failure_of(url, timeout=0.4)
        finally:
            never.set()
    assert (error.cause, error.counted) == ("timeout", True)
    assert time.monotonic() - began < 5


def test_informational_responses_without_end_time_out(never):

    def drip(connection: socket.socket, _target: str) -> None:
        while not never.wait(0.02):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with raw_server(drip) as url:
        assert failure_of(url, timeout=0.4).cause == "timeout"
        never.set()


def test_name_resolution_times_out(monkeypatch, never):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait() and [])
    assert failure_of("http://example.com/api/v1", timeout=0.3).cause == "timeout"
    never.set()


def test_next_request_after_a_timeout_is_answered(never):
    slow = iter([True, False])

    def respond(connection: socket.socket, _target: str) -> None:
        if next(slow):
            never.wait()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with raw_server(respond) as url:
        client = transport(url, timeout=0.3)
        with pytest.raises(TransportError, match="timeout"):
            client.get(None, 5000)
        assert client.get(None, 5000).body == b"ok"
        never.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.10", "[::1]"])
def test_loopback_never_uses_a_proxy(monkeypatch, host):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.invalid:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(TransportError) as error:
        transport(f"http://{host}:9/api/v1").get(None, 5000)
    assert str(error.value) == "the API cannot be reached"


def test_other_hosts_use_the_proxy_of_the_environment(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    error = failure_of("http://example.com/api/v1")
    assert "proxy" in str(error)
    assert not error.counted


@pytest.mark.parametrize(
    ("status", "encoding", "outcome"),
    [
        ("200", "plain", "invalid_body the response is larger than 64 MiB"),
        ("200", "gzip", "invalid_body the response is larger than 64 MiB"),
        ("302", "plain", "302 8192"),
        ("500", "plain", "500 8192"),
        ("401", "gzip", "401 8192"),
    ],
)
def test_memory_of_an_oversized_response_is_bounded(status, encoding, outcome):
    script = Path(__file__).parent / "oversized_response.py"
    command = [sys.executable, script, status, encoding]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    *lines, peak_mib = output.stdout.splitlines()
    assert lines == [outcome, outcome]
    assert int(peak_mib) < 200
