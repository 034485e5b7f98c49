"""One file of known size and digest: streamed to disk, hashed on the way, resumed where it broke.

- Every byte is read once from the network and never again from disk, but for what a former attempt
  left, which is hashed before it is built upon.
- What was broken off goes on with a closed range; a server that does not keep to the range gives
  the whole file anew.
- A file that came in several pieces and is not what it should be is fetched once more from its
  beginning: the pieces may be of different files, or torn by a power cut. Then it is refused.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

from linnet_agent.errors import DigestMismatchError
from linnet_agent.fetch.sources import OnProgress
from linnet_agent.fetch.staging import PartialFile, off_loop, prepare_staging, seal_staging
from linnet_agent.fetch.transport import Answer, TransientError
from linnet_agent.fetch.web import Place, RangeRefusedError, Web, side_by_side
from linnet_agent.verify.manifest import Layer

_BUFFER_BYTES: Final = 512 << 10
_SIDE_BY_SIDE: Final = 2


async def download_all(
    web: Web,
    layers: Sequence[Layer],
    *,
    place_of: Callable[[Layer], Place],
    into: Path,
    on_progress: OnProgress | None = None,
) -> None:
    """Make ``into`` exactly these files: verified, 0444, durable.

    It may be cancelled or killed at any time, and goes on where it was when called again.

    Args:
        web: Asks.
        layers: The files.
        place_of: Says where a file's bytes are.
        into: The staging directory.
        on_progress: Told now and then, and at the end.

    Raises:
        FetchError: See the classes below it.
        OSError: The directory cannot be written.
    """
    await off_loop(lambda: prepare_staging(into, layers))
    have = dict.fromkeys((layer.name for layer in layers), 0)
    total = sum(layer.size_bytes for layer in layers)
    waiting = iter(layers)

    async def work() -> None:
        for layer in waiting:

            def note(count: int, name: str = layer.name) -> None:
                have[name] = count
                if on_progress is not None:
                    on_progress(sum(have.values()), total)

            await _Download(web, place_of(layer), layer, on_progress=note).run(into / layer.name)

    await side_by_side(work() for _ in range(_SIDE_BY_SIDE))
    await off_loop(lambda: seal_staging(into))


class _Download:
    def __init__(
        self, web: Web, place: Place, layer: Layer, *, on_progress: Callable[[int], None]
    ) -> None:
        self._web = web
        self._place = place
        self._layer = layer
        self._on_progress = on_progress
        self._pieced = False
        self._ranges = True
        self._file: PartialFile

    async def run(self, path: Path) -> None:
        """Fetch, check, and seal."""
        self._file = PartialFile(path, size_bytes=self._layer.size_bytes)
        try:
            await self._run()
        finally:
            self._file.close()

    async def _run(self) -> None:
        self._pieced = await off_loop(self._file.resume) > 0
        self._tell()
        await self._complete()
        if self._file.digest() != self._layer.digest and self._pieced:
            await off_loop(self._restart)
            await self._complete()
        if (found := self._file.digest()) != self._layer.digest:
            await off_loop(self._restart)
            msg = f"{self._layer.name} that was to be {self._layer.digest} is {found}"
            raise DigestMismatchError(msg)
        await off_loop(self._file.seal)

    async def _complete(self) -> None:
        if self._file.have_bytes < self._layer.size_bytes:
            await self._web.patiently(
                self._attempt, what=self._place.what, progress=lambda: self._file.have_bytes
            )

    async def _attempt(self) -> None:
        """Read until the file has its size; TransientError where that did not come about."""
        if not self._ranges and self._file.have_bytes:
            await off_loop(self._restart)
        start, last = self._file.have_bytes, self._layer.size_bytes - 1
        try:
            await self._web.ask(
                self._place,
                headers={"Range": f"bytes={start}-{last}"} if start else {},
                receive=lambda answer: self._receive(answer, start=start),
                pulse=self._tell,
            )
        except RangeRefusedError as error:
            if not start:
                raise
            self._ranges = False
            raise TransientError(str(error)) from error
        finally:
            self._tell()

    def _receive(self, answer: Answer, *, start: int) -> None:
        """Read one answer into the file; in the worker thread."""
        if (fault := _misfit(answer, self._layer, start=start)) is not None:
            raise RangeRefusedError(fault) if start else DigestMismatchError(fault)
        if answer.status == HTTPStatus.OK and start:
            self._restart()  # the server gives it all again
        self._pieced = self._file.have_bytes > 0
        self._pour(answer)

    def _pour(self, answer: Answer) -> None:
        missing = self._layer.size_bytes - self._file.have_bytes
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, missing)))
        filled = 0
        try:
            while missing:
                count = answer.read_into(buffer[filled : filled + missing])
                if not count:
                    have, size = self._file.have_bytes + filled, self._layer.size_bytes
                    raise TransientError(f"it ended after {have} of {size} bytes")
                missing -= count
                filled += count
                if filled == len(buffer):
                    filled = 0
                    self._file.append(buffer)
        finally:
            # Also after a reset, so that every attempt gets further than the one before it.
            self._file.append(buffer[:filled])

    def _restart(self) -> None:
        self._pieced = False
        self._file.restart()

    def _tell(self) -> None:
        self._on_progress(self._file.have_bytes)


def _misfit(answer: Answer, layer: Layer, *, start: int) -> str | None:
    """Return why an answer cannot be what is missing of the file, or None where it can."""
    partial = answer.status == HTTPStatus.PARTIAL_CONTENT
    if partial:
        wanted = f"bytes {start}-{layer.size_bytes - 1}/"
        if not answer.headers.get("Content-Range", "").startswith(wanted):
            return f"the server sends another range of {layer.name} than was asked for"
    expected = layer.size_bytes - start if partial else layer.size_bytes
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and length != str(expected):
        return f"{layer.name} comes with {length} bytes and was to have {expected}"
    return None
