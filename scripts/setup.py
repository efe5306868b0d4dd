"""Install what the project needs, once, from locked requirements.

Run by `run-ingestion.sh`, `run-tests.sh` and `run-checks.sh` before anything is installed, so
it uses the standard library alone. It makes

* `.venv`: Meltano, the supervisor, the sandbox and the monitoring,
* `.meltano`: the virtual environments of the tap and the loader,
* `.venv-tests` (with `--tests`): the tools of the tests,
* `.venv-checks` (with `--checks`): the tools of `run-checks.sh`.

Each environment is made from nothing; beside the two in `.meltano`, what Meltano knows stays. A
stamp marks what is complete. It is a hash of all that went into it, so a later run either finds
the stamp and is done, or starts again: an installation that was cut off, a Python that has gone
and a changed lock are all the same case. Nothing is installed under a load that runs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
RUN_PACKAGES = ("ingestion", "sandbox", "monitoring")
PLUGIN_PACKAGES = ("tap-datasync", "target-config")
POLL_S = 0.05

# What in meltano.yml decides what is installed: these keys of the plugins, told by their
# indentation, a folded value whole; and the backend. A changed setting, job or schedule is no
# reason to install again.
_INSTALLED_KEYS = re.compile(
    r"^(?:  - |    )(?:name|variant|inherit_from|pip_url|python|executable):.*(?:\n {5,}.*)*"
    r"|^  backend:.*",
    re.MULTILINE,
)


# A signal is only noted: an exception out of nowhere, just after a command was
# started, would leave that command to itself.
_signals: list[int] = []


def note_signals() -> None:
    """Take signals from now on; one that is ignored, as `nohup` asks for, stays so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: _signals.append(number))


def end_if_asked() -> None:
    """End here if a signal came.

    Raises:
        SystemExit: One did.
    """
    if _signals:
        sys.exit(128 + _signals[0])


class SetupError(Exception):
    """An installation failed. The message says why, below the last words of a failed command."""

    exit_code = 1


class BusyError(SetupError):
    """A load is under way, and nothing is installed under it."""

    exit_code = os.EX_TEMPFAIL


@dataclass(frozen=True)
class Step:
    """One thing to install.

    Attributes:
        title: What the user is told, as in "Installing {title}".
        home: The directory that the step makes.
        inputs: What the step depends on, as bytes: a change installs again.
        probes: Commands that must succeed if the step is still whole.
        install: Does it; takes the runner that logs its commands.
    """

    title: str
    home: Path
    inputs: bytes
    probes: Sequence[Sequence[str | Path]]
    install: Callable[[Runner], None] = field(repr=False)

    @property
    def stamp(self) -> Path:
        """The file that says that this step is complete."""
        return self.home / ".complete"

    @property
    def key(self) -> str:
        """A hash over all that the result depends on, the place included."""
        where = f"{self.home}\n{sys.version}\n".encode()
        return hashlib.sha256(where + self.inputs).hexdigest()

    def is_complete(self) -> bool:
        """Whether the step was finished with the same inputs and still works."""
        try:
            if self.stamp.read_text() != self.key:
                return False
            for probe in self.probes:
                subprocess.run(
                    probe, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


@dataclass(frozen=True)
class Runner:
    """Runs commands with their output in a log, which is shown when one fails.

    Attributes:
        log: The log's file.
        lock: The file descriptor of the lock.
    """

    log: Path
    lock: int

    def __call__(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        """Run `command` in the project's root.

        Raises:
            SetupError: The command failed; the end of its output is in the message.
        """
        words = [str(word) for word in command]
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that all of it can be ended, and the lock,
                # so that nobody else begins while any of it lives.
                start_new_session=True,
                pass_fds=[self.lock],
            )
            while (failed := process.poll()) is None:
                if _signals:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                end_if_asked()
                time.sleep(POLL_S)
        if failed:
            with self.log.open("rb") as log:
                log.seek(start)
                output = log.read().decode(errors="replace").strip().splitlines()
            tail = "\n".join(f"    {line}" for line in output[-30:])
            message = f"{tail}\nThe installation failed; all of it is in {self.log}."
            raise SetupError(message)


def read(*patterns: str) -> bytes:
    """The names and contents of the project's files that match `patterns`."""
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return b"".join(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes() for path in paths)


def uv_env(python: Path) -> dict[str, str]:
    """The environment in which uv installs as pip would.

    uv does not read pip's configuration. A machine that reaches the package
    index through a mirror names it there, so its address is handed on.

    Args:
        python: The Python of an environment that has pip.
    """
    env = {
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PREVIEW_FEATURES": "build-dependency-hashes",
        "UV_PYTHON_DOWNLOADS": "never",
        # Meltano, the tap and the loader are large and are started at each run: once
        # compiled they begin in a third of the time, also where Python may not do it.
        "UV_COMPILE_BYTECODE": "1",
    }
    if "UV_DEFAULT_INDEX" in os.environ or "UV_INDEX_URL" in os.environ:
        return env
    listing = subprocess.run(
        [python, "-m", "pip", "config", "list"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    # The environment is listed after the files, and it wins.
    if found := re.findall(r"^\S+\.index-url='(.*)'$", listing, re.MULTILINE):
        env["UV_DEFAULT_INDEX"] = found[-1]
    return env


def make_venv(home: Path, lock: str, packages: Sequence[str], run: Runner) -> None:
    """Make a virtual environment with the contents of a lock and our packages.

    Args:
        home: Where; what is there is removed.
        lock: The lock's file name in `requirements/`.
        packages: Directories of the repository, installed as editable.
        run: Runs the commands.
    """
    run(sys.executable, "-m", "venv", "--clear", home)
    python = home / "bin" / "python"
    hashed = ("--require-hashes", "--requirement")
    run(python, "-m", "pip", "install", "--no-input", *hashed, "requirements/uv.txt")
    # A copy: uv removes everything that is not in the lock, itself as well.
    uv = home / "bin" / "uv-setup"
    shutil.copy2(home / "bin" / "uv", uv)
    env = uv_env(python)
    run(
        uv, "pip", "sync", f"--python={python}", "--require-hashes", f"requirements/{lock}", env=env
    )
    run(
        uv,
        *("pip", "install", f"--python={python}", "--no-deps"),
        *("--build-constraints", "requirements/build.txt", "--require-build-hashes"),
        *(word for package in packages for word in ("--editable", ROOT / package)),
        env=env,
    )
    uv.unlink()


def install_plugins(run: Runner) -> None:
    """Let Meltano make the virtual environments of the tap and the loader.

    Meltano's files hold the settings of a run, the key among them, while it
    lasts; nobody else has business in there.
    """
    home = ROOT / ".meltano"
    home.mkdir(exist_ok=True)
    home.chmod(0o700)
    venv = ROOT / ".venv" / "bin"
    run(
        venv / "meltano",
        "--log-format=uncolored",
        "install",
        "--clean",
        # Not the dashboard, which is large: Meltano installs it when it is first used.
        *("tap-datasync", "target-postgres", "target-postgres-stock"),
        env=uv_env(venv / "python"),
    )


def steps(*, tests: bool, checks: bool) -> Iterator[Step]:
    """What has to be there, in order.

    Args:
        tests: Whether the tools of the tests are wanted too.
        checks: Whether the tools of the checks are.
    """
    locks = ("requirements/build.txt", "requirements/uv.txt")
    venv = ROOT / ".venv"
    yield Step(
        title="Meltano and the project's own tools",
        home=venv,
        inputs=read(
            *locks, "requirements/run.txt", *(f"{name}/pyproject.toml" for name in RUN_PACKAGES)
        ),
        probes=[(venv / "bin" / "python", "-c", "import meltano")],
        install=lambda run: make_venv(venv, "run.txt", RUN_PACKAGES, run),
    )
    settings = "\n".join(_INSTALLED_KEYS.findall((ROOT / "meltano.yml").read_text()))
    yield Step(
        title="the tap and the loader",
        home=ROOT / ".meltano",
        inputs=settings.encode()
        + read(
            *("requirements/build.txt", "requirements/tap.txt", "requirements/target.txt"),
            *(f"{name}/pyproject.toml" for name in PLUGIN_PACKAGES),
        ),
        probes=[
            (ROOT / ".meltano" / plugin / "venv" / "bin" / "python", "-V")
            for plugin in ("extractors/tap-datasync", "loaders/target-postgres")
        ],
        install=install_plugins,
    )
    for wanted, name, title, probe in (
        (tests, "tests", "the tools of the tests", "import pytest"),
        (checks, "checks", "the tools of the checks", "import mypy"),
    ):
        if wanted:
            yield tools(name, title, probe)


def tools(name: str, title: str, probe: str) -> Step:
    """Describe a virtual environment for tools, beside all that they look at.

    Args:
        name: Of the lock, and of the directory.
        title: What the user is told.
        probe: Python that runs if it is whole.
    """
    home = ROOT / f".venv-{name}"
    lock = f"{name}.txt"
    packages = (*PLUGIN_PACKAGES, *RUN_PACKAGES)
    return Step(
        title=title,
        home=home,
        inputs=read(
            *("requirements/build.txt", "requirements/uv.txt", f"requirements/{lock}"),
            *(f"{package}/pyproject.toml" for package in packages),
        ),
        probes=[(home / "bin" / "python", "-c", probe)],
        install=lambda run: make_venv(home, lock, packages, run),
    )


def take(lock: int) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[int]:
    """Hold the lock on `path`; a second installation waits for the first.

    Yields:
        The file descriptor that holds the lock, for child processes to share.
    """
    with path.open("a") as lock:
        if not take(lock.fileno()):
            print("Another installation is under way; waiting for it.", flush=True)
            while not take(lock.fileno()):
                end_if_asked()
                time.sleep(POLL_S)
        yield lock.fileno()


@contextlib.contextmanager
def no_load(path: Path) -> Iterator[None]:
    """Hold the lock of the loads: none runs, and none begins until we are done.

    Raises:
        BusyError: One runs.
    """
    with path.open("a+") as lock:
        if not take(lock.fileno()):
            lock.seek(0)
            message = (
                f"Another run is under way here (process {lock.read().strip() or 'unknown'}): "
                "wait for it, or stop it with Ctrl-C."
            )
            raise BusyError(message)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def install(wanted: Iterable[Step], run: Runner) -> None:
    """Install what is missing.

    Raises:
        SetupError: A step failed.
    """
    run.log.write_bytes(b"")
    for step in wanted:
        print(f"Installing {step.title} ...", flush=True)
        started = time.monotonic()
        step.stamp.unlink(missing_ok=True)
        step.install(run)
        step.stamp.write_text(step.key)
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Install what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install what the project needs.")
    parser.add_argument("--tests", action="store_true", help="also what the tests need")
    parser.add_argument("--checks", action="store_true", help="also what the checks need")
    parser.add_argument("command", nargs="*", help="what to become afterwards")
    args = parser.parse_args(argv)

    state = ROOT / ".run"
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        with only_one(state / "install.lock") as lock:
            described = steps(tests=args.tests, checks=args.checks)
            if wanted := [step for step in described if not step.is_complete()]:
                with no_load(state / "run.lock"):
                    install(wanted, Runner(state / "install.log", lock))
    except SetupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Nothing can be installed: {error}.", file=sys.stderr)
        return 1
    end_if_asked()
    if args.command:
        os.chdir(ROOT)
        os.execv(args.command[0], args.command)  # noqa: S606 - no shell is wanted
    return 0


if __name__ == "__main__":
    note_signals()
    sys.exit(main())
