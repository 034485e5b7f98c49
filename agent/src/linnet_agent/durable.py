"""Writes that survive a power cut: whole or not at all, and on the disk when the call returns.

- A file is written beside its place, synced, renamed over it, and its directory is synced.
- A link is swapped by rename; a temporary link that a kill has left is unlinked first, or every
  later swap would fail (RAUC's artifact repository has that hole).
- A directory that goes is renamed away first: no reader ever sees half of one.
"""

import os
import shutil
from pathlib import Path
from typing import Final

_TEMPORARY: Final = ".linnet-tmp-"
TRASH: Final = ".trash-"


def write_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` with ``content``; a reader sees the old or the new, never a part."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def swap_link(link: Path, target: str) -> None:
    """Let the symlink ``link`` point to ``target``, in one rename."""
    temporary = link.with_name(f"{_TEMPORARY}{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_directory(link.parent)


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """Make ``path`` and its parents, durably; fine where it is there."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=mode, exist_ok=True)
        sync_directory(directory.parent)


def remove_file(path: Path) -> None:
    """Remove a file or link durably; fine where there is none."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory with all in it; it vanishes in one rename, then its files go.

    What is no directory goes as well, and what a kill has left of a removal.
    """
    if path.name.startswith(TRASH):
        _discard(path)
        return
    trash = path.with_name(f"{TRASH}{path.name}")
    _discard(trash)
    try:
        path.rename(trash)
    except FileNotFoundError:
        return
    sync_directory(path.parent)
    _discard(trash)


def move_directory(source: Path, place: Path) -> None:
    """Rename the complete ``source`` to ``place``; what was there goes, after that."""
    trash = place.with_name(f"{TRASH}{place.name}")
    _discard(trash)
    if place.exists():
        place.rename(trash)
    source.rename(place)
    sync_directory(place.parent)
    sync_directory(source.parent)
    _discard(trash)


def sweep(directory: Path) -> None:
    """Remove what a kill may have left in ``directory``: temporary files and links, and trash."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.name.startswith((TRASH, _TEMPORARY)):
            _discard(path)


def temporary_directory(path: Path) -> Path:
    """Return a fresh empty directory beside ``path``, to be renamed to it."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    if temporary.exists():
        shutil.rmtree(temporary)
    make_directory(temporary)
    return temporary


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
