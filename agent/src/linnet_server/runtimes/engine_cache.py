"""Engines that were built here: derived from a model, for one GPU, one driver, one TensorRT.

- An engine is used only where all that it depends on is the same, and its bytes are those that were
  written; anything else is built again.
- One that took the process down when it was tried is not tried again: it is built anew.
- Bounded: the engines of other models go, the oldest first.

Nothing in here is signed, and nothing needs to be: it is made from files that are, by this node, in
a directory that only the server may enter.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from linnet_server.errors import EngineCacheError

MAX_ENGINES: Final = 16

_PLAN, _FACTS, _TRYING = "engine.plan", "engine.json", "trying"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on."""

    digest: str
    file: str
    tensorrt: str
    gpu: str
    sm: str
    driver: int
    cuda: int
    hints: str
    """The publisher's, as JSON."""

    @property
    def name(self) -> str:
        """A name for a directory."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()[:40]


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """An engine on the disk."""

    path: Path
    sha256: str


class EngineCache:
    """The directory of engines. Its methods raise EngineCacheError where the disk does not let."""

    def __init__(self, root: Path) -> None:
        self._root = root / "tensorrt"

    def read(self, key: EngineKey) -> Engine | None:
        """Return the engine for ``key``; None where there is none that can be trusted."""
        directory = self._root / key.name
        try:
            facts = json.loads((directory / _FACTS).read_bytes())
            if facts["key"] != dataclasses.asdict(key) or (directory / _TRYING).exists():
                return None
            with (directory / _PLAN).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != facts["sha256"]:
                return None
            os.utime(directory)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Engine(directory / _PLAN, found)

    def write(self, key: EngineKey, plan: memoryview) -> Engine:
        """Keep ``plan``, and return it; what it takes the place of is gone first."""
        directory = self._root / key.name
        draft = self._root / f".{key.name}.{os.getpid()}"
        engine = Engine(directory / _PLAN, hashlib.sha256(plan).hexdigest())
        facts = {"key": dataclasses.asdict(key), "sha256": engine.sha256}
        with self._saying():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                draft.mkdir(mode=0o700)
                (draft / _PLAN).write_bytes(plan)
                (draft / _FACTS).write_text(json.dumps(facts), encoding="ascii")
                shutil.rmtree(directory, ignore_errors=True)
                draft.rename(directory)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            self._evict()
        return engine

    @contextlib.contextmanager
    def trying(self, engine: Engine) -> Iterator[None]:
        """Note that ``engine`` is tried: who dies in here has said what it is worth."""
        note = engine.path.with_name(_TRYING)
        with self._saying():
            note.touch()
        yield
        with self._saying():
            note.unlink()

    def read_timing(self, name: str) -> bytes:
        """Return what earlier builds have measured; empty where that is nothing."""
        try:
            return (self._root / f"{name}.timing").read_bytes()
        except OSError:
            return b""

    def write_timing(self, name: str, blob: memoryview) -> None:
        """Keep what builds have measured."""
        with self._saying():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._root / f".{name}.{os.getpid()}"
            draft.write_bytes(blob)
            draft.replace(self._root / f"{name}.timing")

    def _evict(self) -> None:
        engines = [path for path in self._root.iterdir() if path.is_dir()]
        engines.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in engines[MAX_ENGINES:]:
            shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise EngineCacheError(
                f"engines cannot be kept below {self._root}: {exc.strerror}"
            ) from exc
