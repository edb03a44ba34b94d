"""Conversion of text that is not valid Unicode, the same in every runtime."""

from __future__ import annotations

import re

__all__ = ["to_bytes", "well_formed"]

# Surrogates other than U+DC80 to U+DCFF, which `surrogateescape` uses for bytes.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def to_bytes(text: str) -> bytes:
    """Returns the bytes from which a text was read, which may be invalid UTF-8.

    In arguments, file names, and with `errors="surrogateescape"`, Python
    represents invalid bytes as surrogates; these become the bytes again. Other
    lone surrogates become U+FFFD.
    """
    return _LONE_SURROGATE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def well_formed(text: str) -> str:
    """Returns the text that every runtime reads, as valid Unicode.

    The text ends at its first NUL, because runtimes on phones take C strings.
    Invalid UTF-8 in `to_bytes(text)` becomes U+FFFD, as with
    `errors="replace"`.
    """
    text = text.partition("\0")[0]
    return text if text.isascii() else to_bytes(text).decode("utf-8", "replace")
