"""What a source holds for one model: a manifest, the bundles beside it, perhaps an index above it.

- A manifest, an index: known by the sha256 of its bytes, computed here; what a registry calls it
  counts for nothing.
- One layer is one file, as it is, at the path that its annotation names: ModelPack's, KitOps' raw
  layers, ORAS' titles. Where two annotations name two paths, it is refused.
- Archives and compressed files are not read, and container images are not models.
- An index names variants of one model; a node takes one of them, and the index's digest names all.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
TITLE_ANNOTATION: Final = "org.opencontainers.image.title"
VARIANT_ANNOTATION: Final = "linnet.dev/variant"
ACCELERATOR_ANNOTATION: Final = "linnet.dev/accelerator"
DEFAULT_VARIANT: Final = "onnx"
"""Of an artifact that does not say."""

MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_VARIANTS: Final = 64
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_VARIANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PACK_TYPES: Final = re.compile(
    r"application/vnd\.(cncf\.model|kitops\.modelkit)\.[a-z.]+\.v1\.(?P<form>[a-z]+(\+[a-z]+)?)"
)
"""Layers whose media type says how the file is wrapped."""
_UNPACK_ANNOTATION: Final = "io.deis.oras.content.unpack"
"""ORAS: the layer is a directory, as a compressed tar."""
_IMAGE_CONFIG_TYPES: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_HOW_TO_PACK: Final = (
    "pack each file as a layer of its own: `linnet push`, `kit pack --use-model-pack` with raw "
    "layers, `modctl build --raw`, or `oras push` with files"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model, as the manifest names it."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one variant of a model is made of."""

    digest: str
    raw: bytes
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    sized: bool = True
    """False: a signed statement stands in for it, and says no sizes; they are 0."""

    @property
    def total_bytes(self) -> int:
        """Return the sum over all layers."""
        return sum(layer.size_bytes for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One entry of an index; what is not said is None and fits every node."""

    name: str
    digest: str
    arch: str | None = None
    os: str | None = None
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """One model in several variants."""

    digest: str
    raw: bytes
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest with the signature bundles that lie beside it; no model bytes.

    It can be kept (``verify.evidence``) and be rebuilt, so that what is active can be judged again
    without a network whenever trust changes.
    """

    source: str
    manifest: Manifest
    bundles: tuple[bytes, ...]
    index: Index | None = None
    """What the manifest was chosen from; it names the manifest's digest."""
    keys: tuple[str, ...] = ()
    """Of what was allowed once: the public keys, PEM, that had signed it. They are no authorities;
    a key that was revoked and has left the policies is known by them."""

    @property
    def digest(self) -> str:
        """Return the artifact digest, ``sha256:...``: of the index where there is one."""
        return self.manifest.digest if self.index is None else self.index.digest

    @property
    def digests(self) -> tuple[str, ...]:
        """Return every digest under which this artifact may be signed, or revoked."""
        return tuple(dict.fromkeys((self.digest, self.manifest.digest)))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the files."""
        return self.manifest.layers

    @property
    def variant(self) -> str:
        """Return the variant's name."""
        said = self.manifest.annotations.get(VARIANT_ANNOTATION, DEFAULT_VARIANT)
        entries = () if self.index is None else self.index.variants
        return next((one.name for one in entries if one.digest == self.manifest.digest), said)


def digest_of(content: bytes) -> str:
    """Return ``sha256:<hex>`` of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def is_digest(text: object) -> bool:
    """Return true where ``text`` is a sha256 digest, written as OCI writes it."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse_manifest(raw: bytes, *, digest: str) -> Manifest:
    """Read a model's manifest that shall have ``digest``.

    Raises:
        DigestMismatchError: The bytes have another digest.
        UnsupportedArtifactError: They are not a manifest of raw model files with safe names.
    """
    document = _parse(raw, digest=digest)
    _require_model(document, digest=digest)
    layers = as_list(document.get("layers"))
    if layers is None:
        msg = f"the manifest {digest} has no list of layers"
        raise UnsupportedArtifactError(msg)
    parsed = tuple(_parse_layer(layer, digest=digest) for layer in layers)
    if (fault := names_fault(layer.name for layer in parsed)) is not None:
        msg = f"the manifest {digest} is refused: {fault}"
        raise UnsupportedArtifactError(msg)
    annotations = _annotations(document)
    _variant_name(annotations, digest=digest)
    return Manifest(digest=digest, raw=raw, layers=parsed, annotations=annotations)


def parse_index(raw: bytes, *, digest: str) -> Index | None:
    """Read an index of variants that shall have ``digest``; None: it is something else.

    Raises:
        DigestMismatchError: The bytes have another digest.
        UnsupportedArtifactError: It is an index that cannot be used.
    """
    document = _parse(raw, digest=digest)
    if document.get("mediaType", INDEX_TYPE) != INDEX_TYPE or "manifests" not in document:
        return None
    entries = as_list(document["manifests"])
    if not entries or len(entries) > MAX_VARIANTS:
        msg = f"the index {digest} does not list 1 to {MAX_VARIANTS} variants"
        raise UnsupportedArtifactError(msg)
    variants = tuple(_parse_variant(entry, digest=digest) for entry in entries)
    return Index(digest=digest, raw=raw, variants=variants)


def _parse(raw: bytes, *, digest: str) -> dict[str, Any]:
    found = digest_of(raw)
    if found != digest:
        msg = f"the manifest that was to be {digest} is {found}"
        raise DigestMismatchError(msg)
    try:
        document = parse_json_object(raw, max_bytes=MAX_MANIFEST_BYTES)
    except ValueError as error:
        msg = f"the manifest {digest} is not readable: {error}"
        raise UnsupportedArtifactError(msg) from error
    if "manifests" in document and ("layers" in document or "config" in document):
        msg = f"{digest} is an index to one reader and a manifest to another"
        raise UnsupportedArtifactError(msg)
    return document


def _require_model(document: Mapping[str, Any], *, digest: str) -> None:
    if document.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:
        msg = f"{digest} is {document.get('mediaType')!r}, not an OCI image manifest"
        raise UnsupportedArtifactError(msg)
    config = (as_object(document.get("config")) or {}).get("mediaType")
    if (document.get("artifactType") or config) in {None, "", *_IMAGE_CONFIG_TYPES}:
        msg = f"{digest} is a container image, not a model; {_HOW_TO_PACK}"
        raise UnsupportedArtifactError(msg)


def _parse_layer(value: object, *, digest: str) -> Layer:
    layer = as_object(value) or {}
    annotations = _annotations(layer)
    media_type, blob, size = layer.get("mediaType"), layer.get("digest"), layer.get("size")
    paths = {annotations.get(FILEPATH_ANNOTATION), annotations.get(TITLE_ANNOTATION)} - {None}
    if (
        len(paths) == 1
        and isinstance(name := paths.pop(), str)
        and isinstance(media_type, str)
        and isinstance(blob, str)
        and is_digest(blob)
        and isinstance(size, int)
        and not isinstance(size, bool)
        and 0 <= size <= 1 << 50
    ):
        wrapped = _PACK_TYPES.fullmatch(media_type)
        if annotations.get(_UNPACK_ANNOTATION) == "true" or (wrapped and wrapped["form"] != "raw"):
            msg = f"the layer {name!r} of {digest} is an archive ({media_type}); {_HOW_TO_PACK}"
            raise UnsupportedArtifactError(msg)
        return Layer(name=name, digest=blob, size_bytes=size)
    msg = (
        f"the manifest {digest} has a layer that is not one raw file with a path, a sha256 digest "
        f"and a size: {str(value)[:200]}"
    )
    raise UnsupportedArtifactError(msg)


def _parse_variant(value: object, *, digest: str) -> Variant:
    entry = as_object(value) or {}
    annotations = _annotations(entry)
    blob, platform = entry.get("digest"), as_object(entry.get("platform", {}))
    if not isinstance(blob, str) or not is_digest(blob) or platform is None:
        msg = f"the index {digest} has an entry that is no manifest: {str(value)[:200]}"
        raise UnsupportedArtifactError(msg)
    if entry.get("mediaType") != MANIFEST_TYPE:
        msg = f"the index {digest} has an entry of {str(entry.get('mediaType'))[:100]}"
        raise UnsupportedArtifactError(msg)
    return Variant(
        name=_variant_name(annotations, digest=digest),
        digest=blob,
        arch=_word(platform.get("architecture")),
        os=_word(platform.get("os")),
        accelerator=annotations.get(ACCELERATOR_ANNOTATION),
    )


def _variant_name(annotations: Mapping[str, str], *, digest: str) -> str:
    name = annotations.get(VARIANT_ANNOTATION, DEFAULT_VARIANT)
    if not _VARIANT.fullmatch(name):
        msg = f"{digest} names a variant {name[:64]!r}, which is no name of a variant"
        raise UnsupportedArtifactError(msg)
    return name


def _annotations(document: Mapping[str, Any]) -> dict[str, str]:
    found = as_object(document.get("annotations")) or {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
