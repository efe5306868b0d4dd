"""``up``, ``down``, ``status`` and ``api``, as a person runs them."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner
from datasync_sandbox import background
from datasync_sandbox.background import BackgroundApi, fetch_stats
from datasync_sandbox.catalogue import FAULTS
from datasync_sandbox.cli import main
from datasync_sandbox.dirty import KINDS
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres import Cluster
from datasync_sandbox.testing import ApiOptions, Feed, row_fields

COMMAND = [sys.executable, "-m", "datasync_sandbox"]


def run(project, *arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    """A project directory with nothing left running in the end."""
    yield tmp_path
    BackgroundApi(tmp_path / ".sandbox").stop()
    Cluster(tmp_path / ".sandbox/pg").remove()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run a command within this process, where no process of its own is needed."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def environment_of(project):
    """Read .sandbox/env as a shell does."""
    text = (project / ".sandbox/env").read_text()
    done = subprocess.run(
        ["sh", "-c", "set -a; . ./.sandbox/env; exec env"],
        cwd=project,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split("=", 1)[0] for line in text.splitlines()]
    values = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: values[name] for name in names}


def note(project):
    return json.loads((project / ".sandbox/api.json").read_text())


def test_up_status_up_again_down(project, client_of):
    first = run(project, "up", "--port", "0", "--db-port", "0", "--events", "300")
    assert (first.returncode, first.stderr) == (0, "")
    variables = environment_of(project)
    assert list(variables) == [
        "API_BASE_URL",
        "API_KEY",
        "DB_HOST",
        "DB_PORT",
        "DB_USER",
        "DB_PASSWORD",
        "DB_NAME",
    ]
    assert stat.S_IMODE((project / ".sandbox/env").stat().st_mode) == 0o600
    api = SimpleNamespace(url=variables["API_BASE_URL"], key=variables["API_KEY"])
    assert client_of(api).page()["meta"]["total"] == 300
    assert run(project, "db", "psql", "-At", "-c", "SELECT 7").stdout == "7\n"
    assert run(project, "status").returncode == 0

    pid = note(project)["pid"]
    assert os.getsid(pid) == pid  # Ctrl-C in the terminal that started it does not reach it
    for options in ((), ("--port", "0", "--events", "300")):
        again = run(project, "up", *options)
        assert again.stdout.count("already running") == 2
        assert note(project)["pid"] == pid
    assert environment_of(project) == variables

    other = run(project, "up", "--port", "0", "--events", "301")
    assert "stopped, to start it with other options" in other.stdout
    assert not psutil.pid_exists(pid)
    assert fetch_stats(note(project)["url"])["total"] == 301

    down = run(project, "down")
    assert down.stdout.count(" stopped") == 2
    assert not (project / ".sandbox/env").exists()
    assert run(project, "status").returncode == 3
    assert run(project, "down").stdout.count("was not running") == 2


def test_up_tells_a_taken_port_in_one_sentence(project):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run(project, "up", "--api-only", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Port {port} on 127.0.0.1 is taken by another program; "
        "choose another one for the API.\n"
    )


def test_the_environment_is_of_what_runs(project):
    api = ["API_BASE_URL", "API_KEY"]
    database = ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"]
    run(project, "up", "--api-only", "--port", "0", "--events", "10")
    assert list(environment_of(project)) == api
    run(project, "up", "--db-only", "--db-port", "0")
    both = environment_of(project)
    assert list(both) == [*api, *database]
    run(project, "up", "--api-only")
    assert environment_of(project) == both
    run(project, "down", "--api-only")
    assert list(environment_of(project)) == database
    run(project, "down", "--db-only")
    assert not (project / ".sandbox/env").exists()


@pytest.mark.parametrize("command", ["up", "down"])
def test_the_one_alone_and_the_other_alone_is_neither(here, command):
    done = here(command, "--api-only", "--db-only")
    assert done.exit_code == 2
    assert "--api-only and --db-only exclude each other" in done.stderr
    assert not Path(".sandbox").exists()


def test_up_starts_anew_what_was_killed(project):
    run(project, "up", "--api-only", "--port", "0", "--events", "10")
    pid = note(project)["pid"]
    psutil.Process(pid).kill()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert "not running" in run(project, "status").stdout
    done = run(project, "up", "--api-only", "--port", "0", "--events", "10")
    assert done.returncode == 0
    assert note(project)["pid"] != pid


def test_a_note_about_another_process_is_not_believed(project):
    run(project, "up", "--api-only", "--port", "0", "--events", "10")
    old = note(project)
    run(project, "down", "--api-only")
    (project / ".sandbox/api.json").write_text(json.dumps(old | {"pid": os.getpid()}))
    assert run(project, "down", "--api-only").stdout == "API:      was not running\n"


def test_a_clock_that_is_set_hides_no_process(project):
    run(project, "up", "--api-only", "--port", "0", "--events", "10")
    # As if the clock had been put on by an hour since.
    noted = note(project)
    (project / ".sandbox/api.json").write_text(
        json.dumps(noted | {"created": noted["created"] - 3600})
    )
    assert run(project, "down", "--api-only").stdout == "API:      stopped\n"
    assert not psutil.pid_exists(noted["pid"])


def test_an_interrupted_start_leaves_nobody_behind(tmp_path, monkeypatch):
    met = []

    def interrupt(url):
        met.append(fetch_stats(url)["pid"])
        raise KeyboardInterrupt

    monkeypatch.setattr(background, "fetch_stats", interrupt)
    with pytest.raises(KeyboardInterrupt):
        BackgroundApi(tmp_path).start(ApiOptions(port=0, events=1))
    assert not psutil.pid_exists(met[0])


def test_a_start_that_takes_too_long_leaves_nobody_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "_START_SECONDS", 0)
    before = psutil.Process().children()
    with pytest.raises(SandboxError, match="did not answer within 0 seconds"):
        BackgroundApi(tmp_path).start(ApiOptions(port=0, events=1))
    assert set(psutil.Process().children()) <= set(before)


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        ("terminate", psutil.AccessDenied(1), "belongs to another user, who has to stop it."),
        ("wait", psutil.TimeoutExpired(5), "does not end, not even when it is killed."),
    ],
)
def test_an_api_that_does_not_end_is_one_sentence(here, monkeypatch, method, error, said):
    options = ("--api-only", "--port=0", "--events=10")
    assert here("up", *options).exit_code == 0
    pid = note(Path())["pid"]

    def fail(*_):
        raise error

    try:
        with monkeypatch.context() as patched:
            for signal_sent in ("terminate", "kill"):
                patched.setattr(psutil.Process, signal_sent, lambda _: None)
            patched.setattr(psutil.Process, method, fail)
            for words in (("down", "--api-only"), ("up", *options, "--seed=2")):
                done = here(*words)
                assert done.exit_code == 1
                assert done.stderr == f"Error: The API (pid {pid}) {said}\n"
    finally:
        # Of this process it is a child, and dead it is one until somebody asks.
        psutil.Process(pid).kill()
        psutil.Process(pid).wait()


def test_no_proxy_is_asked_about_loopback(project):
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    assert run(project, "up", "--api-only", "--port=0", "--events=10", **proxy).returncode == 0
    assert "10 events" in run(project, "status", **proxy).stdout


def test_the_key_is_in_no_argument(project):
    key = "a-key; with $odd 'letters'"
    done = run(
        project, "up", "--api-only", "--port", "0", "--events", "10", DATASYNC_SANDBOX_KEY=key
    )
    assert done.returncode == 0
    assert key not in shlex.join(psutil.Process(note(project)["pid"]).cmdline())
    assert environment_of(project)["API_KEY"] == key


def test_a_key_in_the_environment_changes_the_key_alone(project):
    options = ("--api-only", "--port", "0", "--events", "10")
    run(project, "up", *options, DATASYNC_SANDBOX_KEY="one")
    first = note(project)
    for variables in ({"DATASYNC_SANDBOX_KEY": "one"}, {}):
        assert "already running" in run(project, "up", "--api-only", **variables).stdout
        assert note(project) == first
    other = run(project, "up", "--api-only", DATASYNC_SANDBOX_KEY="two")
    assert "stopped, to start it with other options" in other.stdout
    second = note(project)
    assert (second["args"], second["key"]) == (first["args"], "two")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_api_cleanly(number):
    with subprocess.Popen(
        [*COMMAND, "api", "--port", "0", "--events", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as api:
        url = api.stdout.readline().strip()
        assert fetch_stats(url)["pid"] == api.pid
        api.send_signal(number)
        out, errors = api.communicate(timeout=10)
    assert (api.returncode, out, errors) == (0, "", "")


def test_the_feed_command_prints_the_rows(here):
    done = here("feed", "--events", "50", "--seed", "3", "--arrived", "2")
    feed = Feed(50, seed=3)
    feed.arrive(2)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        row_fields(row) for row in feed.rows()
    ]


def test_the_feed_command_leaves_out_what_has_no_id(here):
    done = here("feed", "--events", "40", "--malformed", "1", "--malformed-kinds", "missing-id")
    assert (done.exit_code, done.stdout) == (0, "")


def test_help_names_every_fault_and_list_dirt_every_kind(here):
    for words in (("api", "--help"), ("api", "--list-faults")):
        lines = here(*words).stdout.splitlines()
        said = [line.partition(" [VALUE")[0].split(maxsplit=1) for line in lines]
        for name, kind in FAULTS.items():
            assert [name, kind.help] in said
    listed = [line.split()[0] for line in here("api", "--list-malformed").stdout.splitlines()]
    assert listed == list(KINDS)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--fault=nonsense@1", "no fault is called"),
        ("--fault=503", "is not a fault"),
        ("--latency=slow", "latency is seconds or a range"),
        ("--late=much", "late is SHARE:SECONDS"),
        ("--late=7:600", "a share from 0 to 1"),
        ("--malformed-kinds=mud", "no dirt is called"),
        ("--newest=yesterday", "newest is a timestamp"),
    ],
)
def test_a_wrong_option_is_one_sentence(here, option, said):
    for command in ("api", "up"):
        done = here(command, "--port=0", option)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not Path(".sandbox").exists()


def test_options_survive_the_way_through_arguments(monkeypatch):
    monkeypatch.delenv(background.KEY_VARIABLE, raising=False)
    options = ApiOptions(
        port=1,
        events=5,
        seed=-2,
        limit=3,
        window=2.5,
        window_kind="fixed",
        cursor_lifetime=7.5,
        latency="0-5",
        max_page=9,
        last_page="empty",
        newest="now",
        arrivals=0.25,
        late="0.1:60",
        unsorted=0.125,
        malformed=0.5,
        malformed_kinds="nul-deep,missing-id",
        fault=("503@1x2", "empty@2"),
        key_lifetime=8.0,
        key_requests=4,
    )
    changed = {name for name, value in vars(options).items() if value != getattr(ApiOptions, name)}
    assert changed == {field.name for field in dataclasses.fields(ApiOptions)} - {"key"}
    read = main.commands["api"].make_context("api", options.to_args()).params
    assert ApiOptions(**{name: read[name] for name in vars(options)}) == options
    assert ApiOptions(key="secret").to_args() == []
