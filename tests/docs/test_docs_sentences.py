"""docs/operations.md has every sentence with which a run can fail, and none that is gone.

A run is `run-ingestion.sh` with all that it starts: its scripts, the installation, the sandbox,
the supervisor, the tap and the loader.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from docs_helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (ROOT / "docs" / "operations.md").read_text()
SOURCES = ("tap-datasync/src", "target-config/src", "ingestion/src", "sandbox/src", "scripts")
SCRIPTS = ("run-ingestion.sh", "scripts/python.sh", "docker/run.sh")
# A message that a user reads begins with a capital, or with what differs, and ends with a stop.
_SENTENCE = re.compile(r"[A-Z…`].*[.…]", re.DOTALL)
# It is assigned to one of these names, or given to one of these or to an exception.
_NAMES = {"msg", "message", "DAMAGED", "sentence"}
_SPEAKERS = re.compile(r"Verdict|_end|logger\.error|\w*Error")
_SHORTEST = 12


def text_of(node: ast.AST | None) -> str | None:
    """Return a string of the source, `…` for what is put in; None when it is none."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%s|\{\}", "…", node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [text_of(part) if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(part or "" for part in parts)
    return None


def nodes() -> Iterator[ast.AST]:
    """Yield all there is in the Python sources."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text()))


def shell_sentences() -> Iterator[str]:
    """Yield what the shell scripts complain of."""
    for name in SCRIPTS:
        for text in re.findall(r'echo "(.+)" >&2', (ROOT / name).read_text()):
            yield re.sub(r"\$\{?\w+\}?", "…", text)


def strings() -> Iterator[str]:
    """Yield every string, whatever it is for."""
    yield from filter(None, map(text_of, nodes()))
    yield from shell_sentences()


def spoken(node: ast.AST) -> list[ast.expr]:
    """Return the parts of a node that hold what a user is told when a run fails."""
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        return [node.value] if isinstance(target, ast.Name) and target.id in _NAMES else []
    if isinstance(node, ast.Call):
        return node.args if _SPEAKERS.fullmatch(ast.unparse(node.func)) else []
    if isinstance(node, ast.FunctionDef) and "problems" in node.name:
        # They yield a sentence for each.
        return [each.value for each in ast.walk(node) if isinstance(each, ast.Yield) and each.value]
    return []


def sentences() -> Iterator[str]:
    """Yield the sentences with which a run can fail."""
    for node in nodes():
        for part in spoken(node):
            branches = (part.body, part.orelse) if isinstance(part, ast.IfExp) else (part,)
            yield from filter(None, map(text_of, branches))
    yield from shell_sentences()


def fragments(sentence: str) -> list[str]:
    """Split at what differs and at the ends of lines; short pieces say nothing."""
    return [piece for piece in re.split(r"…|\n", sentence) if len(piece) >= _SHORTEST]


def documented() -> list[str]:
    """Return the sentences in the first column of the page's tables."""
    section = PAGE[PAGE.index("## What each sentence means") : PAGE.index("## Exit codes")]
    found = []
    for row in re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE):
        found += [double or single for double, single in re.findall(r"`` (.+?) ``|`([^`]+)`", row)]
    return found


def test_every_documented_sentence_is_in_the_code() -> None:
    pieces = list(strings())
    assert len(documented()) > 60
    for sentence in documented():
        for fragment in fragments(sentence):
            assert any(fragment in piece for piece in pieces), f"nobody says: {fragment}"


def test_every_sentence_of_the_code_is_documented() -> None:
    page = "\n".join(documented())
    missing = [
        text
        for text in sentences()
        if _SENTENCE.fullmatch(text) and not all(fragment in page for fragment in fragments(text))
    ]
    assert not missing, f"docs/operations.md does not explain: {missing}"
