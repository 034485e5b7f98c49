"""Models from a web server: any that gives out files; ``https://models.example.org/digits-1.0``.

- The digest comes with the order, and every byte is held against it: the server is not trusted.
- Redirects, retries and ranges are as with registries; plain http only through a mirror.
- A server lists nothing: bundles are asked for by their names, and sizes that nobody has signed
  by the first byte of each file.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.download import download_all
from linnet_agent.fetch.layout import files_prefix, read_artifact, resolve_directory
from linnet_agent.fetch.patience import Retry
from linnet_agent.fetch.references import parse_https_source, registry_url
from linnet_agent.fetch.sources import OnProgress
from linnet_agent.fetch.throttle import Throttle
from linnet_agent.fetch.transport import Transport
from linnet_agent.fetch.variants import VariantChoice
from linnet_agent.fetch.web import AbsentError, Place, RangeRefusedError, Web
from linnet_agent.fetch.wire import Answer, Limits
from linnet_agent.verify.manifest import Artifact, Layer

_SIDE_BY_SIDE: Final = 4
_TOTAL: Final = re.compile(r"bytes 0-0/([0-9]{1,16})")
_MAX_FILE_BYTES: Final = 1 << 50


class HttpsClient:
    """Fetches from web servers; one for a process, closed at its end.

    Args:
        mirrors: Host to the address that stands in for it.
        jitter: Returns 0 to 1; pass ``random.random`` so that nodes spread.
        retry: How patient it is.
        tls: Context for https, where the system's roots do not do.
        throttle: The byte rate that all fetches share; none where not given.
        transport: What sends; made of the others where not given.
    """

    def __init__(
        self,
        *,
        mirrors: Mapping[str, str] | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        retry: Retry | None = None,
        tls: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
        transport: Transport | None = None,
    ) -> None:
        retry = retry or Retry()
        self._mirrors = dict(mirrors or {})
        self._transport = transport or Transport(
            limits=Limits(connect_s=retry.connect_s, silence_s=retry.read_s),
            throttle=throttle,
            tls=tls,
        )
        self._web = Web(self._transport, retry=retry, jitter=jitter)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def resolve(self, source: str) -> str:
        """Return the digest of the artifact that lies there now.

        Raises:
            FetchError: See the classes below it.
        """
        return await resolve_directory(self._directory(source).read)

    async def fetch_artifact(
        self, source: str, digest: str, *, accepts: VariantChoice | None = None
    ) -> Artifact:
        """Return the manifest that has ``digest`` and the bundles beside it; no model bytes.

        Raises:
            FetchError: See the classes below it.
        """
        read = self._directory(source).read
        return await read_artifact(read, source=source, digest=digest, accepts=accepts)

    async def fetch_layers(
        self, artifact: Artifact, *, into: Path, on_progress: OnProgress | None = None
    ) -> None:
        """Make ``into`` exactly the artifact's files: verified, 0444, durable.

        It may be cancelled or killed at any time, and goes on where it was when called again.

        Raises:
            FetchError: See the classes below it.
            OSError: The directory cannot be written.
        """
        directory = self._directory(artifact.source)
        prefix = files_prefix(artifact)
        layers = artifact.layers
        if not artifact.manifest.sized:
            layers = await directory.measure(layers)
        await download_all(
            self._web,
            layers,
            place_of=lambda layer: directory.place(prefix + layer.name),
            into=into,
            on_progress=on_progress,
        )

    def _directory(self, source: str) -> "_Directory":
        reference = parse_https_source(source)
        base = registry_url(reference, self._mirrors) + reference.path
        return _Directory(self._web, base, anywhere=reference.host in self._mirrors)


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory of a web server."""

    web: Web
    base: str
    anywhere: bool

    def place(self, name: str) -> Place:
        """Return where a file lies."""
        url = f"{self.base}/{quote(name)}"
        return Place(url=url, what=url, anywhere=self.anywhere)

    async def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return a small file; None: there is none."""
        try:
            found = await self.web.read(self.place(name), accept="*/*", max_bytes=max_bytes)
        except AbsentError:
            return None
        return found.content

    async def measure(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """Return the layers with the sizes that the server says; the digests will tell."""
        waiting = iter(enumerate(layers))
        sizes = [0] * len(layers)

        async def work() -> None:
            for position, layer in waiting:
                sizes[position] = await self._size(self.place(layer.name))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_SIDE_BY_SIDE):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(
            replace(layer, size_bytes=size) for layer, size in zip(layers, sizes, strict=True)
        )

    async def _size(self, place: Place) -> int:
        async def once() -> int:
            return await self.web.ask(place, headers={"Range": "bytes=0-0"}, receive=_read_size)

        try:
            return await self.web.patiently(once, what=place.what)
        except RangeRefusedError:
            return 0  # there is no first byte


def _read_size(answer: Answer) -> int:
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        total = _TOTAL.fullmatch(answer.headers.get("Content-Range", ""))
        text = "" if total is None else total.group(1)
    else:
        text = answer.headers.get("Content-Length", "")
    if not text.isascii() or not text.isdecimal() or int(text) > _MAX_FILE_BYTES:
        msg = "the server does not say how large a file is; lay a manifest.json beside the model"
        raise SourceNotFoundError(msg)
    return int(text)
