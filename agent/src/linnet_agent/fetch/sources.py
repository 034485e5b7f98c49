"""Where models come from, whatever the scheme: one protocol, and who speaks which scheme.

- A source's scheme decides who fetches it; an unknown one is refused, never guessed.
- Every client gives the same: manifest and bundles first, then, when the node has said yes,
  exactly the manifest's files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from linnet_agent.errors import UnsupportedArtifactError
from linnet_agent.fetch.variants import VariantChoice
from linnet_agent.verify.manifest import Artifact

OnProgress = Callable[[int, int], None]
"""Called with bytes on disk and bytes in all."""


class Fetcher(Protocol):
    """Speaks one scheme; bounded in bytes and patience, and safe to cancel at any time."""

    async def resolve(self, source: str) -> str:
        """Return the artifact digest that ``source`` names now.

        Raises:
            FetchError: See the classes below it.
        """

    async def fetch_artifact(
        self, source: str, digest: str, *, accepts: VariantChoice | None = None
    ) -> Artifact:
        """Return the manifest that has ``digest`` and the bundles beside it; no model bytes.

        Args:
            source: Where it lies.
            digest: Artifact digest: that of a manifest, or of an index of variants.
            accepts: Which variant to take; None takes no index.

        Raises:
            FetchError: See the classes below it.
        """

    async def fetch_layers(
        self, artifact: Artifact, *, into: Path, on_progress: OnProgress | None = None
    ) -> None:
        """Make ``into`` exactly the artifact's files: verified, 0444, durable.

        It may be cancelled or killed at any time, and goes on where it was when called again.

        Raises:
            FetchError: See the classes below it.
            OSError: The directory cannot be written.
        """

    async def aclose(self) -> None:
        """Close all connections."""


class Sources:
    """A fetcher for every scheme that it was given one for.

    Args:
        fetchers: Scheme (``oci``, ``https``, ``file``) to who speaks it.
    """

    def __init__(self, fetchers: Mapping[str, Fetcher]) -> None:
        self._fetchers = dict(fetchers)

    async def resolve(self, source: str) -> str:
        """See ``Fetcher.resolve``."""
        return await self._of(source).resolve(source)

    async def fetch_artifact(
        self, source: str, digest: str, *, accepts: VariantChoice | None = None
    ) -> Artifact:
        """See ``Fetcher.fetch_artifact``."""
        return await self._of(source).fetch_artifact(source, digest, accepts=accepts)

    async def fetch_layers(
        self, artifact: Artifact, *, into: Path, on_progress: OnProgress | None = None
    ) -> None:
        """See ``Fetcher.fetch_layers``."""
        await self._of(artifact.source).fetch_layers(artifact, into=into, on_progress=on_progress)

    async def aclose(self) -> None:
        """Close every fetcher."""
        for fetcher in self._fetchers.values():
            await fetcher.aclose()

    def _of(self, source: str) -> Fetcher:
        scheme, separator, _ = source.partition("://")
        fetcher = self._fetchers.get(scheme)
        if not separator or fetcher is None:
            known = ", ".join(f"{name}://" for name in self._fetchers)
            raise UnsupportedArtifactError(f"{source!r}: this agent fetches from {known} sources")
        return fetcher
