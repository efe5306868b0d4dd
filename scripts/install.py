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
# What an installation and a load write in the checkout.
WRITTEN = (".venvs", ".run", ".meltano", ".sandbox")
# pip's settings that say how the package index is reached, and uv's variables for them.
PIP_SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
# What the output of a failed command shows, and what helps.
HINTS = {
    r"(?i)certificate": "The certificate of the package index is not trusted on this machine: "
    "name the certificates with SSL_CERT_FILE and PIP_CERT, or `pip config set global.cert FILE`.",
    r"(?i)connection|failed to connect|dns error|name resolution|unreachable|error sending request":
    "The package index cannot be reached: check the network and HTTPS_PROXY, or name a mirror "
    "with `pip config set global.index-url URL`.",
    r"(?i)no space left": "The disk is full.",
}  # fmt: skip


class InstallError(Exception):
    """The installation failed; the message says why and what to do."""


def link(name: str) -> Path:
    """The path under which an environment is used."""
    return ROOT / (".venv" if name == "run" else f".venv-{name}")


def packages(name: str) -> list[str]:
    """The project's packages in an environment, with their extras."""
    # Elsewhere (Alpine, Intel macOS) there is no wheel of the embedded PostgreSQL.
    linux = platform.libc_ver()[0] == "glibc" and platform.machine() in {"x86_64", "aarch64"}
    macos = sys.platform == "darwin" and platform.machine() == "arm64"
    sandbox = "sandbox[postgres]" if linux or macos else "sandbox"
    monitoring = "monitoring[metrics,web]" if name == "dev" else "monitoring[metrics]"
    return ["tap-datasync", "target-config", "ingestion", sandbox, monitoring]


def key(name: str) -> str:
    """A hash of everything that an environment is made from, its place included."""
    sources = [*(ROOT / "requirements").iterdir(), *ROOT.glob("*/pyproject.toml"), Path(__file__)]
    contents = [path.read_bytes() for path in sorted(sources)]
    return hashlib.sha256(b"\0".join([f"{ROOT}\n{name}".encode(), *contents])).hexdigest()


def is_complete(name: str) -> bool:
    """Whether an environment was completed from the present sources, and works."""
    probe = [link(name) / "bin" / "python", "-c", "import meltano"]
    try:
        if (link(name) / "complete").read_text() != key(name):
            return False
        return subprocess.run(probe, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def run(title: str, *command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in the log; a terminal shows the latest line of it.

    Raises:
        InstallError: The command failed.
    """
    terminal, started = sys.stderr.isatty(), time.monotonic()
    with LOG.open("a+") as log:
        log.write(f"$ {shlex.join(map(str, command))}\n")
        log.flush()
        start = log.tell()
        if not terminal:
            print(f"{title} ...", file=sys.stderr)
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process:
            try:
                while process.poll() is None:
                    log.seek(start)
                    latest = "".join(log.read().splitlines()[-1:]).strip()
                    line = f"{title} ({time.monotonic() - started:.0f} s) {latest}"
                    if terminal:
                        line = line[: shutil.get_terminal_size().columns - 1]
                        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
                    time.sleep(0.05)
            except BaseException:
                process.kill()
                raise
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        log.seek(start)
        output = log.read()
    if process.returncode:
        last = "\n".join(output.splitlines()[-15:])
        reason = next((hint for pattern, hint in HINTS.items() if re.search(pattern, output)), last)
        message = f"{reason}\n{title} failed; the complete output is in {LOG}."
        raise InstallError(message)


def find_uv(scratch: Path) -> tuple[Path, dict[str, str]]:
    """Return the locked uv, and the variables with which it installs as pip would.

    Raises:
        InstallError: There is no uv, and it cannot be installed.
    """
    pip: list[str | Path] = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:
        if importlib.util.find_spec("ensurepip") is None:
            message = (
                f"{sys.executable} has neither pip nor ensurepip: install them "
                "(on Debian and Ubuntu: apt install python3-venv), or set PYTHON to another Python."
            )
            raise InstallError(message)
        run("Creating an environment for pip", sys.executable, "-m", "venv", scratch / "pip")
        pip = [scratch / "pip" / "bin" / "python", "-m", "pip"]
    uv = link("run") / "bin" / "uv"
    locked = re.search(r"^uv==(\S+).*\n(?:    .*\n)+", LOCK.read_text(), re.MULTILINE)
    assert locked is not None, "uv is locked, because Meltano depends on it"  # noqa: S101
    if f"uv {locked[1]}" not in output_of(uv, "--version"):
        scratch.mkdir(exist_ok=True)
        (scratch / "uv.txt").write_text(locked[0])
        options = ("--no-input", "--disable-pip-version-check", "--retries=1", "--no-deps")
        hashed = ("--only-binary=:all:", "--require-hashes", f"--requirement={scratch / 'uv.txt'}")
        run("Installing uv", *pip, "install", *options, *hashed, f"--target={scratch}")
        uv = scratch / "bin" / "uv"

    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_COMPILE_BYTECODE": "1"}
    env["UV_PREVIEW_FEATURES"] = "build-dependency-hashes"
    configured = re.findall(r"^[^.\n]*\.([a-z-]+)='(.*)'$", output_of(*pip, "config", "list"), re.M)
    for name, value in dict(configured).items():  # the environment is listed last, and it wins
        if name in PIP_SETTINGS:
            env.setdefault(PIP_SETTINGS[name], value)
    certificates = ssl.get_default_verify_paths()
    if sys.platform == "darwin" or certificates.cafile or certificates.capath:
        env.setdefault("UV_SYSTEM_CERTS", "1")
    cache = Path(output_of(uv, "cache", "dir").strip())
    while not cache.exists():
        cache = cache.parent
    if not os.access(cache, os.W_OK):
        env["UV_CACHE_DIR"] = str(HOME / "cache")
    return uv, env


def output_of(*command: str | Path) -> str:
    """The output of a command; empty if it cannot be run."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout
    except OSError:
        return ""


def install(name: str) -> None:
    """Create an environment and make it the one in use.

    Raises:
        InstallError: A step failed; the previous environment stays in use.
    """
    home = HOME / f"{name}-{time.time_ns():x}"
    uv, env = find_uv(home.with_suffix(".uv"))
    venv = ("venv", "--quiet", "--no-project", f"--prompt={ROOT.name}", f"--python={sys.executable}")
    run("Creating an environment", uv, *venv, home, env=env)
    locked = (f"--constraints={LOCK}", f"--build-constraints={LOCK}", "--require-build-hashes")
    wanted = [word for package in packages(name) for word in ("--editable", f"./{package}")]
    run(
        f"Installing {link(name).name}",
        *(uv, "pip", "install", f"--python={home}", *locked),
        *("--requirement", LOCK.with_name(f"{name}.in"), *wanted),
        env=env,
    )
    (home / "complete").write_text(key(name))
    if link(name).is_dir() and not link(name).is_symlink():
        link(name).rename(home.with_suffix(".before"))
    new = home.with_suffix(".link")
    new.symlink_to(home.relative_to(ROOT))
    new.replace(link(name))


def remove_unused() -> None:
    """Remove the environments that no link points to and no process runs in."""
    program = "import psutil; print(*(p.info['cmdline'] for p in psutil.process_iter(['cmdline'])))"
    running = output_of(link("run") / "bin" / "python", "-c", program)
    current = {path.resolve() for path in ROOT.glob(".venv*")}
    for path in HOME.iterdir():
        if path.is_dir() and path not in current and f"{path}/" not in running:
            shutil.rmtree(path, ignore_errors=True)


def check_writable() -> None:
    """Refuse to start in a checkout that another user has run in.

    Raises:
        InstallError: Something that a run writes cannot be written.
    """
    for top in (ROOT / name for name in WRITTEN):
        for path in (top, *(top.iterdir() if os.access(top, os.R_OK) else ())):
            if path.exists() and not os.access(path, os.W_OK):
                message = (
                    f"{path} cannot be written: another user, or sudo, has run here. Make the "
                    f"checkout yours: sudo chown -R \"$(id -un)\" {shlex.quote(str(ROOT))}"
                )
                raise InstallError(message)


def main() -> int:
    """Install what is missing and run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install what the project needs.")
    parser.add_argument("--dev", action="store_true", help="also .venv-dev, for tests and checks")
    parser.add_argument("--bench", action="store_true", help="also .venv-bench, for the bench")
    parser.add_argument("command", nargs="*", help="what to run afterwards, in place of this")
    args = parser.parse_args()
    names = ["run", *(name for name in ("dev", "bench") if getattr(args, name))]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_writable()
        if not all(map(is_complete, names)):
            HOME.mkdir(exist_ok=True)
            with (HOME / "lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print("Waiting for another installation.", file=sys.stderr, flush=True)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                LOG.write_text("")
                for name in names:
                    if not is_complete(name):
                        install(name)
                remove_unused()
    except (InstallError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.command:
        os.chdir(ROOT)
        os.execv(args.command[0], args.command)  # noqa: S606 - no shell is wanted
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
