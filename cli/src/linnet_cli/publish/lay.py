"""A model in a directory, as nodes read it: for a USB stick, a shared disk, a web server.

- It is written beside its place and renamed there when all of it is on the disk: a stick that is
  pulled out too early holds nothing that looks whole.
- What is copied is hashed on the way and must be what was hashed before.
- What is there already is not overwritten: a version has a path of its own.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from linnet_agent.fetch.layout import MANIFEST_NAME, bundle_name
from linnet_cli.errors import CliError
from linnet_cli.publish.modelpack import Packed, build_index
from linnet_cli.publish.statement import canonical_json

_CHUNK_BYTES: Final = 1 << 20
_RESERVED: Final = re.compile(r"manifest\.json|model(\.[0-9]+)?\.sig|sha256-[0-9a-f]{64}/.*")


def lay_model(packed: Packed, *, at: Path) -> Mapping[str, Any]:
    """Write a model to the directory ``at``; return its manifest.

    Raises:
        CliError: Something is there, or the model has a file of a name that is needed.
        OSError: It cannot be written.
    """
    _require_place(at)
    fresh = _fresh(at)
    _write_model(packed, fresh)
    _finish(fresh, at)
    return packed.manifest


def lay_variants(variants: Mapping[str, Packed], *, at: Path) -> Mapping[str, Any]:
    """Write several models as variants of one to the directory ``at``; return their index.

    Raises:
        CliError: Something is there, or a model has a file of a name that is needed.
        OSError: It cannot be written.
    """
    _require_place(at)
    fresh = _fresh(at)
    index = build_index(variants)
    for packed in variants.values():
        place = fresh / packed.digest.replace(":", "-")
        if not place.exists():  # two names for one model
            place.mkdir()
            _write_model(packed, place)
    _write(fresh / MANIFEST_NAME, canonical_json(index))
    _finish(fresh, at)
    return index


def _require_place(at: Path) -> None:
    if at.exists() and (not at.is_dir() or any(at.iterdir())):
        msg = f"{at} is there already; give each version a directory of its own"
        raise CliError(msg)


def _fresh(at: Path) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    fresh = at.with_name(f".{at.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    return fresh


def _write_model(packed: Packed, place: Path) -> None:
    if taken := [name for name in packed.files if _RESERVED.fullmatch(name)]:
        msg = f"the model has a file {taken[0]!r}, a name that its directory needs; rename it"
        raise CliError(msg)
    for name, digest in packed.files.items():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if _copy(packed.root / name, target) != digest:
            msg = f"{packed.root / name} has changed while it was copied"
            raise CliError(msg)
    for number, bundle in enumerate(packed.bundles, start=1):
        _write(place / bundle_name(number), bundle)
    _write(place / MANIFEST_NAME, canonical_json(packed.manifest))


def _finish(fresh: Path, at: Path) -> None:
    for directory, _, _ in os.walk(fresh, topdown=False):
        _sync(Path(directory))
    if at.exists():
        at.rmdir()
    fresh.rename(at)
    _sync(at.parent)


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as written:
        while chunk := read.read(_CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
    return "sha256:" + digest.hexdigest()


def _write(target: Path, content: bytes) -> None:
    with target.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # FAT and some shares cannot
            raise
    finally:
        os.close(descriptor)
