"""HTTP as it really comes: whole, cut, slow, compressed, or not at all."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import threading
import zlib

import pytest
from tap_datasync.failures import (
    EXIT_CONFIG,
    ApiChangedError,
    SurroundingsError,
    TransportError,
)
from tap_datasync.transport import HttpTransport
from tap_helpers import KEY, send, serving

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


def test_a_request_is_what_the_api_wants():
    """Path, parameters, key in its header and nowhere else."""
    with serving(
        lambda handler: send(handler, BODY, headers={"X-RateLimit-Limit": "10"})
    ) as server:
        client = transport(server.url + "/")
        reply = client.get(None, 5000)
        client.get("a b&c", 100)
    assert (reply.status, reply.body) == (200, BODY)
    assert reply.headers["x-ratelimit-limit"] == "10"
    first, second = server.requests
    assert first.path == "/api/v1/events?limit=5000"
    assert second.path == "/api/v1/events?limit=100&cursor=a+b%26c"
    assert first.headers["X-API-Key"] == KEY
    assert first.headers["Accept"] == "application/json"
    assert first.headers["User-Agent"].startswith("tap-datasync/")
    assert KEY not in first.path


@pytest.mark.parametrize("status", [201, 204, 400, 401, 404, 429, 500, 503])
def test_every_status_is_a_reply(status):
    """What it means is decided elsewhere."""
    body = b"" if status == 204 else BODY
    with serving(lambda handler: send(handler, body, status)) as server:
        reply = transport(server.url).get(None, 5000)
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    """The key never reaches the other host, nor any host that is not configured."""
    with serving(lambda handler: send(handler, BODY)) as other:
        headers = {"Location": other.url}
        with serving(lambda handler: send(handler, b"", status, headers)) as server:
            reply = transport(server.url).get(None, 5000)
    assert reply.status == status
    assert other.requests == []


def test_a_body_shorter_than_its_length_is_no_reply():
    """By Content-Length."""
    with serving(lambda handler: send(handler, BODY, length=len(BODY) + 1)) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)
    assert str(error) == "the connection broke in the middle of the reply"


def chunked(handler, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    handler.wfile.write(end)
    handler.close_connection = True


def test_a_chunked_body_is_put_together():
    """Chunk by chunk."""
    with serving(lambda handler: chunked(handler, b"a" * 100_000, b"b", b"c" * 10)) as server:
        reply = transport(server.url).get(None, 5000)
    assert reply.body == b"a" * 100_000 + b"b" + b"c" * 10


@pytest.mark.parametrize("end", [b"", b"5\r\nab", b"5", b"nonsense\r\n"])
def test_a_chunked_body_that_is_cut_is_no_reply(end):
    """Between two chunks, in one, or in what should be a length."""
    with serving(lambda handler: chunked(handler, b"abc", end=end)) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)


def test_a_compressed_body_is_unpacked():
    """Gzip and deflate."""
    for name, packed in (("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY))):
        headers = {"Content-Encoding": name}
        with serving(lambda h, p=packed, e=headers: send(h, p, headers=e)) as server:
            assert transport(server.url).get(None, 5000).body == BODY


def test_a_body_that_is_not_compressed_as_it_says_is_no_reply():
    """It is asked for again."""
    with serving(lambda h: send(h, BODY, headers={"Content-Encoding": "gzip"})) as server:
        assert failure_of(server.url).cause == "connection"


def reset(handler) -> None:
    """Cut the connection before anything is said."""
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def test_a_reset_before_the_reply_is_no_reply():
    """The API may have counted the request."""
    with serving(reset) as server:
        error = failure_of(server.url)
    assert (error.cause, error.counted) == ("connection", True)


def test_no_server_is_no_request():
    """What never arrived was not counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure_of(f"http://127.0.0.1:{port}/api/v1")
    assert (error.cause, error.counted) == ("connection", False)
    assert str(error) == "the API cannot be reached"


def test_a_name_that_does_not_exist_is_no_request():
    """Names under .invalid never do."""
    assert not failure_of("http://nowhere.invalid/api/v1").counted


@pytest.fixture
def never():
    """An event that is only set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_reply_that_never_comes_is_given_up(never, caplog):
    """After the tap's own time, and it is told before."""

    def hang(_: object) -> None:
        never.wait()

    with serving(hang) as server, caplog.at_level(logging.WARNING):
        error = failure_of(server.url, timeout=0.3)
        never.set()
    assert (error.cause, error.counted) == ("timeout", True)
    assert "No complete reply after" in caplog.text


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_trickles_is_given_up(never, declared):
    """Each byte comes in time, the whole never does."""

    def trickle(handler) -> None:
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            while not never.wait(0.05):
                handler.wfile.write(b"x")

    with serving(trickle) as server:
        error = failure_of(server.url, timeout=0.4)
        never.set()
    assert (error.cause, error.counted) == ("timeout", True)


def test_a_body_that_stops_is_given_up(never):
    """In the middle, with the connection still open."""

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


def test_no_connection_in_time_was_not_counted(monkeypatch):
    """The time for connecting is one of its own."""
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
def test_an_address_that_cannot_be_asked_is_told_in_a_sentence(url):
    """Trying again would not help."""
    with pytest.raises(ApiChangedError, match=r"Check api_url\.$"):
        transport(url).get(None, 5000)


def test_a_server_without_tls_is_a_broken_connection():
    """It may be a proxy's fault: asked again, and told without details."""
    with serving(lambda handler: send(handler, BODY)) as server:
        error = failure_of(server.url.replace("http:", "https:"))
    assert (error.cause, str(error)) == ("connection", "the encrypted connection broke")


def test_a_certificate_that_is_not_good_is_hopeless(monkeypatch):
    """Waiting does not make it better."""
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
    ],
)
def test_what_the_environment_says_wrongly_is_told_in_a_sentence(
    monkeypatch, name, value, url, advice
):
    """It is neither the API's fault nor the tap's."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SurroundingsError, match=rf"Check {advice}\.$") as error:
        transport(url).get(None, 5000)
    assert error.value.exit_code == EXIT_CONFIG


def test_connections_are_used_again():
    """One for all pages."""
    ports = []

    def answer(handler) -> None:
        ports.append(handler.client_address[1])
        send(handler, BODY)

    with serving(answer) as server:
        client = transport(server.url)
        for _ in range(3):
            client.get(None, 5000)
    assert len(set(ports)) == 1
