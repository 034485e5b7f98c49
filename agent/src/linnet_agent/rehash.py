"""Looking at what lies on the disk again, slowly: bytes rot, and nobody else would notice.

- Every file of every model is read from the disk, not from the page cache, and hashed against the
  manifest that was verified; a missing or extra file is a fault as well.
- It takes a fixed share of one core, whatever the machine and however large the models are: after
  each piece it sleeps as long as that asks for.
- A fault of the moment (no more open files, no memory) is no verdict: the next round looks again.
"""

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, thread_time
from typing import Final

from linnet_agent.errors import AgentError
from linnet_agent.metrics import Metrics
from linnet_agent.store import Store

log = logging.getLogger(__name__)

SHARE: Final = 0.004
"""Of one core: below the 0.5 % that an idle agent may take. A gigabyte takes three minutes on a
server (1.5 GB/s) and twenty on a small board (0.2 GB/s)."""

_PIECE_BYTES: Final = 1 << 20
MOMENTARY: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""What passes, and says nothing of the bytes."""


class Rehash:
    """Goes through the store, for ever."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        interval_s: float,
        on_corrupt: Callable[[], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._interval_s = interval_s
        self._on_corrupt = on_corrupt

    async def run(self) -> None:
        """Look at everything once an interval; the first time after one, for boot looks as well."""
        due_at = monotonic() + self._interval_s
        while True:
            await asyncio.sleep(max(0.0, due_at - monotonic()))
            due_at = monotonic() + self._interval_s
            await self.look()

    async def look(self) -> None:
        """Look at every model once."""
        for model_digest, files in (await asyncio.to_thread(self._list)).items():
            try:
                fault = await find_fault(self._store.path_of(model_digest), files)
            except OSError as error:
                self._metrics.count_disk_fault(error)
                log.warning("agent.rehash.failed", extra={"cause": str(error)})
                continue
            if fault is None or not self._store.has(model_digest):
                continue
            self._store.corrupt[model_digest] = fault
            self._metrics.corruptions.inc()
            log.error("agent.model.corrupt", extra={"digest": model_digest, "cause": fault})
            self._on_corrupt()

    def _list(self) -> dict[str, Mapping[str, str]]:
        """Return the digests of the files of each model in the store that is thought to be well."""
        found: dict[str, Mapping[str, str]] = {}
        for model in self._store.list_models():
            for revision, record in model.read_records().items():
                if record.model_digest in self._store.corrupt:
                    continue
                try:
                    artifact = model.read_evidence(revision)
                except (AgentError, OSError, ValueError):
                    continue  # found at boot, where it is taken for gone
                found[record.model_digest] = {layer.name: layer.digest for layer in artifact.layers}
        return found


async def find_fault(root: Path, files: Mapping[str, str], *, share: float = SHARE) -> str | None:
    """Return what is wrong with the model at ``root``; None where it is as it was verified.

    Args:
        root: The directory.
        files: Name to ``sha256:<hex>``.
        share: Of one core that this may take.

    Raises:
        OSError: It could not be looked at, for a reason that passes.
    """
    try:
        there = await asyncio.to_thread(_names_below, root)
        for name in sorted(there ^ files.keys()):
            return f"{name} is {'not signed' if name in there else 'gone'}"
        for name, digest in sorted(files.items()):
            if await _hash_slowly(root / name, share=share) != digest:
                return f"{name} has other bytes"
    except OSError as error:
        if error.errno in MOMENTARY:
            raise
        return f"{error.filename or root} cannot be read: {error.strerror}"
    return None


def _names_below(root: Path) -> set[str]:
    def fail(error: OSError) -> None:
        raise error

    return {
        Path(directory, file).relative_to(root).as_posix()
        for directory, _, files in os.walk(root, onerror=fail)
        for file in files
    }


async def _hash_slowly(path: Path, *, share: float) -> str:
    file = await asyncio.to_thread(_open_uncached, path)
    try:
        digest = hashlib.sha256()
        while True:
            count, took_s = await asyncio.to_thread(_hash_piece, file, digest)
            await asyncio.sleep(took_s * (1 / share - 1))
            if not count:
                return "sha256:" + digest.hexdigest()
    finally:
        os.close(file)


def _open_uncached(path: Path) -> int:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def _hash_piece(file: int, digest: "hashlib._Hash") -> tuple[int, float]:
    """Hash the next piece; return its bytes, and the seconds of processor time that it took."""
    began = thread_time()
    piece = os.read(file, _PIECE_BYTES)
    digest.update(piece)
    return len(piece), thread_time() - began
