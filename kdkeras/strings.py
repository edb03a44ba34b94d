"""What every runtime makes of text that is not quite text."""

from __future__ import annotations

import re

__all__ = ["to_bytes", "well_formed"]

# Surrogates that stand for no byte; `surrogateescape` uses U+DC80 to U+DCFF.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def to_bytes(text: str) -> bytes:
    """Returns the bytes that a text was read from, which may be no UTF-8.

    Those that are none Python keeps as surrogates, in arguments, file names
    and with `errors="surrogateescape"`; other lone surrogates are U+FFFD.
    """
    return _LONE_SURROGATE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def well_formed(text: str) -> str:
    """Returns a text as every runtime can read it.

    It ends at its first NUL, because runtimes on phones take C strings.
    What is no UTF-8 in `to_bytes(text)` becomes U+FFFD, as
    `errors="replace"` makes it.
    """
    text = text.partition("\0")[0]
    return text if text.isascii() else to_bytes(text).decode("utf-8", "replace")
