"""Reads Singer messages from stdin: bytes, with msgspec, numbers exact."""

from __future__ import annotations

import decimal
import sys
from typing import IO, TYPE_CHECKING, Any

import msgspec
from singer_sdk.io_base import GenericSingerReader

from target_config.failures import InputError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class ExactReader(GenericSingerReader[bytes]):
    """Like the SDK's msgspec reader, but on bytes and with an eye on the end of the input.

    A last line without a newline is taken when it is a whole message. When it is not, it is of a
    tap that was killed while it was writing: it is dropped and the load ends with exit code 1.
    Everything up to the last STATE is committed and was reported by then, rows after it were not:
    the next run sends them again. It is not exit code 0 because in a plain `tap | target` nobody
    else would tell.
    """

    _decoder = msgspec.json.Decoder(float_hook=decimal.Decimal)
    _lines = 0

    @property
    @override
    def default_input(self) -> IO[bytes]:
        return sys.stdin.buffer

    @override
    def process_lines(
        self,
        file_input: IO[bytes] | None,
        callbacks: dict[str, Callable[[dict[str, Any]], None]],
    ) -> Counter[str]:
        # `--input FILE` opens the file as text.
        binary: IO[bytes] | None = getattr(file_input, "buffer", file_input)
        return super().process_lines(binary, callbacks)

    @override
    def deserialize_json(self, line: bytes) -> dict[str, Any]:
        """Decode one line.

        Raises:
            InputError: If it is no JSON object, or was cut off.
        """
        self._lines += 1
        try:
            message = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            if not line.endswith(b"\n"):
                sentence = (
                    f"The input ends in the middle of a message (line {self._lines}): the tap was "
                    "cut off. Everything up to the last STATE is loaded, and the next run goes on "
                    "from there."
                )
            else:
                sentence = f"Line {self._lines} of the input is not JSON ({error})."
            raise InputError(sentence) from error
        if not isinstance(message, dict):
            sentence = f"Line {self._lines} of the input is JSON, but not an object."
            raise InputError(sentence)
        return message
