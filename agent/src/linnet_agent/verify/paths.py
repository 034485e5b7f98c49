"""Which names files of a model may have.

- Relative, ``/`` between the parts, no part empty, ``.`` or ``..``; no backslash, no
  control character.
- Valid UTF-8, bounded: 255 bytes a part, 1024 bytes in all, 10,000 names a model.
- No two names that a file system could take for one: equal after NFC and case folding.
- No name that is a file and also a directory of another.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

MAX_FILES: Final = 10_000
_MAX_NAME_BYTES: Final = 1024
_MAX_PART_BYTES: Final = 255


def name_fault(name: str) -> str | None:
    """Return what is wrong with one file name, or None where nothing is."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not encoded or len(encoded) > _MAX_NAME_BYTES:
        return f"is empty or longer than {_MAX_NAME_BYTES} bytes"
    if "\\" in name or any(unicodedata.category(char) == "Cc" for char in name):
        return "holds a backslash or a control character"
    for part in name.split("/"):
        if part in {"", ".", ".."}:
            return "is absolute, or has an empty, '.' or '..' part"
        if len(part.encode()) > _MAX_PART_BYTES:
            return f"has a part longer than {_MAX_PART_BYTES} bytes"
    return None


def names_fault(names: Iterable[str]) -> str | None:
    """Return what is wrong with the names of a whole model, or None where nothing is."""
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    for count, name in enumerate(names, start=1):
        if count > MAX_FILES:
            return f"there are more than {MAX_FILES} files"
        if (fault := name_fault(name)) is not None:
            return f"the name {name!r} {fault}"
        folded = _fold(name)
        if folded in seen:
            return f"the names {seen[folded]!r} and {name!r} are one on some file systems"
        seen[folded] = name
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            directories.setdefault("/".join(parts[:depth]), name)
    for folded, name in seen.items():
        if folded in directories:
            return f"the name {name!r} is a file, and a directory in {directories[folded]!r}"
    return None if seen else "there is no file"


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
