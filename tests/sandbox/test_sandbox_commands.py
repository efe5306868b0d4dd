"""``up``, ``down``, ``status``, ``api`` and ``feed``, as a user runs them."""

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
import yaml
from click.testing import CliRunner
from datasync_sandbox import ports, sandbox
from datasync_sandbox.cli import main
from datasync_sandbox.data.malformed import MALFORMED_KINDS
from datasync_sandbox.options import KEY_VARIABLE
from datasync_sandbox.sandbox import ApiProcess, BackgroundApi, Sandbox, fetch_stats
from datasync_sandbox.testing import FAULTS, ApiOptions, Cluster, SandboxError

from tests.sandbox.sandbox_helpers import feed_of, request

COMMAND = [sys.executable, "-m", "datasync_sandbox"]
API_ONLY = ("up", "--api-only", "--port=0", "--events=10")
API_NAMES = ["API_BASE_URL", "API_KEY"]
DATABASE_NAMES = ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"]
NOTHING_RUNS = "API:      not running\nDatabase: not running\n"
BOTH_STOPPED = "API:      stopped\nDatabase: stopped\n"


def run(directory, *arguments, **environment):
    """Run a command for the sandbox of a directory, within this process."""
    command, *rest = arguments
    return CliRunner().invoke(
        main, [command, f"--dir={directory / '.sandbox'}", *rest], env=environment
    )


@pytest.fixture
def project(tmp_path):
    """A project directory in which nothing is left running."""
    yield tmp_path
    stop_all(tmp_path)


def invoke(*arguments):
    return CliRunner().invoke(main, arguments)


def stop_all(project):
    BackgroundApi(project / ".sandbox").stop()
    Cluster(project / ".sandbox/pg").remove()


def status_of(project):
    return json.loads(run(project, "status", "--json").stdout)


def api_of(project):
    return BackgroundApi(project / ".sandbox").find()


def environment_of(project):
    """Read .sandbox/env as a shell does."""
    path = project / ".sandbox/env"
    done = subprocess.run(
        ["sh", "-c", f"set -a; . '{path}'; exec env"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    values = dict(line.split("=", 1) for line in done.stdout.splitlines())
    names = [line.split("=", 1)[0] for line in path.read_text().splitlines()]
    return {name: values[name] for name in names}


def kill(pid):
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)


def test_up_starts_both_and_down_stops_both(project):
    first = run(project, "up", "--port=0", "--db-port=0", "--events=300")
    assert (first.exit_code, first.stderr) == (0, "")
    variables = environment_of(project)
    assert list(variables) == API_NAMES + DATABASE_NAMES
    api = SimpleNamespace(url=variables["API_BASE_URL"], key=variables["API_KEY"])
    assert request(api).json["meta"]["total"] == 300
    for name in ("env", "meltano.yml", "api.json"):
        assert stat.S_IMODE((project / ".sandbox" / name).stat().st_mode) == 0o600
    meltano = yaml.safe_load((project / ".sandbox/meltano.yml").read_text())
    names = ["SANDBOX_API_URL", "SANDBOX_API_KEY", *(f"SANDBOX_{name}" for name in DATABASE_NAMES)]
    assert meltano == {"env": dict(zip(names, variables.values(), strict=True))}
    assert run(project, "status").exit_code == 0

    pid = api_of(project).pid
    assert os.getsid(pid) == pid  # Ctrl-C in the terminal that started it does not reach it
    for options in ((), ("--port=0", "--events=300")):
        again = run(project, "up", *options)
        assert again.stdout.count("already running") == 2
        assert api_of(project).pid == pid
    assert environment_of(project) == variables

    run(project, "up", "--events=301")
    assert not psutil.pid_exists(pid)
    assert fetch_stats(api_of(project).url)["total"] == 301

    run(project, "down", "--api-only")
    assert list(environment_of(project)) == DATABASE_NAMES
    assert run(project, "down").stdout == "API:      was not running\nDatabase: stopped\n"
    assert not (project / ".sandbox/env").exists()
    assert not (project / ".sandbox/meltano.yml").exists()
    assert run(project, "status").exit_code == 3
    assert run(project, "down").stdout.count("was not running") == 2


def test_json_names_what_runs(project):
    started = json.loads(run(project, *API_ONLY, "--json").stdout)
    api = api_of(project)
    assert started == {
        "api": {
            "url": api.url,
            "key": api.options.key,
            "feed": "--events=10",
            "pid": api.pid,
            "started": True,
        },
        "database": None,
    }
    again = json.loads(run(project, "up", "--api-only", "--json").stdout)
    assert again["api"] == {**started["api"], "started": False}
    assert status_of(project) == again


def test_key_is_of_this_sandbox_and_stays_until_down(project):
    keys = []
    for events in ("--events=10", "--events=11"):
        run(project, *API_ONLY, events)
        keys.append(api_of(project).options.key)
        kill(api_of(project).pid)
    run(project, "down", "--api-only")
    run(project, *API_ONLY)
    keys.append(api_of(project).options.key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("half", "option", "name"), [("api", "--port", "API"), ("db", "--db-port", "database")]
)
def test_required_port_in_use_names_process_and_option(project, half, option, name):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(project, "up", f"--{half}-only", option, str(port))
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: Port {port} on 127.0.0.1 is in use by {psutil.Process().name()} "
        f"(pid {os.getpid()}) of {Path.cwd()}; choose another one for the {name} with {option}.\n"
    )
    assert not (project / ".sandbox/env").exists()


def test_default_port_in_use_is_replaced_by_a_free_one(project, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        box = Sandbox(project / ".sandbox")
        box.up(ApiOptions(port=port, events=1), given=(), database=False)
        assert api_of(project).port != port
        notice = capsys.readouterr().err
        assert notice.startswith(f"Port {port} is in use by ")
        assert notice.endswith("; the API takes a free port.\n")
        pid = api_of(project).pid
        # The default port is not an option that was given.
        box.up(ApiOptions(port=port, events=1), given=("events",), database=False)
        assert api_of(project).pid == pid
        monkeypatch.setattr("datasync_sandbox.postgres.cluster.DEFAULT_DB_PORT", port)
        box.up(ApiOptions(), given=(), api=False)
        assert box.database.port != port
        assert capsys.readouterr().err.endswith("; the database takes a free port.\n")


def test_process_left_over_from_a_deleted_directory_is_named(tmp_path):
    directory = tmp_path / "checkout"
    directory.mkdir()
    program = "import socket,time; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); "
    program += "print(s.getsockname()[1], flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=directory, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            port = int(process.stdout.readline())
            assert f"(pid {process.pid}) of {directory}" in ports.listener(port)
            directory.rmdir()
            assert f"left over from the deleted directory {directory}" in ports.listener(port)
        finally:
            process.kill()


def test_copy_neither_uses_nor_stops_the_processes_of_the_original(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    try:
        run(original, "up", "--port=0", "--db-port=0", "--events=10")
        before = status_of(original)
        subprocess.run(["cp", "-a", original, copy], check=True)
        assert run(copy, "status").stdout == NOTHING_RUNS
        assert run(copy, "down").stdout.count("was not running") == 2
        started = json.loads(run(copy, "up", "--events=10", "--json").stdout)
        for half in ("api", "database"):
            assert started[half]["started"]
            assert started[half]["pid"] != before[half]["pid"]
        assert started["database"]["port"] != before["database"]["port"]
        run(copy, "down")
        assert status_of(original) == before
    finally:
        stop_all(original)
        stop_all(copy)


def test_moved_directory_keeps_its_processes_and_restore_starts_what_has_died(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    try:
        run(old, "up", "--port=0", "--db-port=0", "--events=10")
        before = status_of(old)
        old.rename(new)
        assert status_of(new) == before
        kill(before["api"]["pid"])
        Cluster(new / ".sandbox/pg").stop()
        assert json.loads(run(new, "up", "--restore", "--api-only", "--json").stdout)["api"]
        kill(api_of(new).pid)
        after = json.loads(run(new, "up", "--restore", "--json").stdout)
        for half, names in (("api", ("url", "key", "feed")), ("database", ("port", "password"))):
            assert after[half]["started"]
            assert [after[half][name] for name in names] == [before[half][name] for name in names]
        assert run(new, "down").stdout == BOTH_STOPPED
        restored = json.loads(run(new, "up", "--restore", "--json").stdout)
        assert restored == {"api": None, "database": None}
    finally:
        stop_all(new)


def test_if_the_database_fails_an_api_stays_only_if_it_ran_before(project):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"--db-port={other.getsockname()[1]}"
        assert run(project, "up", "--port=0", taken, "--events=10").exit_code == 1
        assert run(project, "status").stdout == NOTHING_RUNS
        run(project, *API_ONLY)
        pid = api_of(project).pid
        assert run(project, "up", taken).exit_code == 1
    assert api_of(project).pid == pid
    assert list(environment_of(project)) == API_NAMES


def test_sandbox_of_another_user_is_an_error(tmp_path, monkeypatch):
    (tmp_path / ".sandbox").mkdir()
    monkeypatch.setattr(sandbox.os, "geteuid", lambda: os.getuid() + 12345)
    for command in ("up", "down", "status"):
        done = run(tmp_path, command)
        assert done.exit_code == 1
        text = "perhaps with sudo. Stop it as that user, then remove it with: sudo rm -r "
        assert text in done.stderr


@pytest.mark.parametrize("command", ["up", "down"])
def test_api_only_and_db_only_exclude_each_other(tmp_path, command):
    done = run(tmp_path, command, "--api-only", "--db-only")
    assert done.exit_code == 2
    assert "--api-only and --db-only exclude each other" in done.stderr
    assert not (tmp_path / ".sandbox").exists()


def test_record_of_another_process_is_ignored(project):
    run(project, *API_ONLY)
    record = project / ".sandbox/api.json"
    content = json.loads(record.read_text())
    run(project, "down", "--api-only")
    record.write_text(json.dumps(content | {"pid": os.getpid()}))
    assert run(project, "down", "--api-only").stdout == "API:      was not running\n"


def test_interrupted_start_leaves_no_process(tmp_path, monkeypatch):
    found = []

    def interrupt(url):
        found.append(fetch_stats(url)["pid"])
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "fetch_stats", interrupt)
    with pytest.raises(KeyboardInterrupt):
        BackgroundApi(tmp_path).start(ApiOptions(port=0, events=1))
    assert not psutil.pid_exists(found[0])


def test_start_that_takes_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_START_SECONDS", 0)
    with pytest.raises(SandboxError, match="did not reply within 0 seconds"):
        BackgroundApi(tmp_path).start(ApiOptions(port=0, events=1))


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("terminate", psutil.AccessDenied(1), "belongs to another user; stop it as that user."),
        ("kill", None, "does not end, not even after SIGKILL."),
    ],
)
def test_api_that_does_not_end_is_an_error(tmp_path, monkeypatch, method, error, text):
    assert run(tmp_path, *API_ONLY).exit_code == 0
    pid = api_of(tmp_path).pid

    def fail(*_):
        if error:
            raise error

    try:
        with monkeypatch.context() as patched:
            patched.setattr(sandbox, "_STOP_SECONDS", 0.1)
            for sent in ("terminate", "kill"):
                patched.setattr(psutil.Process, sent, lambda _: None)
            patched.setattr(psutil.Process, method, fail)
            for words in (("down", "--api-only"), (*API_ONLY, "--seed=2")):
                done = run(tmp_path, *words)
                assert done.exit_code == 1
                assert done.stderr == f"Error: The API (pid {pid}) {text}\n"
    finally:
        kill(pid)


def test_api_that_nothing_reaps_has_ended(tmp_path, monkeypatch):
    """In a container without an init process it stays a zombie."""
    assert run(tmp_path, *API_ONLY).exit_code == 0

    def wait(*_):
        raise psutil.TimeoutExpired(0)

    monkeypatch.setattr(psutil.Process, "wait", wait)
    assert run(tmp_path, "down", "--api-only").exit_code == 0


def test_proxy_is_not_used_for_loopback(project):
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    assert run(project, *API_ONLY, **proxy).exit_code == 0
    assert "10 events" in run(project, "status", **proxy).stdout


def test_key_is_in_no_argument(project):
    key = "a-key; with $odd 'letters'"
    assert run(project, *API_ONLY, **{KEY_VARIABLE: key}).exit_code == 0
    assert key not in shlex.join(psutil.Process(api_of(project).pid).cmdline())
    assert environment_of(project)["API_KEY"] == key


def test_other_key_of_the_environment_changes_only_the_key(project):
    run(project, *API_ONLY, **{KEY_VARIABLE: "one"})
    first = api_of(project)
    for variables in ({KEY_VARIABLE: "one"}, {}):
        assert "already running" in run(project, "up", "--api-only", **variables).stdout
        assert api_of(project) == first
    assert "started" in run(project, "up", "--api-only", **{KEY_VARIABLE: "two"}).stdout
    second = api_of(project)
    assert second.options == dataclasses.replace(first.options, key="two")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_api(number):
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


def test_feed_prints_the_rows_with_an_id():
    done = invoke("feed", "--events=500", "--seed=3", "--arrived=2", "--malformed=0.5")
    feed = feed_of(500, seed=3, malformed=0.5)
    feed.arrive(2)
    expected = [row.to_dict() for row in feed.rows() if row.id is not None]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert len(expected) < 502


def test_help_lists_all_faults_and_kinds_of_malformed_events():
    for words in (("api", "--help"), ("api", "--list-faults")):
        lines = invoke(*words).stdout.splitlines()
        listed = [line.partition(" [VALUE")[0].split(maxsplit=1) for line in lines]
        for name, kind in FAULTS.items():
            assert [name, kind.help] in listed
    listed = [line.split()[0] for line in invoke("api", "--list-malformed").stdout.splitlines()]
    assert listed == list(MALFORMED_KINDS)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--fault=nonsense@1", "unknown fault"),
        ("--fault=503", "is not a fault"),
        ("--latency=slow", "latency is seconds or a range"),
        ("--late=much", "late is SHARE:SECONDS"),
        ("--late=7:600", "late is SHARE:SECONDS"),
        ("--malformed-kinds=mud", "unknown kind of malformed event"),
        ("--newest=yesterday", "newest is a timestamp"),
    ],
)
def test_wrong_option_is_one_message(tmp_path, option, text):
    for done in (invoke("api", "--port=0", option), run(tmp_path, "up", "--port=0", option)):
        assert done.exit_code == 2
        assert done.stderr.startswith("Error: ")
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".sandbox/api.json").exists()


def test_options_survive_arguments_and_the_record(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    texts = {
        "window_kind": "fixed",
        "last_page": "empty",
        "latency": "0-5",
        "newest": "now",
        "late": "0.1:60",
        "malformed_kinds": "nul-deep,missing-id",
        "fault": ("503@1x2", "empty@2"),
        "key": ApiOptions.key,
    }
    numbers = [field.name for field in dataclasses.fields(ApiOptions) if field.name not in texts]
    shares = dict.fromkeys(("unsorted", "malformed"), 0.5)
    options = ApiOptions(**dict.fromkeys(numbers, 3) | shares | texts)
    parsed = main.commands["api"].make_context("api", options.to_args()).params
    assert ApiOptions(**{name: parsed[name] for name in vars(options)}) == options
    assert ApiOptions(key="secret").to_args() == []
    process = ApiProcess(1, 2.0, "http://127.0.0.1:1/api/v1", options)
    (tmp_path / "api.json").write_text(json.dumps(dataclasses.asdict(process)))
    assert BackgroundApi(tmp_path).last() == process


def test_feed_name_is_equal_for_equal_events():
    assert ApiOptions(port=1, limit=2, arrivals=3).feed_name() == ApiOptions().feed_name()
    names = [ApiOptions(events=1), ApiOptions(seed=2), ApiOptions(malformed=0.1), ApiOptions()]
    assert len({options.feed_name() for options in names}) == 4


def test_full_disk_is_named(tmp_path, monkeypatch):
    def write_text(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", write_text)
    done = run(tmp_path, *API_ONLY)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
