"""Turns JSON lines into the text format of COPY, a column at a time.

Source of the format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import msgspec
from sqlalchemy.dialects.postgresql import JSONB

from target_config.failures import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.types import TypeEngine

CHUNK_BYTES = 256 * 1024
"""Read at a time: PostgreSQL takes one in while the next is decoded, and memory stays flat."""

_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class CopyText:
    """Writes rows of given columns.

    Lines are decoded into a struct of just the columns: strings become str, and everything else
    stays the JSON text it was, byte for byte, which is what JSONB, numbers and booleans are read
    from. So numbers keep every digit. A missing key and null are NULL; unknown keys are left out.
    """

    def __init__(
        self, properties: Mapping[str, Mapping[str, Any]], sql_types: Mapping[str, TypeEngine[Any]]
    ) -> None:
        """Prepare a decoder.

        Args:
            properties: Columns in order, with their JSON schema.
            sql_types: What PostgreSQL reads each column as.
        """
        fields: list[tuple[str, Any, Any]] = []
        self._writers: list[Callable[[Sequence[Any], bool], Sequence[str]]] = []
        for number, (name, schema) in enumerate(properties.items()):
            if _is_string(schema) and not isinstance(sql_types[name], JSONB):
                fields.append((f"f{number}", str | None, None))
                self._writers.append(_strings)
            else:
                fields.append((f"f{number}", msgspec.Raw, msgspec.Raw(b"null")))
                self._writers.append(_json if isinstance(sql_types[name], JSONB) else _scalars)
        # Property names need not be Python names: the fields get numbers.
        names = {f"f{number}": name for number, name in enumerate(properties)}
        struct = msgspec.defstruct("Row", fields, rename=names, gc=False)
        self._decoder = msgspec.json.Decoder(struct)

    def chunks(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Read JSON lines to the end.

        Yields:
            The number of rows and their COPY text, chunk by chunk.

        Raises:
            InputError: If a line is not what the schema says.
        """
        rest = b""
        while block := file.read(CHUNK_BYTES):
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                rest += block
                continue
            yield self._rows(rest + head)
            rest = tail
        if rest.strip():
            yield self._rows(rest)

    def _rows(self, lines: bytes) -> tuple[int, bytes]:
        try:
            return self._text(self._decoder.decode_lines(lines), lines)
        # The writers decode as well: what stays JSON text was only passed over by the decoder.
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"A batch file does not fit its schema: {error}."
            raise InputError(message) from error

    def _text(self, rows: Sequence[msgspec.Struct], lines: bytes) -> tuple[int, bytes]:
        if not rows:
            return 0, b""
        # A character that COPY must see escaped is escaped in a JSON string too; between the tokens
        # of JSON only a tab or a carriage return can stand. Few chunks have any of the three.
        escape = b"\\" in lines or b"\t" in lines or b"\r" in lines
        cells = zip(*map(msgspec.structs.astuple, rows), strict=True)
        columns = [
            write(values, escape) for write, values in zip(self._writers, cells, strict=True)
        ]
        text = "\n".join(map("\t".join, zip(*columns, strict=True)))
        return len(rows), f"{text}\n".encode()


def _is_string(schema: Mapping[str, Any]) -> bool:
    types = schema.get("type", ())
    return {types} == {"string"} if isinstance(types, str) else set(types) - {"null"} == {"string"}


def _strings(values: Sequence[str | None], escape: bool) -> Sequence[str]:  # noqa: FBT001
    if escape:
        return [_NULL if value is None else value.translate(_ESCAPES) for value in values]
    return [_NULL if value is None else value for value in values]


def _json(values: Sequence[msgspec.Raw], escape: bool) -> Sequence[str]:  # noqa: FBT001
    texts = [str(value, "utf-8") for value in values]
    if escape:
        texts = [text.translate(_ESCAPES) for text in texts]
    return [_NULL if text == "null" else text for text in texts]


def _scalars(values: Sequence[msgspec.Raw], escape: bool) -> Sequence[str]:  # noqa: FBT001
    return _strings([_scalar(bytes(value)) for value in values], escape)


def _scalar(json: bytes) -> str | None:
    if json == b"null":
        return None
    # A property of several types may hold a string after all.
    return msgspec.json.decode(json, type=str) if json[:1] == b'"' else json.decode()
