"""The bulk lane: its directory, private and only ours, and its messages."""

from __future__ import annotations

import errno
import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tap_datasync.bulk import BulkDirectory, BulkDirectoryError, BulkFileError
from tap_datasync.failures import EXIT_TRY_AGAIN
from tap_helpers import NOON, last_page, record_at

RUN = str(uuid.UUID(int=7))


def test_a_page_is_a_file_of_json_lines(tmp_path):
    """One object a line, named by run and page, and nothing half-written beside it."""
    directory = BulkDirectory((tmp_path / "bulk").as_uri(), RUN)
    address = directory.write(3, [record_at("a", NOON), record_at("b", None)])
    path = Path(unquote(urlsplit(address).path))
    assert address.startswith("file:///")
    assert path.name == f"events-{RUN}-000003.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[0]["timestamp"] == "2026-01-27T12:00:00Z"
    assert rows[0]["properties"] == {}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["bulk", "a/b/c", "with space", "ümlaut"])
def test_the_directory_is_made_and_private(tmp_path, name):
    """Nobody else may read the events."""
    BulkDirectory((tmp_path / name).as_uri(), RUN)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_directory_that_others_can_open_is_refused(tmp_path):
    """Its rights are not changed: it may be somebody's /tmp."""
    tmp_path.chmod(0o755)
    with pytest.raises(BulkDirectoryError, match="open to others"):
        BulkDirectory(tmp_path.as_uri(), RUN)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_plain_path_is_taken_as_it_stands(tmp_path):
    """A percent sign or a hash has a meaning in an address only."""
    BulkDirectory(str(tmp_path / "50%25#1"), RUN)
    assert (tmp_path / "50%25#1").is_dir()


def test_a_disk_that_takes_no_page_ends_in_a_sentence(tmp_path, monkeypatch):
    """It is no fault of the tap, a later run may succeed, and nothing half-written stays."""
    directory = BulkDirectory(str(tmp_path / "bulk"), RUN)

    def full(_: Path, __: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(BulkFileError, match=r"bulk: No space left on device\.$") as error:
        directory.write(1, [record_at("a", NOON)])
    assert error.value.exit_code == EXIT_TRY_AGAIN
    assert list((tmp_path / "bulk").iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    """Whole files and halves of ours; no link, no directory, no other name."""
    root = tmp_path / "bulk"
    BulkDirectory(str(root), RUN).write(1, [])
    (root / f"events-{RUN}-000002.jsonl.part").write_text("{")
    (root / "notes.jsonl").write_text("keep")
    (root / f"events-{RUN}-000003.jsonl").mkdir()
    (root / f"events-{RUN}-000004.jsonl").symlink_to(root / "notes.jsonl")
    BulkDirectory(str(root), str(uuid.UUID(int=8)))
    assert sorted(path.name for path in root.iterdir()) == [
        f"events-{RUN}-000003.jsonl",
        f"events-{RUN}-000004.jsonl",
        "notes.jsonl",
    ]


@pytest.mark.parametrize("root", ["s3://bucket/x", "file://host/path", "http://x/y"])
def test_only_a_local_directory_will_do(root):
    """The loader has to see the files."""
    with pytest.raises(BulkDirectoryError, match=r"must be a local directory.*\.$"):
        BulkDirectory(root, RUN)


def test_a_file_or_a_link_in_its_place_is_refused(tmp_path):
    """A link might lead anywhere."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BulkDirectoryError, match="cannot be made"):
        BulkDirectory(str(tmp_path / "file"), RUN)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BulkDirectoryError, match=r"link, is a link\. Name where it leads\.$"):
        BulkDirectory(str(tmp_path / "link"), RUN)


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    """By its owner."""
    (tmp_path / "bulk").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BulkDirectoryError, match="belongs to somebody else"):
        BulkDirectory(str(tmp_path / "bulk"), RUN)


def bulk(tmp_path: Path, **encoding: str) -> dict[str, Any]:
    wanted = {"format": "jsonl", "compression": "none"} | encoding
    root = (tmp_path / "bulk").as_uri()
    return {"batch_config": {"encoding": wanted, "storage": {"root": root}}}


def test_the_bulk_lane_writes_one_file_a_page(run, tmp_path):
    """The same rows as the other lane, one BATCH message before the page's other records."""
    plain = run()
    output = run(config=bulk(tmp_path))
    batches = output.of("BATCH")
    assert [m["encoding"] for m in batches] == [{"format": "jsonl", "compression": "none"}] * 3
    files = [Path(unquote(urlsplit(m["manifest"][0]).path)) for m in batches]
    rows = [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]
    assert rows == plain.rows()
    swap = {"RECORD events x5": "BATCH events", "RECORD events": "BATCH events"}
    assert output.outline == [swap.get(word, word) for word in plain.outline]
    assert output.bookmarks == plain.bookmarks


def test_a_page_of_nothing_is_no_file(run, tmp_path):
    """There is nothing for the loader to do."""
    output = run({None: last_page()}, config=bulk(tmp_path))
    assert output.of("BATCH") == []
    assert len(output.rows("pages")) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"compression": "gzip"}, "must be jsonl without compression"),
        ({"format": "parquet"}, "must be jsonl without compression"),
    ],
)
def test_the_bulk_lane_refuses_what_it_cannot_write(run, tmp_path, config, words):
    """Before any request."""
    with pytest.raises(BulkDirectoryError, match=words):
        run(config=bulk(tmp_path, **config))


def test_the_bulk_lane_goes_without_maps(run, tmp_path):
    """Its files hold the events as they are."""
    with pytest.raises(BulkDirectoryError, match="neither with stream maps"):
        run(config=bulk(tmp_path) | {"stream_maps": {"events": {"a": "'x'"}}})
