"""Runs of events, drawn and rendered at once.

Any event of a feed of millions must be at hand without holding them all, and a page
of 5000 must not take longer than the client needs to read it. So events are made in
blocks: one hash stream a block, cut up by C code, and two renderings of each event,
because the form of its timestamp depends on its place in the page.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from datasync_sandbox import dirty
from datasync_sandbox.stamps import MINUTE, iso, minute_text, second_texts
from datasync_sandbox.visitors import EVENTS_A_SESSION, OPEN_SESSIONS

if TYPE_CHECKING:
    from datasync_sandbox.dirt import Dirt
    from datasync_sandbox.visitors import Visit, Visitors

Key = tuple[int, str]
"""Where an event stands in the feed: milliseconds since 1970, and its id. Both descend."""

BLOCK = 1024
"""Events a block. No usual page size is a multiple of it, so page ends fall inside blocks."""

TIE_EVERY = 500
"""Every so many events, three neighbours share a millisecond: ties across the usual page ends."""

TYPE_SHARES = {
    "page_view": 7,
    "click": 5,
    "api_call": 2,
    "form_submit": 2,
    "scroll": 1,
    "purchase": 1,
    "error": 1,
    "video_play": 1,
}
"""Types and their shares, in twentieths."""

UNSORTED_BY = 7_200_000
"""Milliseconds by which a timestamp out of order is off at most, either way."""

_TYPES = [name for name, share in TYPE_SHARES.items() for _ in range(share)]
_BASE36 = bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in range(256))
_VERSION_4 = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))


@dataclass
class FeedDefects:
    """What makes a feed less than perfect.

    Attributes:
        unsorted: Share of events whose timestamp is not where their place says.
        malformed: Share of events that do not fit.
        kinds: Kinds of dirt to draw from.
    """

    unsorted: float = 0.0
    malformed: float = 0.0
    kinds: tuple[str, ...] = field(default_factory=lambda: tuple(dirty.KINDS))


@dataclass
class Block:
    """A rendered run of events, newest first. All lists have the same length.

    Attributes:
        stamps: Milliseconds since 1970 that order the events, descending.
        ids: UUIDs; descending where stamps are equal.
        shown: Milliseconds that the events show: ``stamps``, unless the feed is unsorted.
        types: Event types.
        names: Event names.
        visits: Sessions.
        iso: JSON texts with the timestamp in ISO 8601.
        ints: JSON texts with the timestamp in milliseconds.
        odd: Events that do not fit, by their index in the block.
    """

    stamps: list[int]
    ids: list[str]
    shown: list[int]
    types: list[str]
    names: list[str]
    visits: list[Visit]
    iso: list[str]
    ints: list[str]
    odd: dict[int, Dirt]


class Renderer:
    """Makes the blocks of one feed."""

    def __init__(self, seed: int, visitors: Visitors, defects: FeedDefects) -> None:
        """Fix what all blocks have in common.

        Args:
            seed: Seed of the feed.
            visitors: Its sessions.
            defects: What is wrong with it.
        """
        self._seed = seed
        self._visitors = visitors
        self._defects = defects
        self._veil = int.from_bytes(self.draw("veil", 0, 3), "big")

    def draw(self, what: str, number: int, size: int) -> bytes:
        """Return ``size`` bytes that follow from the seed, a purpose and a number."""
        return hashlib.shake_128(f"{self._seed}:{what}:{number}".encode()).digest(size)

    def spread(self, number: int, count: int, newest: int, span: int, first: int) -> list[int]:
        """Draw the timestamps of a block.

        Args:
            number: Number of the block.
            count: Events.
            newest: Milliseconds since 1970; no event is newer.
            span: Milliseconds; all events are within.
            first: Index of the block's first event in the feed.

        Returns:
            Milliseconds, descending, with ties.
        """
        drawn = array("I", self.draw("times", number, 4 * count))
        back = sorted([value * span >> 32 for value in drawn])
        if first == 0:
            back[0] = 0  # the newest event of a feed stands at the instant that the user named
        for index in range(-first % TIE_EVERY, count, TIE_EVERY):
            if index > 0:
                back[index] = back[index - 1]
                if index + 1 < count:
                    back[index + 1] = back[index]
        return [newest - value for value in back]

    def render(self, label: int, first: int, stamps: list[int]) -> Block:
        """Render a block.

        Args:
            label: 24-bit number of the block, hidden in the ids; see `label_of`.
            first: Index of its first event, which settles the sessions; may be negative.
            stamps: Milliseconds, descending.

        Returns:
            The block.
        """
        count = len(stamps)
        ids = self._ids(label, count)
        _settle_ties(stamps, ids)
        kinds = array("H", self.draw("types", label, 2 * count))
        picks = array("H", self.draw("visits", label, 2 * count))
        letters = self.draw("names", label, 6 * count).translate(_BASE36).decode()
        visit = self._visitors.visit
        visits = [
            visit((first + index) // EVENTS_A_SESSION + (pick * OPEN_SESSIONS >> 16))
            for index, pick in enumerate(picks)
        ]
        types = [_TYPES[kind * 20 >> 16] for kind in kinds]
        names = [f"event_{letters[at : at + 6]}" for at in range(0, 6 * count, 6)]
        shown = self._shown(label, stamps)
        heads = [
            f'{{"id":"{ident}{who.front}{kind}","name":"{name}",'
            '"properties":{"page":"/home"},"timestamp":'
            for ident, who, kind, name in zip(ids, visits, types, names, strict=True)
        ]
        ints = [
            f"{head}{stamp}{who.back}"
            for head, stamp, who in zip(heads, shown, visits, strict=True)
        ]
        prefixes = {minute: minute_text(minute) for minute in {stamp // MINUTE for stamp in shown}}
        seconds = second_texts()
        iso = [
            f"{head}{prefixes[stamp // MINUTE]}{seconds[stamp % MINUTE]}{who.back}"
            for head, stamp, who in zip(heads, shown, visits, strict=True)
        ]
        block = Block(stamps, ids, shown, types, names, visits, iso, ints, {})
        self._soil(label, block)
        return block

    def label_of(self, ident: str) -> int:
        """Read the number of the block from an event's id.

        The last three bytes of an id are its first three, veiled with the number. An
        event can so be found by its id, without an index of three million.
        """
        return int(ident[:6], 16) ^ int(ident[-6:], 16) ^ self._veil

    def _ids(self, label: int, count: int) -> list[str]:
        """Draw version 4 UUIDs."""
        raw = bytearray(self.draw("ids", label, 16 * count))
        raw[6::16] = raw[6::16].translate(_VERSION_4)
        raw[8::16] = raw[8::16].translate(_VARIANT)
        for at, mask in enumerate((label ^ self._veil).to_bytes(3, "big")):
            raw[13 + at :: 16] = raw[at::16].translate(bytes(byte ^ mask for byte in range(256)))
        text = raw.hex()
        return [
            f"{text[at : at + 8]}-{text[at + 8 : at + 12]}-{text[at + 12 : at + 16]}"
            f"-{text[at + 16 : at + 20]}-{text[at + 20 : at + 32]}"
            for at in range(0, 32 * count, 32)
        ]

    def _shown(self, label: int, stamps: list[int]) -> list[int]:
        """Move the timestamps of some events away from where they belong."""
        share = self._defects.unsorted
        if not share:
            return stamps
        drawn = array("I", self.draw("unsorted", label, 8 * len(stamps)))
        return [
            stamp + (drawn[2 * index + 1] * (2 * UNSORTED_BY + 1) >> 32) - UNSORTED_BY
            if drawn[2 * index] < share * 2**32
            else stamp
            for index, stamp in enumerate(stamps)
        ]

    def _soil(self, label: int, block: Block) -> None:
        """Replace some events by such as do not fit."""
        if not self._defects.malformed:
            return
        drawn = array("I", self.draw("malformed", label, 8 * len(block.ids)))
        for index in range(len(block.ids)):
            if drawn[2 * index] < self._defects.malformed * 2**32:
                kind = self._defects.kinds[drawn[2 * index + 1] * len(self._defects.kinds) >> 32]
                dirt = dirty.soil(kind, event_fields(block, index), block.shown[index])
                block.odd[index] = dirt
                block.iso[index] = block.ints[index] = dirt.raw


def event_fields(block: Block, index: int) -> dict[str, object]:
    """Return a clean event as the API shows it, with the timestamp in ISO 8601."""
    visit = block.visits[index]
    return {
        "id": block.ids[index],
        "sessionId": visit.session_id,
        "userId": visit.user_id,
        "type": block.types[index],
        "name": block.names[index],
        "properties": {"page": "/home"},
        "timestamp": iso(block.shown[index]),
        "session": {"id": visit.session_id, "deviceType": visit.device, "browser": visit.browser},
    }


def _settle_ties(stamps: list[int], ids: list[str]) -> None:
    """Sort the ids of events that share a millisecond, descending."""
    start = 0
    ties = [index for index, (one, two) in enumerate(pairwise(stamps)) if one == two]
    for index in ties:
        if index < start:
            continue
        start, end = index, index + 2
        while end < len(stamps) and stamps[end] == stamps[start]:
            end += 1
        ids[start:end] = sorted(ids[start:end], reverse=True)
        start = end
