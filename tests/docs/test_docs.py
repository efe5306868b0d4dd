"""The documentation agrees with the code: links, commands, settings, generated pages, messages."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_ingestion import config
from datasync_ingestion.meltano import STATE_ID
from tap_datasync.config import SETTINGS
from tap_datasync.errors import ResponseAction, interpret_response

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MELTANO = yaml.safe_load((ROOT / "meltano.yml").read_text())
ACCOUNTS = yaml.safe_load((ROOT / "examples/two-accounts/accounts.meltano.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = {
    name: service
    for path in ("docker-compose.yml", "docker/postgres.yml")
    for name, service in yaml.safe_load((ROOT / path).read_text())["services"].items()
}
PLUGINS: dict[str, dict[str, Any]] = {
    plugin["name"]: plugin for kind in MELTANO["plugins"].values() for plugin in kind
}
PACKAGES = {path.name for path in ROOT.glob("*/src/*")}
OTHER_PROGRAMS = {"apt-get", "createdb", "cp", "echo", "export", "pg_dump", "pip", "psql", "set"}
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [ROOT / name for name in listed or ["README.md"] if (ROOT / name).exists()]


def commands(path: Path) -> list[str]:
    """Return the commands of the `sh` blocks, one per line, without comments."""
    blocks = [text for language, text in _FENCE.findall(path.read_text()) if language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.sub(r"(^|\s)#.*", "", line).split() for line in lines)
    return [" ".join(words) for words in found if words]


SHOWN = [
    pytest.param(path, command, id=f"{path.relative_to(ROOT).as_posix()}: {command}")
    for path in pages()
    for command in commands(path)
]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path):
    for link in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", _FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            assert link.startswith(("https://", "mailto:", "http://127.0.0.1")), link
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert ROOT in target.parents, link
        assert not anchor or anchor in anchors(target), link


@cache
def scripts() -> set[str]:
    found = entry_points(group="console_scripts")
    return {script.name for script in found if script.module.partition(".")[0] in PACKAGES}


@cache
def help_of(*words: str) -> str:
    command = [BIN / words[0], *words[1:], "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_options(arguments: list[str], text: str) -> None:
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert not [option for option in options if option not in text]


def words_of(command: str) -> list[str]:
    """Return a program and its arguments, without variables, pipes and redirections."""
    words = list(takewhile(lambda word: word[:1] not in {"|", ">"}, shlex.split(command)))
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    return words


def check_script(path: Path, name: str, arguments: list[str]) -> None:
    script = ROOT / name if (ROOT / name).exists() else path.parent / name
    text = script.read_text()
    if name == "run-tests.sh":
        assert all((ROOT / each).exists() for each in arguments if each.startswith("tests/"))
        return
    if name == "run-ingestion.sh":
        text = help_of("datasync-sandbox", "up")
        text += (ROOT / "ingestion/src/datasync_ingestion/help.txt").read_text()
    elif name == "bench/run.sh":
        text = (ROOT / "bench/datasync_bench/cli.py").read_text() + "--help"
    check_options(arguments, text)


def check_meltano(verb: str, arguments: list[str]) -> None:
    named = [word for word in arguments if not word.startswith("-")]
    if verb == "run":
        jobs = [job["name"] for project in (MELTANO, ACCOUNTS) for job in project["jobs"]]
        assert set(named) <= {*PLUGINS, *jobs}
    elif verb == "invoke":
        plugin, _, command = named[0].partition(":")
        assert not command or command in PLUGINS[plugin]["commands"]
    elif verb == "schedule":
        assert set(named[1:]) <= {schedule["name"] for schedule in MELTANO["schedules"]}
    elif verb == "state":
        assert all(word == STATE_ID for word in named[1:] if ":" in word)
    else:
        assert verb in {"add", "config"}


def check_docker(arguments: list[str]) -> None:
    if arguments[0] != "compose":
        assert arguments[0] == "build"
        return
    words = [word.partition(":")[0] for word in arguments[1:] if not word.startswith("-")]
    profiles = {name for each in SERVICES.values() for name in each.get("profiles", ())}
    if "--profile" in arguments:
        assert words.pop(0) in {*profiles, "*"}
    verb = words.pop(0)
    assert verb in {"build", "cp", "down", "exec", "logs", "ps", "run", "stop", "up"}
    if words and verb != "ps":
        assert words[0] in SERVICES


@pytest.mark.parametrize(("path", "command"), SHOWN)
def test_documented_command_exists(path, command):
    words = words_of(command)
    if not words or (words[0] == "git" and path.name == "README.md"):
        return
    place, program, arguments = Path(words[0]).parent, Path(words[0]).name, words[1:]
    assert place.as_posix() in {".", ".venv/bin", ".venv-dev/bin"}
    if program in scripts():
        text = help_of(program, *takewhile(lambda word: not word.startswith("-"), arguments))
        check_options(arguments, text)
    elif program == "sh":
        check_script(path, arguments[0], arguments[1:])
    elif program == "meltano":
        check_meltano(arguments[0], arguments[1:])
    elif program == "docker":
        check_docker(arguments)
    elif program in {"python", "python3"}:
        module = arguments[arguments.index("-m") + 1] if "-m" in arguments else None
        source = f"{module.replace('.', '/')}/__main__.py" if module else arguments[0]
        text = (ROOT / source).read_text()
        check_options(arguments, text)
    else:
        assert program in OTHER_PROGRAMS, f"no check for {program}"


def test_env_example_has_every_name_and_its_placeholders():
    text = (ROOT / ".env.example").read_text()
    example = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert set(config.NAMES) <= set(example)
    assert example["API_KEY"] == config.PLACEHOLDER_KEY
    assert example["API_BASE_URL"] == config.PLACEHOLDER_URL
    assert example["BATCH_SIZE"] == str(config.LARGEST_PAGE)


def test_meltano_maps_every_name_of_env_example():
    mapped = {}
    prefixes = (("tap-datasync", "TAP_DATASYNC_"), ("target-postgres", "TARGET_POSTGRES_"))
    for plugin, prefix in prefixes:
        for setting in PLUGINS[plugin]["settings"]:
            for alias in setting.get("env_aliases", []):
                mapped[prefix + setting["name"].upper()] = alias
    assert mapped == config.MELTANO_NAMES


def test_readme_maps_every_name_of_env_example():
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    mapped = {}
    for names, settings in re.findall(r"^\| (`.*?) \| (`.*?) \|", section, re.MULTILINE):
        found = (re.findall(r"`(\w+)`", cell) for cell in (settings, names))
        mapped |= dict(zip(*found, strict=True))
    meltano = {name.split("_", 2)[2].lower(): ours for name, ours in config.MELTANO_NAMES.items()}
    assert mapped == meltano


def test_meltano_declares_the_settings_of_the_tap_with_their_defaults():
    about = subprocess.run(
        [BIN / "tap-datasync", "--about", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    known = json.loads(about)["settings"]["properties"]
    declared = {setting["name"]: setting for setting in PLUGINS["tap-datasync"]["settings"]}
    assert set(SETTINGS.to_dict()["properties"]) <= declared.keys() <= known.keys()
    for name, setting in declared.items():
        if "value" in setting and "default" in known[name]:
            assert setting["value"] == known[name]["default"]


def test_generated_pages_are_up_to_date_in_any_environment():
    url = "postgresql+psycopg://user:none@127.0.0.1:9/other"
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        env={**os.environ, "TARGET_POSTGRES_SQLALCHEMY_URL": url},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def text_of(node: ast.AST) -> str | None:
    """Return a string of the source with `…` for its variables."""
    if isinstance(node, ast.JoinedStr):
        return "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sd]|\{[^}]*\}", "…", node.value)
    return None


def code_strings() -> str:
    """Return all strings of the packages, and the shell scripts, with `…` for variables."""
    sources = [*ROOT.glob("*/src/*/**/*.py"), *ROOT.glob("scripts/*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("docker/*.sh")]
    texts = [re.sub(r"\$\{?\w+\}?", "…", path.read_text()) for path in scripts]
    strings = [text_of(node) for node in nodes if node not in docstrings]
    return "\n".join([*filter(None, strings), *texts])


def documented_messages() -> list[str]:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("\n## Error messages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_documented_error_messages_are_in_the_code():
    text = code_strings()
    messages = documented_messages()
    assert len(messages) > 20
    missing = [
        fragment
        for message in messages
        for fragment in message.split("…")
        if len(fragment) > 8 and fragment not in text
    ]
    assert not missing


def test_every_response_that_ends_a_load_is_explained():
    resolutions = {
        status: interpret_response(status, code=None, with_cursor=False)
        for status in range(100, 600)
    }
    messages = {
        resolution.message.replace(f"HTTP {status}", "…")
        for status, resolution in resolutions.items()
        if resolution and resolution.action is ResponseAction.FAIL
    }
    assert messages
    assert messages - set(documented_messages()) == set()
