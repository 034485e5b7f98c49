"""What a registry holds for one model: a ModelPack manifest and the signature bundles beside it.

- A manifest is known by the sha256 of its bytes, computed here; what a registry calls it
  counts for nothing.
- One layer is one file, raw, at the path that its annotation names; archives are not read.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from linnet_agent.errors import DigestMismatchError, UnsupportedArtifactError
from linnet_agent.verify.paths import names_fault
from linnet_agent.verify.strict_json import as_list, as_object, parse_json_object

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPE: Final = "application/vnd.cncf.model.weight.v1.raw"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
FILEPATH_ANNOTATION: Final = "org.cncf.model.filepath"

MAX_MANIFEST_BYTES: Final = 4 << 20
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LAYER_TYPES: Final = re.compile(
    r"application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.raw"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model, as the manifest names it."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A ModelPack manifest; ``digest`` is the artifact digest."""

    digest: str
    raw: bytes
    layers: tuple[Layer, ...]

    @property
    def total_bytes(self) -> int:
        """Return the sum over all layers."""
        return sum(layer.size_bytes for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest with the signature bundles that lie beside it; no model bytes.

    It can be kept as ``manifest.raw`` and ``bundles`` and be rebuilt, so that what is active can
    be judged again without a network whenever trust changes.
    """

    source: str
    manifest: Manifest
    bundles: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """Return the artifact digest, ``sha256:...``."""
        return self.manifest.digest

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the files."""
        return self.manifest.layers


def digest_of(content: bytes) -> str:
    """Return ``sha256:<hex>`` of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def is_digest(text: object) -> bool:
    """Return true where ``text`` is a sha256 digest, written as OCI writes it."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse_manifest(raw: bytes, *, digest: str) -> Manifest:
    """Read a ModelPack manifest that shall have ``digest``.

    Raises:
        DigestMismatchError: The bytes have another digest.
        UnsupportedArtifactError: They are not a manifest of raw model files with safe names.
    """
    found = digest_of(raw)
    if found != digest:
        msg = f"the manifest that was to be {digest} is {found}"
        raise DigestMismatchError(msg)
    try:
        document = parse_json_object(raw, max_bytes=MAX_MANIFEST_BYTES)
    except ValueError as error:
        msg = f"the manifest {digest} is not readable: {error}"
        raise UnsupportedArtifactError(msg) from error
    _require_model(document, digest=digest)
    layers = as_list(document.get("layers"))
    if layers is None:
        msg = f"the manifest {digest} has no list of layers"
        raise UnsupportedArtifactError(msg)
    parsed = tuple(_parse_layer(layer, digest=digest) for layer in layers)
    if (fault := names_fault(layer.name for layer in parsed)) is not None:
        msg = f"the manifest {digest} is refused: {fault}"
        raise UnsupportedArtifactError(msg)
    return Manifest(digest=digest, raw=raw, layers=parsed)


def _require_model(document: Mapping[str, Any], *, digest: str) -> None:
    config = as_object(document.get("config")) or {}
    kind = document.get("artifactType") or config.get("mediaType")
    if document.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE or kind not in {
        ARTIFACT_TYPE,
        CONFIG_TYPE,
    }:
        msg = f"{digest} is {document.get('mediaType')} of {kind}, not a ModelPack manifest"
        raise UnsupportedArtifactError(msg)


def _parse_layer(value: object, *, digest: str) -> Layer:
    layer = as_object(value) or {}
    name = (as_object(layer.get("annotations")) or {}).get(FILEPATH_ANNOTATION)
    media_type, blob, size = layer.get("mediaType"), layer.get("digest"), layer.get("size")
    if (
        isinstance(media_type, str)
        and _LAYER_TYPES.fullmatch(media_type)
        and isinstance(name, str)
        and isinstance(blob, str)
        and is_digest(blob)
        and isinstance(size, int)
        and not isinstance(size, bool)
        and 0 <= size <= 1 << 50
    ):
        return Layer(name=name, digest=blob, size_bytes=size)
    msg = (
        f"the manifest {digest} has a layer that is not one raw file with a path, a sha256 digest "
        f"and a size: {str(value)[:200]}"
    )
    raise UnsupportedArtifactError(msg)
