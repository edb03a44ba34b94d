"""What every runtime makes of text that is not quite text."""

from __future__ import annotations

import re

__all__ = ["well_formed"]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Returns a text as every runtime can read it.

    It ends at its first NUL, because runtimes on phones take C strings.
    Lone surrogates, which Python makes of bytes that are no UTF-8 (in file
    names and arguments, and with `errors="surrogateescape"`), become U+FFFD.
    """
    return _LONE_SURROGATE.sub("\ufffd", text.partition("\0")[0])
