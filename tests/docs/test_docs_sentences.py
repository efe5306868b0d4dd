"""docs/operations.md has every sentence with which a run can fail, and none that is gone."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from docs_helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (ROOT / "docs" / "operations.md").read_text()
SOURCES = ("tap-datasync/src", "target-config/src", "ingestion/src")
# A message that a user reads begins with a capital, or with what differs, and ends with a stop.
_NAMES = {"msg", "message", "DAMAGED", "sentence"}
_SHORTEST = 12


def text_of(node: ast.AST | None) -> str | None:
    """Return a string of the source, `…` for what is put in; None when it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [text_of(part) if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(part or "" for part in parts)
    return None


def strings() -> Iterator[tuple[str, str]]:
    """Yield the name to which a string is assigned, or nothing, and the string."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name, value = "", node
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    name, value = node.targets[0].id, node.value
                text = text_of(value)
                if text:
                    yield name, text


def fragments(sentence: str) -> list[str]:
    """Split at what differs; short pieces say nothing."""
    return [piece for piece in re.split(r"…|\{\}", sentence) if len(piece) >= _SHORTEST]


def documented() -> list[str]:
    """Return the sentences in the first column of the page's tables."""
    section = PAGE[PAGE.index("## What each sentence means") : PAGE.index("## Exit codes")]
    found = []
    for row in re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE):
        found += [double or single for double, single in re.findall(r"`` (.+?) ``|`([^`]+)`", row)]
    return found


def test_every_documented_sentence_is_in_the_code() -> None:
    pieces = [text for _, text in strings()]
    assert len(documented()) > 40
    for sentence in documented():
        for fragment in fragments(sentence):
            assert any(fragment in piece for piece in pieces), f"nobody says: {fragment}"


def test_every_sentence_of_the_code_is_documented() -> None:
    page = "\n".join(documented())
    missing = []
    for name, text in strings():
        is_sentence = re.match(r"[A-Z…`]", text) and (text.endswith((".", "…")))
        if name in _NAMES and is_sentence:
            missing += [text for fragment in fragments(text) if fragment not in page]
    assert not missing, f"docs/operations.md does not explain: {missing}"
