"""Every link of the documentation leads somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from docs_helpers import ROOT, anchors, markdown, without_blocks

if TYPE_CHECKING:
    from pathlib import Path

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"<img[^>]*src=\"([^\"]+)\"")


def test_there_is_documentation() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in markdown()}
    assert names >= {
        "README.md",
        "CONTRIBUTING.md",
        "docs/how-it-works.md",
        "docs/operations.md",
        "docs/settings.md",
        "docs/tables.md",
        "docs/security.md",
        "docs/comparison.md",
    }


@pytest.mark.parametrize("path", markdown(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_file_resolve(path: Path) -> None:
    text = without_blocks(path.read_text())
    for link in [*_LINK.findall(text), *_IMAGE.findall(text)]:
        if re.match(r"[a-z]+:", link):
            assert link.startswith(("https://", "mailto:")), f"{link} is not https"
            continue
        name, _, anchor = link.partition("#")
        target = path if not name else (path.parent / name).resolve()
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.parents, f"{link} leads out of the project"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"
