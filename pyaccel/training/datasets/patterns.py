"""Which files a text names: a file, a folder, a glob (``data/*.tar``), or braces (``train-{000..099}.tar``)."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def files_of(named: str | os.PathLike | Sequence[str | os.PathLike], suffix: str) -> list[Path]:
    """The files that ``named`` stands for, one text after another; of a folder those that end with ``suffix``.

    Those of a folder and of a glob are sorted. Raises FileNotFoundError, with what was found instead, for a text that
    stands for no file, and ValueError for a file that is named twice.
    """
    texts = [named] if isinstance(named, (str, os.PathLike)) else list(named)
    found = list(itertools.chain.from_iterable(_files_of_one(os.fspath(text), suffix) for text in texts))
    if not found:
        raise FileNotFoundError(f"no files were named; name {suffix} files, a folder of them, or a pattern")
    if len(set(found)) < len(found):
        twice = next(path for path, count in Counter(found).items() if count > 1)
        raise ValueError(f"{twice} is named twice, and its samples would come twice an epoch; name each file once")
    return found


def _files_of_one(text: str, suffix: str) -> list[Path]:
    if os.path.isdir(text):
        found = sorted(path for path in Path(text).iterdir() if path.suffix == suffix and not path.name.startswith("."))
        if not found:
            raise FileNotFoundError(f"{text} has no {suffix} files; it holds {contents(text)}")
        return found
    if os.path.exists(text):
        return [Path(text)]
    found = []
    for name in expand_braces(text):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name] * os.path.exists(name)
        if not matches:
            expanded = f", which stands for {name} too" if name != text else ""
            raise FileNotFoundError(
                f"{text}{expanded}: there is no such file; the folder holds {contents(Path(name).parent)}"
            )
        found += map(Path, matches)
    return found


def expand_braces(text: str) -> list[str]:
    """The texts that braces stand for, as in a shell: ``{000..099}`` counts, ``{a,b}`` lists. ValueError over 10⁶."""
    match = _BRACES.search(text)
    if match is None:
        return [text]
    counted = _RANGE.fullmatch(match[1])
    if counted:
        first, last = int(counted[1]), int(counted[2])
        if not first <= last < first + _MOST:
            raise ValueError(f"{text}: {{{match[1]}}} must count upwards, to at most {_MOST} files")
        parts = [str(number).zfill(len(counted[1])) for number in range(first, last + 1)]
    else:
        parts = match[1].split(",")
    rest = expand_braces(text[match.end() :])
    if len(parts) * len(rest) > _MOST:
        raise ValueError(f"{text} stands for more than {_MOST} files")
    return [text[: match.start()] + part + tail for part in parts for tail in rest]


def contents(folder: str | os.PathLike) -> str:
    """What a folder holds, by kind, for errors: ".txt files (3), folders (2)"."""
    if not os.path.isdir(folder):
        return f"nothing: there is no folder {folder}"
    kinds: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            kinds["folders" if entry.is_dir() else f"{Path(entry.name).suffix or 'nameless'} files"] += 1
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:8]
    return ", ".join(f"{kind} ({count})" for kind, count in most) or "nothing"
