"""Whole runs as a process, with a real database and a fake Meltano."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from datasync_ingestion import ingestion
from datasync_ingestion.errors import SignalWatcher
from datasync_ingestion.ingestion import Ingestion

from tests.helpers import wait_until
from tests.ingestion.ingestion_helpers import FINISH, failure, is_alive, load, own_database, stop

if TYPE_CHECKING:
    from datasync_sandbox.testing import Cluster

    from tests.ingestion.ingestion_helpers import Checkout


def pipeline_runs(empty: Cluster, columns: str) -> list[str]:
    return empty.sql(f"SELECT {columns} FROM pipeline_runs ORDER BY id").splitlines()


def test_first_run_loads_and_prints_progress_and_summary(ready: Checkout, empty: Cluster) -> None:
    (ready.root / ".run").rmdir()
    (ready.root / ".env").write_text("API_KEY=put-your-api-key-here\n")
    ready.plan(FINISH)
    code, output = ready.run("--events=20", "--limit", "1000")
    assert code == 0, output
    assert output.startswith("API_KEY is the placeholder of .env.example: loading sample events")
    assert "API:      http://127.0.0.1:1/api/v1 (sample events)" in output
    assert re.search(r"Database: \S+ at 127\.0\.0\.1:\d+ \(embedded\)", output)
    # Without a terminal the progress is log lines.
    (progress,) = [line for line in output.splitlines() if " finished page" in line]
    assert "events=20" in progress
    assert "\x1b" not in output
    assert "events in the table     20 (20 new)" in output
    assert "events in the API       20" in output
    assert ready.sandbox_calls() == [["up", "--json", "--events=20", "--limit", "1000"]]
    (call,) = ready.calls("run")
    assert call["words"] == [
        *("--log-format=json", "--environment=dev", "run", "--no-install", "--force"),
        *("tap-datasync", "target-postgres"),
    ]
    assert call["env"]["API_KEY"] == "sample-key"
    assert call["env"]["DB_PORT"] == str(empty.port)
    columns = "source, outcome, restarts, events_before, events_after, ended_at IS NOT NULL"
    assert pipeline_runs(empty, columns) == ["sandbox --events=20|finished|0|0|20|t"]
    # The log may contain what others must not read.
    assert (ready.root / ".run").stat().st_mode & 0o077 == 0


def test_restarts_failed_attempts_until_scan_has_finished(ready: Checkout, empty: Cluster) -> None:
    ready.plan(
        {"sql": load(5, cursor="c1"), **failure(1, "The API does not respond.")},
        {"sql": load(10, cursor="c2"), "kill": int(signal.SIGKILL)},
        {"sql": load(15, cursor="c3"), "exit": 0},
        FINISH,
    )
    code, output = ready.run()
    assert code == 0, output
    assert "The API does not respond. Restarting now (restart 1)." in output
    assert "Meltano was ended by SIGKILL. Restarting now (restart 2)." in output
    assert "but the scan has not finished. Restarting now (restart 3)." in output
    assert "restarts                3" in output
    assert pipeline_runs(empty, "outcome, restarts") == ["finished|3"]
    # A part of the sandbox that has ended is started again, as it was.
    assert ready.sandbox_calls()[1:] == [["up", "--json", "--restore"]] * 3
    assert not list((ready.root / ".meltano" / "run").glob("*/*.config.json"))


@pytest.mark.parametrize(
    ("plugin", "exit_code", "message"),
    [
        ("tap-datasync", 2, "page_size is wrong."),
        ("tap-datasync", 3, "The key is refused."),
        ("target-postgres", 2, "The role may not write."),
        ("target-postgres", 75, "Another load is running."),
    ],
)
def test_permanent_failure_ends_run_at_once_with_message(
    ready: Checkout, empty: Cluster, plugin: str, exit_code: int, message: str
) -> None:
    ready.plan(failure(exit_code, message, plugin))
    process = ready.start(stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == exit_code
    cause, hint = errors.splitlines()
    assert cause == message
    assert "the next run resumes from the checkpoint. Full log: .run/log/" in hint
    assert message not in output
    assert "finished" not in output
    assert len(ready.calls("run")) == 1
    assert pipeline_runs(empty, "outcome, message") == [f"failed|{message}"]
    assert ready.log().endswith(f" error    run-ingestion   {message}\n")


def test_failure_after_finished_scan_is_not_reported_as_finished(
    ready: Checkout, empty: Cluster
) -> None:
    """For example because Meltano cannot save the last STATE."""
    ready.plan({**FINISH, **failure(2, "No state.")})
    code, output = ready.run()
    assert code == 2
    assert "finished" not in output
    assert "100" not in output
    assert pipeline_runs(empty, "outcome, events_after") == ["failed|20"]


def test_no_restart_makes_one_attempt(ready: Checkout) -> None:
    ready.plan(failure(1, "The API does not respond."))
    code, output = ready.run("--no-restart")
    assert code == 1
    assert "The API does not respond." in output
    assert len(ready.calls("run")) == 1


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_pipeline_and_started_sandbox(
    ready: Checkout, empty: Cluster, number: signal.Signals, expected: int
) -> None:
    ready.plan({"sql": load(5, cursor="c1"), "tap": {"seconds": 60}})
    process = ready.start()
    meltano = wait_until(lambda: ready.calls("run"))[0]["pid"]
    wait_until(lambda: "Page 1" in ready.log())
    # Ctrl-C in the terminal reaches this process alone, which stops the tap first.
    assert os.getsid(meltano) == meltano
    code, output = stop(process, number)
    assert code == expected
    assert "Stopped. Loaded events are kept" in output
    assert "Traceback" not in output
    wait_until(lambda: not is_alive(meltano))
    assert ready.sandbox_calls()[1:] == [["down", "--api-only"], ["down", "--db-only"]]
    assert pipeline_runs(empty, "outcome, events_after") == ["stopped|5"]
    assert '"exit_codes": {"extractors": 143}' in ready.log()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_signal_during_start_ends_without_traceback(ready: Checkout) -> None:
    ready.plan({"tap": {"seconds": 60}})
    process = ready.start()
    # Once SIGTERM has a handler, SIGINT has ours too.
    wait_until(lambda: _has_handler(process.pid, signal.SIGTERM))
    code, output = stop(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in output


def _has_handler(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_signal_does_not_stop_sandbox_started_earlier(ready: Checkout) -> None:
    (ready.root / "was-running").touch()
    ready.plan({"tap": {"seconds": 60}})
    process = ready.start()
    wait_until(lambda: "Page 1" in ready.log())
    code, _ = stop(process, signal.SIGINT)
    assert code == 130
    assert [words[0] for words in ready.sandbox_calls()] == ["up"]


def test_run_under_nohup_survives_closed_terminal(ready: Checkout) -> None:
    ready.plan({"tap": {"seconds": 60}})
    # What a process ignores is ignored by those that it starts.
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = ready.start()
    finally:
        signal.signal(signal.SIGHUP, handler)
    wait_until(lambda: "Page 1" in ready.log())
    process.send_signal(signal.SIGHUP)
    assert stop(process, signal.SIGTERM)[0] == 143


def test_closed_output_ends_run(ready: Checkout) -> None:
    """As in `run-ingestion.sh | head`: quietly, like other commands."""
    reader, writer = os.pipe()
    os.close(reader)
    ready.plan(FINISH)
    process = ready.start(stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (1, "")


def test_refuses_second_run_in_checkout(ready: Checkout, empty: Cluster) -> None:
    ready.plan({"tap": {"seconds": 60}})
    first = ready.start()
    wait_until(lambda: "Page 1" in ready.log())
    message = f"Another run is in progress here (process {first.pid}): wait for it, or stop it "
    code, output = ready.run()
    assert (code, output) == (75, f"{message}with Ctrl-C where it was started.\n")
    assert ready.run("--stop-sandbox")[0] == 75
    _, output = ready.run(**own_database(empty), DATASYNC_CONTAINER="1")
    assert output == f"{message}with `docker compose stop ingestion`.\n"
    assert stop(first, signal.SIGTERM)[0] == 143


def test_refuses_second_load_into_database(ready: Checkout, empty: Cluster) -> None:
    with psycopg.connect(empty.url, application_name="target-postgres-checkpoint") as holder:
        holder.execute("SELECT pg_try_advisory_xact_lock(1684107116, hashtext('public'))")
        code, output = ready.run()
        assert code == 75
        assert "Another load into the database" in output
        process = f"target-postgres-checkpoint, server process {holder.info.backend_pid}, from "
        assert re.search(rf"\({process}127\.0\.0\.1, since .* UTC\): wait for it", output)
        assert not ready.calls("run")
    ready.plan(FINISH)
    assert ready.run()[0] == 0


def test_lock_that_fails_is_not_reported_as_another_run(
    ready: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ingestion.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks available"):
        Ingestion(ready.root, SignalWatcher()).stop_sandbox()


def test_next_run_stops_pipeline_of_killed_run(ready: Checkout, empty: Cluster) -> None:
    ready.plan({"sql": load(5, cursor="c1"), "tap": {"seconds": 60}}, FINISH)
    process = ready.start()
    meltano = wait_until(lambda: ready.calls("run"))[0]["pid"]
    wait_until(lambda: "Page 1" in ready.log())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert is_alive(meltano)
    code, output = ready.run()
    assert code == 0
    assert "Stopped a pipeline left running by a killed run." in output
    wait_until(lambda: not is_alive(meltano))
    assert str(process.pid) not in (ready.root / ".run/run.lock").read_text()
    assert pipeline_runs(empty, "outcome") == ["killed", "finished"]


def test_full_refresh_clears_state_only_before_first_attempt(ready: Checkout) -> None:
    ready.plan(FINISH, {"sql": load(5, cursor="c1"), **failure(1, "No.")}, FINISH)
    ready.run()
    code, output = ready.run("--full-refresh")
    assert code == 0
    assert "Full refresh: loading from the newest event to the oldest." in output
    assert len(ready.calls("clear")) == 1
    assert [call for call in ready.calls("run") if "--full-refresh" in call["words"]] == []


def test_clears_state_of_another_database(ready: Checkout) -> None:
    """For example because `.env` names a new database: no event may be skipped."""
    state = {"singer_state": {"bookmarks": {"events": {"high_watermark": "2026-01-27T00:00:00Z"}}}}
    (ready.root / "state.json").write_text(json.dumps(state))
    ready.plan(FINISH)
    code, output = ready.run()
    assert code == 0
    assert "The database has no checkpoint: loading from the beginning." in output
    assert not (ready.root / "state.json").exists()


def test_replaces_missing_state_by_checkpoint(ready: Checkout) -> None:
    ready.plan(FINISH, FINISH)
    ready.run()
    code, output = ready.run()
    assert code == 0
    assert "resuming from the checkpoint" in output
    state = json.loads((ready.root / "state.json").read_text())["singer_state"]
    assert state["bookmarks"]["events"]["events_seen"] == 20


def test_other_sample_events_replace_previous_ones(ready: Checkout, empty: Cluster) -> None:
    ready.plan(FINISH, {"sql": load(7, total=7)})
    ready.run("--events=20")
    code, output = ready.run("--events=7")
    assert code == 0
    assert "removing the previous ones" in output
    assert "events in the table     7 (7 new)" in output
    assert pipeline_runs(empty, "source") == ["sandbox --events=20", "sandbox --events=7"]


def test_refuses_to_mix_real_and_sample_events(ready: Checkout) -> None:
    ready.plan(FINISH)
    ready.run()
    code, output = ready.run(API_KEY="k", API_BASE_URL="https://api.test/api/v1")
    assert code == 2
    assert "holds sample events of the sandbox" in output
    assert "or remove the embedded database with `sh run-ingestion.sh --stop-sandbox`" in output
    assert len(ready.calls("run")) == 1


def test_table_of_another_application_ends_run(ready: Checkout, empty: Cluster) -> None:
    empty.sql("CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT)")
    code, output = ready.run()
    assert code == 2
    assert "The table public.events of the database" in output
    assert not ready.calls("run")


def test_foreign_pages_table_hides_progress_only(ready: Checkout, empty: Cluster) -> None:
    empty.sql("CREATE TABLE pages (number INTEGER)")
    ready.plan({"sql": load(5, cursor="c1")}, FINISH)
    code, output = ready.run()
    assert code == 0, output
    assert output.count("Progress is not available for now. ") == 1
    assert "Traceback" not in output


def test_real_api_and_database_start_no_sandbox(ready: Checkout, empty: Cluster) -> None:
    """And the key is in no output, log or process list, only in the environment."""
    ready.plan(failure(1, "The API does not respond."), FINISH)
    settings = own_database(empty) | {"BATCH_SIZE": "1000"}
    # Meltano's own settings do not change what is run.
    foreign = {"MELTANO_RUN_FULL_REFRESH": "1", "MELTANO_ENVIRONMENT": "prod"}
    code, output = ready.run("--verbose", **settings, **foreign)
    assert code == 0, output
    assert ready.sandbox_calls() == []
    for call in ready.calls("run"):
        assert call["env"] == settings
        assert "real-key-123" not in output + ready.log() + "".join(call["words"])
    assert f"psql -h {empty.host} -p {empty.port}" in output
    assert pipeline_runs(empty, "source") == ["https://api.test/api/v1"]


def test_hints_in_container_use_compose(ready: Checkout, empty: Cluster) -> None:
    ready.plan(FINISH, failure(3, "The key is refused."))
    settings = own_database(empty) | {"DATASYNC_CONTAINER": "1"}
    for expected in (0, 3):
        code, output = ready.run(**settings)
        assert code == expected, output
        assert "docker compose cp ingestion:/app/.run/log ." in output
        for word in ("psql", ".run/log/", "Ctrl-C", ".sandbox", "unset"):
            assert word not in output
    code, output = ready.run(DATASYNC_CONTAINER="1")
    assert code == 2
    assert "docker compose --profile sandbox up" in output


@pytest.mark.parametrize(
    ("env_file", "message"),
    [
        (b"API_KEY=\xff", ".env cannot be read"),
        (b"API_KEY_FILE=missing", "API_KEY_FILE: missing cannot be read"),
    ],
)
def test_settings_that_cannot_be_read_are_exit_code_2(
    ready: Checkout, env_file: bytes, message: str
) -> None:
    (ready.root / ".env").write_bytes(env_file)
    code, output = ready.run()
    assert code == 2
    assert message in output
    assert ready.sandbox_calls() == []


def test_env_file_reaches_meltano_unchanged_unless_environment_overrides_it(
    ready: Checkout, empty: Cluster
) -> None:
    settings = own_database(empty) | {"BATCH_SIZE": "100"}
    password = settings.pop("DB_PASSWORD")
    lines = [f"{name}='{value}'" for name, value in settings.items()]
    (ready.root / ".env").write_text("\n".join([*lines, "API_KEY='k ${HOME} \"$x #'"]))
    (ready.root / "password").write_text(f"{password}\n")
    ready.plan(FINISH)
    code, output = ready.run(DB_PASSWORD_FILE=str(ready.root / "password"), BATCH_SIZE="200")
    assert code == 0, output
    env = ready.calls("run")[0]["env"]
    assert env["API_KEY"] == 'k ${HOME} "$x #'
    assert env["DB_PASSWORD"] == password
    assert env["BATCH_SIZE"] == "200"


def test_sample_events_are_not_loaded_into_real_database(ready: Checkout, empty: Cluster) -> None:
    code, output = ready.run(DB_HOST=empty.host, DB_USER=empty.user)
    assert code == 2
    assert "sample events are not loaded" in output
    assert ready.sandbox_calls() == []
    assert not ready.calls("get")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DB_PASSWORD": "wrong-pw"}, "password authentication failed"),
        ({"DB_NAME": "nope"}, 'database "nope" does not exist'),
        # libpq's own names are respected, as described in docs/security.md.
        ({"PGSSLMODE": "require"}, "server does not support SSL"),
    ],
)
def test_rejected_connection_ends_run_at_once(
    ready: Checkout, empty: Cluster, env: dict[str, str], message: str
) -> None:
    code, output = ready.run(**own_database(empty) | env)
    assert code == 2
    assert "PostgreSQL refuses the connection to" in output
    assert message in output
    assert "wrong-pw" not in output
    assert not ready.calls("run")


def test_passes_other_options_to_sandbox(ready: Checkout, empty: Cluster) -> None:
    code, output = ready.run("--wrong")
    assert (code, output) == (2, "No such option: --wrong\n")
    code, output = ready.run("--events=5", **own_database(empty))
    assert code == 2
    assert "--events=5 is not an option of run-ingestion.sh" in output


def test_verbose_prints_full_log(ready: Checkout) -> None:
    attempt = {**FINISH, "log": [{"event": "a detail", "name": "tap-datasync"}]}
    ready.plan(attempt, attempt)
    assert "tap-datasync    a detail" in ready.run("--verbose")[1]
    assert "a detail" not in ready.run()[1]


def test_shows_warnings_of_tap_and_target_and_a_series_of_them_once(ready: Checkout) -> None:
    texts = ["try 1 of 3", "try 2 of 3", "The cursor has expired.", "try 3 of 3"]
    log = [{"event": text, "name": "tap-datasync", "level": "warning"} for text in texts]
    ready.plan({**FINISH, "log": [*log, {"event": "No state", "level": "warning"}]})
    output = ready.run()[1]
    shown = [line for line in output.splitlines() if line.startswith("tap-datasync: ")]
    assert shown == [f"tap-datasync: {texts[i]}" for i in (0, 2, 3)]
    assert "No state" not in output
    assert all(text in ready.log() for text in texts)


def test_stop_sandbox_stops_sandbox(ready: Checkout) -> None:
    assert ready.run("--stop-sandbox") == (0, "stopped\n")
    assert ready.sandbox_calls() == [["down"]]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("Usage: up\n\nError: Port 1 is taken.", "Port 1 is taken."),
        ("", "The sandbox ended with exit code 1."),
    ],
)
def test_error_of_sandbox_ends_run(ready: Checkout, error: str, message: str) -> None:
    (ready.root / "sandbox_error.log").write_text(error)
    assert ready.run() == (1, f"{message}\n")
    assert ready.run("--stop-sandbox") == (1, f"{message}\n")


def test_refuses_to_run_outside_checkout(ready: Checkout) -> None:
    (ready.root / "meltano.yml").unlink()
    code, output = ready.run()
    assert code == 2
    assert "contains no meltano.yml: start this with run-ingestion.sh." in output


def test_keeps_newest_logs_only(ready: Checkout) -> None:
    directory = ready.root / ".run" / "log"
    directory.mkdir()
    for number in range(60):
        (directory / f"20260101T0000{number:02}Z.log").touch()
    (directory / "20250101T000000Z.txt").touch()
    ready.plan(FINISH)
    assert ready.run()[0] == 0
    names = sorted(path.name for path in directory.iterdir())
    assert len(names) == 51
    assert names[:2] == ["20250101T000000Z.txt", "20260101T000011Z.log"]
