"""Things that are looked up by name, and the error for a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``; a ValueError that lists what there is and names the nearest when it is not there."""
    if name in known:
        return known[name]
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {kind} {name!r}; there are: {', '.join(known)}{hint}")
