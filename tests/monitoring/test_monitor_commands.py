"""The commands, as processes: exit codes, one line, a live view on a pseudo terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pyte
import pytest
from datasync_monitor import cli
from datasync_monitor import watch as watching
from datasync_monitor.check import Verdict, check
from datasync_monitor.cli import main
from datasync_monitor.database import Settings, Unreachable
from datasync_monitor.health import PATIENCE
from datasync_monitor.progress import Progress
from datasync_monitor.watch import readings, watch
from scribe import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.testing import Cluster
    from scribe import Scribe


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "DB_HOST": settings.host,
        "DB_PORT": str(settings.port),
        "DB_USER": settings.user,
        "DB_PASSWORD": settings.password,
        "DB_NAME": settings.dbname,
    }


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "datasync_monitor.cli", *arguments]
    return subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("story", "code", "said"),
    [
        ("empty", 0, "idle: nothing loaded yet"),
        ("running", 0, "running: 85,000 of 100,000 events, 85.0 %, 3 of 10 requests left"),
        ("waiting", 0, "waiting: 50,000 of 100,000 events, 50.0 %, waiting "),
        ("stuck", 1, "stuck: 65,000 of 100,000 events, 65.0 %, nothing has moved for 15 min"),
        (
            "finished",
            0,
            "finished: 100,000 events in the last walk, everything up to 2026-01-27 19:00:00 UTC",
        ),
    ],
)
def test_check_tells_each_state_in_one_line(
    settings: Settings, scribe: Scribe, story: str, code: int, said: str
) -> None:
    tell(scribe, story)
    done = run(settings, "check")
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(said)
    assert done.stdout.count("\n") == 1


def test_check_without_a_database_exits_2_with_one_line() -> None:
    done = run(Settings(port=1), "check")
    assert done.returncode == 2
    assert done.stdout.startswith("No database events at 127.0.0.1:1: ")
    assert done.stdout.count("\n") == 1


def test_check_on_a_database_that_answers_but_refuses_the_login(settings: Settings) -> None:
    wrong = Settings(
        settings.host, settings.port, settings.user, settings.password, "no_such_database"
    )
    outcome = check(wrong, patience=PATIENCE)
    assert outcome.verdict is Verdict.NO_DATABASE
    assert 'database "no_such_database" does not exist' in outcome.text


def test_check_on_tables_that_may_not_be_read_exits_2_with_one_line(
    settings: Settings, scribe: Scribe
) -> None:
    tell(scribe, "running")
    scribe.connection.execute("REVOKE SELECT ON pages FROM CURRENT_USER")
    done = run(settings, "check")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == (
        f"The database {settings.place} refuses: permission denied for table pages.\n"
    )


def test_check_does_not_call_a_run_that_failed_on_its_first_page_finished(
    settings: Settings, scribe: Scribe
) -> None:
    scribe.lost_page()
    assert check(settings, patience=PATIENCE, clock=scribe.clock).text.startswith("running: ")
    scribe.later(PATIENCE.total_seconds() + 1)
    assert check(settings, patience=PATIENCE, clock=scribe.clock).verdict is Verdict.STUCK


def test_a_stopped_tap_is_stuck_once_the_patience_is_over(
    settings: Settings, scribe: Scribe
) -> None:
    """A tap under SIGSTOP leaves a checkpoint that does not move, and nothing else."""
    scribe.page(remaining=0, reset=60)
    verdicts = []
    for _ in range(8):
        verdicts.append(check(settings, patience=PATIENCE, clock=scribe.clock).verdict)
        scribe.later(60)
    assert verdicts == [0] * 8, "60 s of waiting for the limit, and 360 s of patience"
    scribe.later(1)
    assert check(settings, patience=PATIENCE, clock=scribe.clock).verdict is Verdict.STUCK
    scribe.page()
    assert check(settings, patience=PATIENCE, clock=scribe.clock).verdict is Verdict.HEALTHY


def test_patience_can_be_set(settings: Settings, scribe: Scribe) -> None:
    tell(scribe, "stuck")
    assert run(settings, "check", "--patience", "3600").returncode == 0


def test_a_port_that_is_no_port_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PORT", "fivefour")
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "DB_PORT is 'fivefour', not a port number.\n"


@pytest.mark.parametrize("patience", ["0", "-1", "nan", "inf", "soon"])
def test_patience_must_be_a_number_of_seconds(
    patience: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", f"--patience={patience}"])
    assert left.value.code == 2
    assert "--patience" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["web", "metrics"])
@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_to_listen_on_is_a_number_from_1_to_65535(
    command: str, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli._parser().parse_args([command, f"--port={port}"])
    assert left.value.code == 2
    assert "argument --port: must be a port number, 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "package"), [("web", "streamlit"), ("metrics", "prometheus_client")]
)
def test_a_port_that_is_taken_is_said_in_one_sentence(command: str, package: str) -> None:
    pytest.importorskip(package, reason=f"the extra `{command}` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(Settings(), command, "--port", str(port))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"Cannot listen on 127.0.0.1:{port}: Address already in use.\n"


@pytest.mark.parametrize(
    ("command", "package"), [("web", "streamlit"), ("metrics", "prometheus_client")]
)
def test_a_package_that_is_missing_is_named_with_the_ways_to_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    package: str,
) -> None:
    monkeypatch.delitem(sys.modules, "datasync_monitor.metrics", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([command]) == 3
    assert capsys.readouterr().err == (
        f"{package} is not installed: `meltano invoke datasync-monitor:{command}` brings it, "
        f"or pip install './monitoring[{command}]'.\n"
    )


def _pages_until(scribe: Scribe, finished_after: int) -> Callable[[], None]:
    """Move the load on where `watch` would sleep."""
    scribe.total = 5000 * finished_after
    scribe.now = datetime.now(timezone.utc) - timedelta(seconds=60)

    def pause() -> None:
        scribe.page(took=6)
        if scribe.page_number == finished_after:
            scribe.finish()

    return pause


def test_watch_without_a_terminal_prints_lines_until_the_end(
    settings: Settings, scribe: Scribe, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(settings, patience=PATIENCE, pause=_pages_until(scribe, 3))
    lines = capsys.readouterr().out.splitlines()
    assert " idle " in lines[0]
    assert " finished page=3 events=15000 total=15000 percent=100.0 " in lines[-1]


def test_the_live_view_does_not_say_what_a_database_holds_that_never_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = Unreachable("No database events at db.test:5432.")
    watching._live([gone], pause=lambda: None, follow=False)
    said = capsys.readouterr().out
    assert "No database events at db.test:5432. Trying again." in said
    assert "idle" not in said


def test_a_database_that_goes_away_and_returns_is_read_again(
    cluster: Cluster, settings: Settings, scribe: Scribe
) -> None:
    scribe.page()
    looking = readings(settings, patience=PATIENCE)
    assert isinstance(next(looking), Progress)
    port = cluster.port
    cluster.stop("immediate")
    try:
        assert f"The database {settings.place} went away: " in str(next(looking))
        assert f"No database {settings.place}: " in str(next(looking))
    finally:
        cluster.start(port)
    again = next(looking)
    assert isinstance(again, Progress)
    assert again.seen == 5000


@pytest.mark.parametrize("columns", [60, 200])
def test_watch_on_a_terminal_shows_the_bar_and_ends_with_the_load(
    settings: Settings, scribe: Scribe, columns: int
) -> None:
    tell(scribe, "running")
    screen = pyte.Screen(columns, 24)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "datasync_monitor.cli", "watch", "--every", "0.05"]
        os.execve(sys.executable, command, {**environment(settings), "TERM": "xterm-256color"})  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    deadline = time.monotonic() + 60

    def seen(text: str) -> bool:
        while not any(text in shown for shown in screen.display):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([terminal], [], [], left)[0]:
                return False
            try:
                stream.feed(os.read(terminal, 65536))
            except OSError:
                return any(text in shown for shown in screen.display)
        return True

    try:
        assert seen("85,000 of 100,000 events"), screen.display
        assert seen("85.0 %")
        assert seen("3 rejected")
        assert seen("1 restart")
        for number in range(3):
            scribe.page(remaining=2 - number)
        scribe.finish()
        assert seen("finished"), screen.display
        assert seen("everything up to 2026-01-27 19:00:00 UTC is loaded"), screen.display
        assert not seen("what is never said"), "read until the command has closed the terminal"
        assert time.monotonic() < deadline, "it ends by itself"
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
