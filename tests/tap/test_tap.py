"""The command line: what people type, what they read, and the exit code."""

# ruff: noqa: PLR0913, PLR0917 - fixtures and drawn examples are arguments

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tap_datasync.tap as tap_module
from datasync_sandbox.testing import running_api
from singer_sdk.testing import SuiteConfig, get_tap_test_class
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync

from tests.tap.tap_helpers import (
    KEY,
    FakeClock,
    body_of,
    event,
    feeding,
    http,
    last_page,
    lines_of,
    sending,
    serving,
)

SNAPSHOT = Path(__file__).parent / "snapshots" / "catalog.json"
SCRIPT = Path(sys.executable).with_name("tap-datasync")
NOWHERE = "http://127.0.0.1:1/api/v1"


class Ended(NamedTuple):
    """How a run of the command ended."""

    code: int
    out: str
    log: str

    @property
    def message(self) -> str:
        """The last line of the log, without time, level and name."""
        return self.log.rstrip().splitlines()[-1].split(" | ")[-1]


def script(*arguments: str, cwd: Path) -> Ended:
    """Run the console script as people do."""
    done = subprocess.run(
        [str(SCRIPT), *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def tap(monkeypatch, capfd, tmp_path):
    """Run the command in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EventsStream, "clock", FakeClock())

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["tap-datasync", *arguments])
        logging.getLogger().handlers.clear()
        with pytest.raises(SystemExit) as ended:
            tap_module.run()
        sys.stdout.flush()
        written = capfd.readouterr()
        result = Ended(int(ended.value.code or 0), written.out, written.err)
        assert ("Traceback" in result.log) is ("Internal error" in result.log)
        assert KEY not in result.out + result.log
        return result

    return run


@pytest.fixture
def config(tmp_path):
    """Write a config and return its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"api_url": NOWHERE, "api_key": KEY} | changes))
        return str(path)

    return write


# ------------------------------------------------------------------ discovery and about


def test_discover_prints_the_catalog_without_any_config(tmp_path):
    """The console script's catalog is the committed one; UPDATE_SNAPSHOTS=1 renews it."""
    ended = script("--discover", cwd=tmp_path)
    assert ended.code == 0
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(json.loads(ended.out), indent=2) + "\n")
    assert json.loads(ended.out) == json.loads(SNAPSHOT.read_text())


def test_about_names_every_setting(tap):
    """As text, as JSON and as Markdown; title, description and default of each."""
    text = tap("--about")
    assert (text.code, "tap-datasync" in text.out) == (0, True)
    about = json.loads(tap("--about", "--format", "json").out)
    settings = about["settings"]["properties"]
    for name in ("api_url", "api_key", "page_size", "lookback", "request_timeout"):
        assert settings[name]["title"]
        assert settings[name]["description"].endswith(".")
        assert name in text.out
    assert about["settings"]["required"] == ["api_url", "api_key"]
    assert settings["api_key"]["secret"] is True
    assert settings["page_size"]["default"] == 5000
    assert about["settings"]["additionalProperties"] is False
    assert not {"activate-version", "batch"} & set(about["capabilities"])
    assert "batch_config" not in settings
    markdown = tap("--about", "--format", "markdown")
    assert "| api_url | True " in markdown.out
    assert tap("--version").out.startswith("tap-datasync v0.")


# ------------------------------------------------------------------ one clear message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"api_key": None, "api_kye": "x"},
            (
                "There is no setting 'api_kye'. Did you mean 'api_key'? "
                "The setting 'api_key' is missing."
            ),
        ),
        ({"page_size": 9999}, "9999 is greater than the maximum of 5000 in config['page_size']."),
    ],
)
@pytest.mark.parametrize("test", [(), ("--test",)])
def test_a_bad_config_ends_in_one_message(tap, config, changes, message, test):
    ended = tap("--config", config(**changes), *test)
    assert ended == (2, "", ended.log)
    assert ended.message == message


def test_a_missing_file_or_a_directory_ends_in_one_message(tap, config, tmp_path):
    ended = tap("--config", str(tmp_path))
    assert ended.code == 2
    assert ended.message == f"The config ({tmp_path}) is not a file with a JSON object."
    for arguments, words in (
        (("--config", "no.json"), "was not found"),
        (("--config", config(), "--state", "no.json"), "No such file"),
        (("--config", config(), "--catalog", "no.json"), "No such file"),
    ):
        ended = tap(*arguments)
        assert (ended.code, words in ended.message) == (2, True)


NOT_AN_OBJECT = [b"", b"nonsense", b"[1]", b"5", b'{"api_key": "%s"' % KEY.encode(), b"\xff\x00"]
NOT_A_CATALOG = [b'{"streams": 5}', b'{"streams": [{}]}', b'{"streams": ["a"]}']


@pytest.mark.parametrize(
    ("option", "content"),
    [
        *(("config", content) for content in NOT_AN_OBJECT),
        *(("state", content) for content in [*NOT_AN_OBJECT, b"null"]),
        *(("catalog", content) for content in [*NOT_AN_OBJECT, *NOT_A_CATALOG, b"null"]),
    ],
)
def test_a_damaged_file_ends_in_one_message(tap, config, tmp_path, option, content):
    """Nothing of it is repeated: it may contain the key."""
    path = tmp_path / "file.json"
    path.write_bytes(content)
    files = {"config": config(), option: path}
    ended = tap(*(f"--{name}={file}" for name, file in files.items()))
    assert ended == (2, "", ended.log)
    assert ended.message == (
        f"The config ({path}) is not a file with a JSON object."
        if option == "config"
        else f"The file given with --{option} does not hold a {option} as JSON."
    )


@pytest.mark.parametrize(
    "state",
    [
        {"bookmarks": []},
        {"cursor": "c"},
        {"bookmarks": {"events": None}},
        {"bookmarks": {"events": {"version": 3}}},
        {"bookmarks": {"events": {"replication_key_value": "2026-01-01"}}},
        {"bookmarks": {"orders": {}}},
        {"bookmarks": {"pages": 5}},
    ],
)
def test_a_damaged_or_foreign_state_ends_in_one_message(tap, config, tmp_path, state):
    """Before anything is written, so that the saved state stays as it is."""
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state))
    ended = tap("--config", config(), "--state", str(path))
    assert ended.code == 3
    assert ended.message.startswith("The state cannot be used: ")
    assert ended.out == ""


@pytest.mark.parametrize(
    "state", [{}, {"bookmarks": {}}, {"bookmarks": {"events": {}, "pages": {}}}]
)
def test_an_empty_state_is_a_fresh_start(tap, config, tmp_path, state):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state))
    with feeding({None: last_page(event())}) as server:
        ended = tap("--config", config(api_url=server.url), "--state", str(path))
    assert ended.code == 0


@pytest.mark.parametrize("test", [(), ("--test",)])
def test_settings_from_the_environment(tap, config, monkeypatch, test):
    """Numbers are read as numbers, and invalid ones refused; all of it only with ``ENV``."""
    with feeding({None: last_page(event())}) as server:
        monkeypatch.setenv("TAP_DATASYNC_API_URL", server.url)
        monkeypatch.setenv("TAP_DATASYNC_API_KEY", KEY)
        monkeypatch.setenv("TAP_DATASYNC_LOOKBACK", "60")
        assert tap("--config", "ENV", *test).code == 0
        monkeypatch.setenv("TAP_DATASYNC_PAGE_SIZE", "many")
        assert tap("--config", config(api_url=server.url), *test).code == 0
        ended = tap("--config", "ENV", *test)
    assert ended.code == 2
    assert ended.message.startswith("A setting in the environment is not valid: ")


@pytest.mark.parametrize("expression", ["nonsense(", "nonsense + 1"])
def test_a_bad_stream_map_ends_in_one_message(tap, config, expression):
    with feeding({None: last_page(event())}) as server:
        maps = {"events": {"a": expression}}
        ended = tap("--config", config(api_url=server.url, stream_maps=maps))
    assert ended.code == 2
    assert ended.message.startswith("The setting 'stream_maps' cannot be applied: ")


def status(code: int):
    return sending(http(b'{"code":"SOME_CODE"}', code, Location="http://x/"))


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (status(401), 3, "The API rejected the key (HTTP 401, SOME_CODE). Check api_key"),
        (status(302), 3, "The API responded with a redirect"),
        (status(400), 3, "It no longer behaves as documented."),
        (status(407), 2, "The proxy requires authentication"),
        (status(503), 1, "Gave up after 8 attempts: service unavailable"),
        (sending(http(b"<html>")), 1, "Gave up after 8 attempts: the response"),
    ],
)
@pytest.mark.parametrize("test", [(), ("--test",)])
def test_a_failure_ends_in_one_message_and_its_exit_code(tap, config, answer, code, words, test):
    """1: try again, 3: permanent."""
    with serving(answer) as server:
        ended = tap("--config", config(api_url=server.url), *test)
    assert ended.code == code
    assert words in ended.message
    assert ended.message.endswith(".")


def test_a_false_end_is_a_failure_that_loses_nothing(tap, config):
    """With --test it is none: one record is all that is wanted."""
    with serving(sending(http(body_of(event(), hasMore=False)))) as server:
        ended = tap("--config", config(api_url=server.url))
        tried = tap("--config", config(api_url=server.url), "--test")
    assert (ended.code, tried.code) == (1, 0)
    assert ended.message.endswith("No event is lost; try again later.")


def test_an_internal_error_is_logged_with_its_traceback_and_one_message(tap, config, monkeypatch):
    def fail(*_: object) -> None:
        message = f"on purpose, with {KEY}"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(EventsStream, "sync_pages", fail)
    ended = tap("--config", config())
    assert ended.code == 1
    assert "ZeroDivisionError: on purpose" in ended.log
    assert ended.message == "Internal error: ZeroDivisionError. Please report it."


# ------------------------------------------------------------------ whole runs


def test_a_run_over_http_ends_with_exit_code_0(tmp_path):
    """Config, state and catalog as files, against the sandbox, key in no output."""
    with running_api(events=300, limit=1000, key=KEY, max_page=100) as api:
        (tmp_path / "config.json").write_text(
            json.dumps({"api_url": api.url, "api_key": KEY, "lookback": 0})
        )
        first = script("--config", "config.json", cwd=tmp_path)
        messages = lines_of(first.out)
        state = [m["value"] for m in messages if m["type"] == "STATE"][-1]
        (tmp_path / "state.json").write_text(json.dumps(state))
        arguments = ("--config", "config.json", "--state", "state.json", "--catalog", str(SNAPSHOT))
        second = script(*arguments, cwd=tmp_path)
        spent = api.stats()["requests"]
    assert (first.code, second.code) == (0, 0)
    rows = [m["record"] for m in messages if m["type"] == "RECORD" and m["stream"] == "events"]
    assert len({row["id"] for row in rows}) == 300
    assert "Scan finished: 3 pages, 300 events read" in first.log
    assert spent == 4
    for ended in (first, second):
        assert KEY not in ended.out + ended.log


def test_test_reads_one_page_and_no_more(tap, config):
    """``--test`` stops as soon as it has a record."""
    pages = {None: body_of(*map(event, range(3)), total=9), "next": last_page(event(9))}
    with feeding(pages) as server:
        ended = tap("--config", config(api_url=server.url), "--test")
        assert len(server.requests) == 1
    assert ended.code == 0
    kinds = [m["type"] for m in lines_of(ended.out) if m.get("stream") == "events"]
    assert kinds == ["SCHEMA", "RECORD", "RECORD", "RECORD"]


SUITE: dict[str, Any] = {"api_url": NOWHERE, "api_key": KEY, "lookback": 60}


@pytest.fixture(scope="module", autouse=True)
def _sandbox_for_the_suite():
    with running_api(events=300, limit=1000, key=KEY, max_page=100, malformed=0.05) as api:
        SUITE["api_url"] = api.url
        yield


# A first scan has no value of `pages.incremental_to` to test.
@pytest.mark.filterwarnings("ignore:No records were available to test")
class TestStandard(
    get_tap_test_class(
        TapDataSync,
        config=SUITE,
        parse_env_config=False,
        suite_config=SuiteConfig(max_records_limit=None),
    )
):
    """The SDK's own tests of a tap, against the sandbox."""
