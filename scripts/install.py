"""Install the project from requirements/lock.txt, then run a command.

`.venv` holds Meltano, the tap, the target and the project's own tools; `.venv-dev` holds the same
with the tools of the tests and checks, `.venv-bench` with those of the bench. Each is a symbolic
link into `.venvs`, set when the environment it points to is complete: an installation that fails
or is killed leaves the previous environment in use, and a running load keeps the one it runs in.

Runs before anything is installed, so it uses the standard library alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venvs"
LOG = HOME / "install.log"
LOCK = ROOT / "requirements" / "lock.txt"
# pip's settings for reaching the package index, and the corresponding variables of uv.
PIP_SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
# Patterns in the output of a failed command, and the messages for them.
HINTS = {
    r"(?i)certificate": "The certificate of the package index is not trusted: name the "
    "certificates with SSL_CERT_FILE and PIP_CERT, or with `pip config set global.cert FILE`.",
    r"(?i)connection|failed to connect|dns error|unreachable|error sending request": "The package "
    "index cannot be reached: check the network and HTTPS_PROXY, or name a mirror with "
    "`pip config set global.index-url URL`.",
    r"(?i)no space left": "The disk is full.",
}


def link(name: str) -> Path:
    """Return the path of the link to an environment."""
    return ROOT / (".venv" if name == "run" else f".venv-{name}")


def packages(name: str) -> list[str]:
    """Return the project's packages in an environment, with their extras."""
    # Elsewhere (Alpine, Intel macOS) there is no wheel of the embedded PostgreSQL.
    linux = platform.libc_ver()[0] == "glibc" and platform.machine() in {"x86_64", "aarch64"}
    macos = sys.platform == "darwin" and platform.machine() == "arm64"
    sandbox = "sandbox[postgres]" if linux or macos else "sandbox"
    monitoring = "monitoring[metrics,web]" if name == "dev" else "monitoring[metrics]"
    return ["tap-datasync", "target-config", "ingestion", sandbox, monitoring]


def key(name: str) -> str:
    """Return a hash of everything that an environment is built from, its path included."""
    sources = [*(ROOT / "requirements").iterdir(), *ROOT.glob("*/pyproject.toml"), Path(__file__)]
    contents = [path.read_bytes() for path in sorted(sources)]
    return hashlib.sha256(b"\0".join([f"{ROOT}\n{name}".encode(), *contents])).hexdigest()


def is_complete(name: str) -> bool:
    """Return whether an environment was built from the current sources, and works."""
    stamp, python = link(name) / "complete", link(name) / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != key(name):
        return False
    return output_of(python, "-c", "import meltano; print('works')") == "works\n"


def output_of(*command: str | Path) -> str:
    """Return the output of a command; empty if it cannot be run."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout
    except OSError:
        return ""


def run(title: str, *command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in the log, and on a terminal the last line of it.

    Raises:
        SystemExit: The command failed; the message contains the cause or the end of its output.
    """
    terminal, started = sys.stderr.isatty(), time.monotonic()
    if not terminal:
        print(f"{title} ...", file=sys.stderr, flush=True)
    with LOG.open("a") as log:
        log.write(f"$ {shlex.join(map(str, command))}\n")
        log.flush()
        start = log.tell()
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process:
            try:
                while process.poll() is None:
                    if terminal:
                        last = LOG.read_text().splitlines()[-1].strip()
                        line = f"{title} ({time.monotonic() - started:.0f} s) {last}"
                        line = line[: shutil.get_terminal_size().columns - 1]
                        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
                    time.sleep(0.05)
            except BaseException:
                process.kill()
                raise
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if process.returncode:
        output = LOG.read_bytes()[start:].decode(errors="replace")
        hints = (hint for pattern, hint in HINTS.items() if re.search(pattern, output))
        reason = next(hints, "\n".join(output.splitlines()[-15:]))
        sys.exit(f"{reason}\n{title} failed; the complete output is in {LOG}.")


def find_pip(scratch: Path) -> list[str | Path]:
    """Return the command of pip, which is installed into `scratch` if Python lacks it."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if not importlib.util.find_spec("ensurepip"):
        sys.exit(
            f"{sys.executable} has neither pip nor ensurepip: install them (on Debian and Ubuntu: "
            "apt install python3-venv), or set PYTHON to another Python."
        )
    run("Installing pip", sys.executable, "-m", "venv", scratch / "pip")
    return [scratch / "pip" / "bin" / "python", "-m", "pip"]


def find_uv(pip: list[str | Path], scratch: Path) -> Path:
    """Return the locked uv: that of `.venv`, or else installed with pip into `scratch`.

    It is always in the lock, because Meltano depends on it.
    """
    [locked] = re.findall(r"^uv==.*\n(?:    .*\n)+", LOCK.read_text(), re.MULTILINE)
    uv = link("run") / "bin" / "uv"
    if output_of(uv, "--version").split()[1:2] == [locked.split()[0].removeprefix("uv==")]:
        return uv
    scratch.mkdir(exist_ok=True)
    (scratch / "uv.txt").write_text(locked)
    options = ("--no-input", "--disable-pip-version-check", "--retries=1", "--only-binary=:all:")
    hashed = ("--require-hashes", f"--requirement={scratch / 'uv.txt'}")
    # A directory of its own: pip leaves out a `bin` that exists.
    run("Installing uv", *pip, "install", *options, *hashed, f"--target={scratch / 'uv'}")
    return scratch / "uv" / "bin" / "uv"


def uv_environment(pip: list[str | Path], uv: Path) -> dict[str, str]:
    """Return the environment of uv: compile all modules, and use the package index as pip does."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_COMPILE_BYTECODE": "1"}
    env["UV_PREVIEW_FEATURES"] = "build-dependency-hashes"
    # pip lists the environment after the files, and the last value applies.
    configured = dict(re.findall(r"\.([a-z-]+)='(.*)'\n", output_of(*pip, "config", "list")))
    for name in PIP_SETTINGS.keys() & configured.keys():
        env.setdefault(PIP_SETTINGS[name], configured[name])
    certificates = ssl.get_default_verify_paths()
    if sys.platform == "darwin" or certificates.cafile or certificates.capath:
        env.setdefault("UV_SYSTEM_CERTS", "1")
    cache = Path(output_of(uv, "cache", "dir").strip())
    while not cache.exists():
        cache = cache.parent
    if not os.access(cache, os.W_OK):
        env["UV_CACHE_DIR"] = str(HOME / "cache")
    return env


def install(name: str) -> None:
    """Create an environment, and set the link to it."""
    home = HOME / f"{name}-{time.time_ns():x}"
    scratch = home.with_suffix(".uv")
    pip = find_pip(scratch)
    uv = find_uv(pip, scratch)
    env = uv_environment(pip, uv)
    options = ("--quiet", f"--prompt={ROOT.name}", f"--python={sys.executable}")
    run("Creating an environment", uv, "venv", *options, home, env=env)
    locked = (f"--constraints={LOCK}", f"--build-constraints={LOCK}", "--require-build-hashes")
    tools = f"--requirement={LOCK.with_name(name)}.in"
    wanted = [f"--editable=./{package}" for package in packages(name)]
    command: list[str | Path] = [uv, "pip", "install", f"--python={home}", *locked, tools, *wanted]
    run(f"Installing {link(name).name}", *command, env=env)
    (home / "complete").write_text(key(name))
    if link(name).is_dir() and not link(name).is_symlink():
        link(name).rename(home.with_suffix(".before"))
    home.with_suffix(".link").symlink_to(home.relative_to(ROOT))
    home.with_suffix(".link").replace(link(name))


def remove_unused() -> None:
    """Remove incomplete environments, and those that no link or process uses."""
    program = "import psutil; print(*(p.info['cmdline'] for p in psutil.process_iter(['cmdline'])))"
    running = output_of(link("run") / "bin" / "python", "-c", program)
    current = {path.resolve() for path in ROOT.glob(".venv*")}
    for path in HOME.iterdir():
        if path.is_dir() and path not in current and f"{path}/" not in running:
            shutil.rmtree(path, ignore_errors=True)


def install_missing(names: list[str]) -> None:
    """Install the environments that are not complete, one installation at a time."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another installation.", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.write_text("")
        try:
            for name in names:
                if not is_complete(name):
                    install(name)
        finally:
            remove_unused()


def main() -> None:
    """Install what is missing, then replace this process by the command."""
    parser = argparse.ArgumentParser(description="Install what the project needs.")
    parser.add_argument("--dev", action="store_true", help="also .venv-dev, for tests and checks")
    parser.add_argument("--bench", action="store_true", help="also .venv-bench, for the bench")
    parser.add_argument("command", nargs="*", help="what to run afterwards")
    args = parser.parse_args()
    names = ["run", *(name for name in ("dev", "bench") if getattr(args, name))]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not all(map(is_complete, names)):
            install_missing(names)
    except OSError as error:
        sys.exit(f"The installation failed: {error}.")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if args.command:
        os.chdir(ROOT)
        os.execv(args.command[0], args.command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
