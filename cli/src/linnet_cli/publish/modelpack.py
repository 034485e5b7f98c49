"""The documents of a model in a registry or a directory: manifest, config, index, attachment.

- ModelPack: one raw layer for each file, in the order of their names.
- The same files give the same digest, wherever and whenever they are published.

Source: CNCF ModelPack specification, `docs/spec.md`; OCI image specification 1.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet_agent.verify.manifest import (
    ARTIFACT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    EMPTY_TYPE,
    FILEPATH_ANNOTATION,
    INDEX_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    VARIANT_ANNOTATION,
    digest_of,
)
from linnet_cli.publish.statement import canonical_json, hash_model

EMPTY_CONFIG = b"{}"


@dataclass(frozen=True, slots=True)
class Packed:
    """A model that is ready to be published.

    Attributes:
        root: Where its files lie.
        files: Name to ``sha256:<hex>``.
        config: The config blob.
        manifest: Over all of it.
        bundle: Its signature; None: it has none.
        grants: Signed leaves to take it although its counter is low.
    """

    root: Path
    files: Mapping[str, str]
    config: bytes
    manifest: Mapping[str, Any]
    bundle: bytes | None
    grants: tuple[bytes, ...] = ()

    @property
    def bundles(self) -> tuple[bytes, ...]:
        """Return everything that is attached."""
        return (*(() if self.bundle is None else (self.bundle,)), *self.grants)

    @property
    def digest(self) -> str:
        """Return the digest of the manifest."""
        return digest_of(canonical_json(self.manifest))


def pack(model: Path, *, bundle: bytes | None) -> Packed:
    """Read a directory, or the one file.

    Raises:
        ContentRefusedError: It holds what a model may not hold.
        OSError: It cannot be read.
    """
    files = hash_model(model)
    root = model if model.is_dir() else model.parent
    layers = [
        {
            "mediaType": LAYER_TYPE,
            "digest": files[name],
            "size": (root / name).stat().st_size,
            "annotations": {FILEPATH_ANNOTATION: name},
        }
        for name in sorted(files)
    ]
    blobs = {"type": "layers", "diffIds": [layer["digest"] for layer in layers]}
    config = canonical_json({"descriptor": {}, "config": {}, "modelfs": blobs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": layers,
    }
    return Packed(root, files, config, manifest, bundle)


def build_index(variants: Mapping[str, Packed]) -> dict[str, Any]:
    """Return an index that names each model as a variant, in their order."""
    return {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            {
                "mediaType": MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "digest": packed.digest,
                "size": len(canonical_json(packed.manifest)),
                "annotations": {VARIANT_ANNOTATION: name},
            }
            for name, packed in variants.items()
        ],
    }


def build_attachment(bundle: bytes, *, to: Packed) -> dict[str, Any]:
    """Return the referrer that attaches a bundle to a manifest."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": {
            "mediaType": EMPTY_TYPE,
            "digest": digest_of(EMPTY_CONFIG),
            "size": len(EMPTY_CONFIG),
        },
        "layers": [{"mediaType": BUNDLE_TYPE, "digest": digest_of(bundle), "size": len(bundle)}],
        "subject": {
            "mediaType": MANIFEST_TYPE,
            "digest": to.digest,
            "size": len(canonical_json(to.manifest)),
        },
    }
