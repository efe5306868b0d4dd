"""The API over real HTTP: the recordings of the service, and what needs a connection."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from urllib.parse import urlsplit

import psutil
import pytest
from datasync_sandbox.testing import running_api

from tests.sandbox.sandbox_helpers import request


@pytest.fixture
def api():
    with running_api(events=6000) as running:
        yield running


def shape(value):
    """Reduce JSON to its keys, in order, and types."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def recorded(recordings, number):
    return json.loads((recordings / "exchanges.json").read_text())["exchanges"][number]


def test_page_has_the_shape_of_the_recorded_one(api, recordings):
    real = json.loads((recordings / "events-default-limit.json").read_text())
    ours = request(api).json
    assert list(ours) == list(real)
    assert shape(ours) == shape(real)
    assert [list(event) for event in ours["data"]] == [list(event) for event in real["data"]]


def test_page_of_5000_has_the_size_of_the_recorded_one(api, recordings):
    ours = request(api, limit=10_000).body
    real = (recordings / "events-limit-10000.json").read_bytes()
    assert len(ours) == pytest.approx(len(real), rel=0.001)
    assert ours.count(b'"timestamp":1') == real.count(b'"timestamp":1')


def test_headers_of_the_first_response_are_the_recorded_ones(api, recordings):
    real, ours = recorded(recordings, 0)["headers"], request(api).headers
    assert set(real) <= set(ours)
    same = "Content-Type", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"
    for name in (*same, "X-Cache", "X-Cache-TTL"):
        assert ours[name] == real[name]
    for headers in (ours, real):
        assert re.fullmatch(r'W/"[0-9a-f]+-[A-Za-z0-9+/]{27}"', headers["ETag"])


@pytest.mark.parametrize(("number", "path"), [(2, "/events/bulk"), (3, "/events/export")])
def test_errors_are_the_recorded_ones(api, recordings, number, path):
    real, ours = recorded(recordings, number), request(api, path)
    assert (ours.status, ours.json) == (real["status"], real["body"])


def test_request_log_is_not_part_of_the_api(api):
    for _ in range(12):
        stats = request(api, "/__sandbox__/stats", base="", headers={}).json
    assert stats["requests"] == 0
    assert request(api, "/__sandbox__/other", base="").status == 404


def test_clock_may_be_injected():
    with running_api(events=1, limit=1, clock=iter([1e9, 1e9, 1e9 + 60]).__next__) as api:
        statuses = [request(api).status for _ in range(3)]
    assert statuses == [200, 429, 200]


def test_api_listens_on_loopback_only(api):
    connections = psutil.Process().net_connections("tcp")
    listening = {item.laddr for item in connections if item.status == psutil.CONN_LISTEN}
    assert [host for host, port in listening if port == api.port] == ["127.0.0.1"]


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is local on Linux only")
def test_api_listens_on_the_host_given():
    everywhere = "0.0.0.0"  # noqa: S104 - with one sample event
    words = ["api", "--host", everywhere, "--port", "0", "--events", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "datasync_sandbox", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        url = urlsplit(process.stdout.readline().strip())
        try:
            assert url.hostname == everywhere
            # Not the address of the default.
            with urllib.request.urlopen(f"http://127.0.0.2:{url.port}{url.path}") as reply:
                assert reply.status == 200
        finally:
            process.terminate()


def test_connection_is_reset_before_and_within_the_body():
    with running_api(events=50, fault=["reset@1", "reset-body@1"]) as api:
        with pytest.raises(ConnectionError):
            request(api)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            request(api)
        assert request(api).status == 200


def test_refused_connections_are_refused_by_the_system():
    with running_api(events=50, fault=["refused=600@1"]) as api:
        with pytest.raises(ConnectionError):
            request(api)
        with pytest.raises(ConnectionRefusedError):
            request(api)
        # No other program can take the port meanwhile.
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", api.port))
        assert api.stats()["faults"] == {"refused": 1}


def test_connections_are_accepted_again_after_a_refusal():
    with running_api(events=50, fault=["refused=0.05@1"]) as api:
        with pytest.raises(ConnectionError):
            request(api)
        while (outcome := outcome_of(api)) != 200:
            assert isinstance(outcome, ConnectionRefusedError)


def outcome_of(api):
    try:
        return request(api).status
    except (ConnectionError, http.client.HTTPException) as error:
        return error


def test_missing_reply_does_not_delay_other_requests_or_the_end():
    with running_api(events=50, fault=["hang@1"]) as api:
        found = []
        thread = threading.Thread(target=lambda: found.append(outcome_of(api)))
        thread.start()
        while not api.stats()["requests"]:
            pass
        assert request(api).status == 200
        assert found == []
    thread.join(10)
    assert found
    assert found[0] != 200


@pytest.mark.parametrize("fault", ["drip-body=0.2@1", "drip-headers=0.2@1"])
def test_slow_reply_is_complete_in_the_end(fault):
    with running_api(events=50, fault=[fault]) as api:
        assert request(api, limit=10).json["meta"]["returned"] == 10


def test_slow_body_arrives_in_pieces():
    with running_api(events=5000, fault=["drip-body=600@1"]) as api:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        connection.request("GET", "/api/v1/events?limit=2000", headers={"X-API-Key": api.key})
        response = connection.getresponse()
        assert 0 < len(response.read1()) < int(response.headers["Content-Length"])
        connection.close()


def test_slow_headers_arrive_byte_by_byte():
    with (
        running_api(events=5, fault=["drip-headers=600@1"]) as api,
        socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection,
    ):
        connection.sendall(
            f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {api.key}\r\n\r\n".encode()
        )
        assert connection.recv(1) == b"H"


@pytest.mark.parametrize(("fault", "status"), [("huge-body=3@1", 200), ("huge-redirect=3@1", 302)])
def test_padding_follows_the_body(fault, status):
    with running_api(events=5, fault=[fault]) as api:
        reply = request(api)
        assert reply.status == status
        assert len(reply.body) >= 3 * 1024 * 1024
        if status == 200:
            assert reply.json["meta"]["returned"] == 5


def test_key_that_follows_a_redirect_is_counted():
    with running_api(events=50, fault=["redirect@1"]) as api:
        reply = request(api)
        location = reply.headers["Location"]
        assert (reply.status, location) == (
            302,
            f"http://127.0.0.1:{api.port}/__sandbox__/elsewhere".replace("127.0.0.1", "localhost"),
        )
        request(api, "/__sandbox__/elsewhere", base="")
        stats = api.stats()
        assert (stats["redirects_followed"], stats["keys_elsewhere"]) == (1, 1)
