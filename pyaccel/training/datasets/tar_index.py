"""Where the members of a tar file lie: found once, and kept beside the file as JSON."""

from __future__ import annotations

import contextlib
import json
import tarfile
from pathlib import Path

from ...files import write_atomically

SCHEMA = 1
Member = tuple[str, int, int]
"""Name, first byte, and number of bytes."""


def tar_members(path: Path) -> list[Member]:
    """The files in a tar file, in its order.

    They are read from ``NAME.tar.index.json`` where that was made of the file as it is now (its size and time of
    change), and otherwise from the whole tar file, which takes a while; then the index is written, if the folder can
    be written. Raises ValueError where the file is damaged, cut off or compressed.
    """
    index = path.with_name(f"{path.name}.index.json")
    facts = path.stat()
    known = {"kind": "pyaccel tar index", "schema": SCHEMA, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    kept = _kept(index, known)
    if kept is not None:
        return kept
    members = _scan(path)
    # A folder that cannot be written, or a full disk: the index is a convenience.
    with contextlib.suppress(OSError):
        write_atomically(index, lambda temporary: temporary.write_text(json.dumps({**known, "members": members})))
    return members


def _kept(index: Path, known: dict) -> list[Member] | None:
    try:
        facts = json.loads(index.read_text())
        members = [(str(name), int(start), int(size)) for name, start, size in facts.pop("members")]
        whole = all(start >= 0 and size >= 0 and start + size <= known["size"] for _, start, size in members)
        return members if whole and facts == known else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _scan(path: Path) -> list[Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            plain = (member for member in tar if member.isreg() and not member.issparse())
            members = [(member.name, member.offset_data, member.size) for member in plain]
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a whole, uncompressed tar file ({error}): unpack .tar.gz, or copy it anew"
        ) from error
    # tarfile takes a damaged header for the end, and what follows would be missing without a word.
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512).strip(b"\0"):
            raise ValueError(f"{path} is damaged at byte {end}: make it or copy it anew")
    return members
