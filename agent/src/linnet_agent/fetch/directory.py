"""Models from a directory of this node: a USB stick, a shared disk; ``file:///media/usb/digits``.

- Only below the roots that the node allows; no link is followed on the way, neither is one read.
- What is read is a plain file with one name, without setuid; it is hashed while it is copied, and
  only the copy counts: who swaps it afterwards changes nothing.
- What is not there now may come: a stick that is not in, or pulled out, is waited for.
- A copy that was broken off goes on where it was.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from linnet_agent.errors import (
    ContentRefusedError,
    DigestMismatchError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from linnet_agent.fetch.layout import files_prefix, read_artifact, resolve_directory
from linnet_agent.fetch.references import parse_file_source
from linnet_agent.fetch.sources import OnProgress
from linnet_agent.fetch.staging import PartialFile, off_loop, prepare_staging, seal_staging
from linnet_agent.fetch.variants import VariantChoice
from linnet_agent.verify.manifest import Artifact, Layer

DEFAULT_FILE_ROOTS: Final = (Path("/media"), Path("/mnt"), Path("/srv/linnet"))

_STEP_BYTES: Final = 8 << 20
"""How much is copied before a cancellation is looked for; a slow stick does 10 MB/s."""
_CHUNK_BYTES: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_A_DIRECTORY: Final = frozenset({errno.ELOOP, errno.ENOTDIR})


class DirectoryClient:
    """Copies models from directories below ``roots``."""

    def __init__(self, *, roots: Sequence[Path] = DEFAULT_FILE_ROOTS) -> None:
        self._roots = tuple(roots)

    async def aclose(self) -> None:
        """Do nothing: nothing is open between calls."""

    async def resolve(self, source: str) -> str:
        """Return the digest of the artifact that lies there now.

        Raises:
            FetchError: See the classes below it.
        """
        place = self._place(source)
        with _awaited(place):
            return await resolve_directory(place.read)

    async def fetch_artifact(
        self, source: str, digest: str, *, accepts: VariantChoice | None = None
    ) -> Artifact:
        """Return the manifest that has ``digest`` and the bundles beside it; no model bytes.

        Raises:
            FetchError: See the classes below it.
            ContentRefusedError: Something that is not a plain file stands in a file's place.
        """
        place = self._place(source)
        with _awaited(place):
            return await read_artifact(place.read, source=source, digest=digest, accepts=accepts)

    async def fetch_layers(
        self, artifact: Artifact, *, into: Path, on_progress: OnProgress | None = None
    ) -> None:
        """Make ``into`` exactly the artifact's files: verified, 0444, durable.

        It may be cancelled or killed at any time, and goes on where it was when called again.

        Raises:
            FetchError: See the classes below it.
            ContentRefusedError: Something that is not a plain file stands in a file's place.
            OSError: The directory cannot be written.
        """
        place = self._place(artifact.source)
        prefix = files_prefix(artifact)
        layers = artifact.layers
        if not artifact.manifest.sized:
            layers = await off_loop(lambda: place.measure(layers))
        await off_loop(lambda: prepare_staging(into, layers))
        total, done = sum(layer.size_bytes for layer in layers), 0
        for layer in layers:

            def report(have: int, before: int = done) -> None:
                if on_progress is not None:
                    on_progress(before + have, total)

            async with _opened(place, prefix + layer.name) as source:
                await _copy_layer(source, layer, into / layer.name, report)
            done += layer.size_bytes
        await off_loop(lambda: seal_staging(into))

    def _place(self, source: str) -> "_Place":
        path = parse_file_source(source)
        roots = [root for root in self._roots if path.is_relative_to(root)]
        if not roots:
            allowed = ", ".join(map(str, self._roots)) or "nowhere"
            msg = f"{path} is not below what this node allows (--file-roots): {allowed}"
            raise SourceNotFoundError(msg)
        return _Place(root=max(roots, key=lambda root: len(root.parts)), path=path)


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory below a root, opened anew for each file: it may come and go."""

    root: Path
    path: Path

    async def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return a small file; None: there is none."""
        return await off_loop(lambda: self._read(name, max_bytes))

    def open(self, name: str) -> int:
        """Open a plain file; no link on the way to it is followed. Blocking."""
        with _source_faults(self.path / name), self._opened() as base:
            *directories, last = name.split("/")
            with _walked(base, directories) as directory:
                return _open_plain(last, directory=directory, name=name)

    def measure(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Return the layers with the sizes that their files have now. Blocking."""
        sizes: list[int] = []
        for layer in layers:
            file = self.open(layer.name)
            try:
                sizes.append(os.fstat(file).st_size)
            finally:
                os.close(file)
        return tuple(
            replace(layer, size_bytes=size) for layer, size in zip(layers, sizes, strict=True)
        )

    def _read(self, name: str, max_bytes: int) -> bytes | None:
        with _source_faults(self.path), self._opened():
            pass  # that the directory is not there says nothing about the file
        try:
            file = self.open(name)
        except SourceUnavailableError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        try:
            with _source_faults(self.path / name):
                content = os.pread(file, max_bytes + 1, 0)
        finally:
            os.close(file)
        if len(content) > max_bytes:
            msg = f"{self.path / name} is larger than {max_bytes} bytes"
            raise SourceNotFoundError(msg)
        return content

    @contextmanager
    def _opened(self) -> Iterator[int]:
        top = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _walked(top, self.path.relative_to(self.root).parts) as base:
                yield base
        finally:
            os.close(top)


@contextmanager
def _walked(top: int, parts: Sequence[str]) -> Iterator[int]:
    """Open the directory that ``parts`` lead to, from one that stays open."""
    directory = os.dup(top)
    try:
        for part in parts:
            child = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = child
        yield directory
    finally:
        os.close(directory)


def _open_plain(entry: str, *, directory: int, name: str) -> int:
    # Looked at before it is opened, because opening a device may do something; and after, because
    # it may be another one by then.
    _require_plain(os.stat(entry, dir_fd=directory, follow_symlinks=False), name)
    file = os.open(entry, _FILE, dir_fd=directory)
    try:
        _require_plain(os.fstat(file), name)
    except ContentRefusedError:
        os.close(file)
        raise
    return file


def _require_plain(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        msg = f"{name!r} is not a plain file"
        raise ContentRefusedError(msg)
    if found.st_nlink != 1:
        msg = f"{name!r} has {found.st_nlink} links: it is a file of something else, too"
        raise ContentRefusedError(msg)
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        msg = f"{name!r} has mode {stat.S_IMODE(found.st_mode):o}"
        raise ContentRefusedError(msg)


@contextmanager
def _source_faults(path: Path) -> Iterator[None]:
    """Tell faults of what is read from faults of the disk that is written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_A_DIRECTORY:
            msg = f"{path} is reached over a link, or over what is no directory"
            raise ContentRefusedError(msg) from error
        msg = f"{path}: {error.strerror}"
        raise SourceUnavailableError(msg) from error


@contextmanager
def _awaited(place: _Place) -> Iterator[None]:
    """Nothing there is no refusal: on a node, what is not there may yet be brought."""
    try:
        yield
    except SourceNotFoundError as error:
        raise SourceUnavailableError(f"{place.path}: {error}") from error


@asynccontextmanager
async def _opened(place: _Place, name: str) -> AsyncIterator[int]:
    opening = asyncio.ensure_future(asyncio.to_thread(place.open, name))
    try:
        await asyncio.shield(opening)
        yield opening.result()
    finally:
        await asyncio.wait({opening})
        if opening.exception() is None:
            os.close(opening.result())


async def _copy_layer(source: int, layer: Layer, path: Path, report: Callable[[int], None]) -> None:
    if (size := os.fstat(source).st_size) != layer.size_bytes:
        msg = f"{layer.name} has {size} bytes and was to have {layer.size_bytes}"
        raise DigestMismatchError(msg)
    file = PartialFile(path, size_bytes=layer.size_bytes)
    try:
        resumed = await off_loop(file.resume) > 0
        await _copy(source, layer, file, report)
        if file.digest() != layer.digest and resumed:
            # What was there before may be torn by a power cut: once more from the start.
            await off_loop(file.restart)
            await _copy(source, layer, file, report)
        if (found := file.digest()) != layer.digest:
            await off_loop(file.restart)
            msg = f"{layer.name} that was to be {layer.digest} is {found}"
            raise DigestMismatchError(msg)
        await off_loop(file.seal)
    finally:
        file.close()


async def _copy(
    source: int, layer: Layer, file: PartialFile, report: Callable[[int], None]
) -> None:
    report(file.have_bytes)
    while file.have_bytes < layer.size_bytes:
        await off_loop(lambda: _copy_some(source, layer, file))
        report(file.have_bytes)


def _copy_some(source: int, layer: Layer, file: PartialFile) -> None:
    end = min(layer.size_bytes, file.have_bytes + _STEP_BYTES)
    while file.have_bytes < end:
        with _source_faults(Path(layer.name)):
            chunk = os.pread(source, min(_CHUNK_BYTES, end - file.have_bytes), file.have_bytes)
        if not chunk:
            msg = f"{layer.name} ended after {file.have_bytes} of {layer.size_bytes} bytes"
            raise DigestMismatchError(msg)
        file.append(chunk)
