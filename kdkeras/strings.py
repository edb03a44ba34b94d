"""What every runtime makes of text that is not quite text."""

from __future__ import annotations

import re

__all__ = ["well_formed"]

# Surrogates that stand for no byte; `surrogateescape` uses U+DC80 to U+DCFF.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def well_formed(text: str) -> str:
    """Returns a text as every runtime can read it.

    It ends at its first NUL, because runtimes on phones take C strings.
    Bytes that are no UTF-8, which Python keeps as surrogates in arguments,
    file names and with `errors="surrogateescape"`, become U+FFFD as
    `errors="replace"` makes them; so do other lone surrogates.
    """
    text = text.partition("\0")[0]
    if text.isascii():
        return text
    text = _LONE_SURROGATE.sub("\ufffd", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
