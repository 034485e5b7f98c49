"""``linnet push``: put a model and its signature into a registry, as nodes read them.

- ModelPack: one raw layer for each file, in the order of their names.
- The same files give the same artifact digest, wherever and whenever they are pushed.
- The bundle is attached before the tag moves: whoever follows the tag finds a signed model.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet_agent.errors import AgentError
from linnet_agent.fetch.credentials import Credential
from linnet_agent.fetch.references import parse_source
from linnet_agent.verify.directory import difference
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.manifest import (
    ARTIFACT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    EMPTY_TYPE,
    FILEPATH_ANNOTATION,
    LAYER_TYPE,
    MANIFEST_TYPE,
    digest_of,
)
from linnet_agent.verify.oms import parse_statement
from linnet_cli.errors import CliError
from linnet_cli.exits import Exit
from linnet_cli.publish.bundles import bundle_path
from linnet_cli.publish.options import add_registry_options, mirrors_of, read_credentials
from linnet_cli.publish.registry import RegistryWriter
from linnet_cli.publish.statement import canonical_json, hash_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``push`` takes."""
    parser.add_argument("model_path", metavar="DIR_OR_FILE", type=Path, help="the model")
    parser.add_argument(
        "--to", required=True, metavar="oci://HOST/REPOSITORY:TAG", help="where it goes"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="its signature (default: <model>.sigstore.json beside it, where that is there)",
    )
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Push a model and its bundle."""
    path = args.bundle or bundle_path(args.model_path)
    bundle: bytes | None = None
    try:
        if args.bundle is not None or path.exists():
            bundle = path.read_bytes()
            _require_match(args.model_path, bundle, path=path)
        digest = push_model(
            args.model_path,
            to=args.to,
            bundle=bundle,
            mirrors=mirrors_of(args),
            credentials=read_credentials(),
        )
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    print(f"pushed {args.to}{'' if bundle else ' without a signature: nodes will refuse it'}")
    print(f"artifact digest {digest}")
    return Exit.OK


def push_model(
    directory: Path,
    *,
    to: str,
    bundle: bytes | None,
    mirrors: Mapping[str, str],
    credentials: Mapping[str, Credential] | None = None,
) -> str:
    """Push the files of ``directory`` (or the one file) and return the artifact digest.

    Args:
        directory: The model.
        to: ``oci://host/repository:tag``.
        bundle: Its signature, attached as it is; None leaves the model unsigned.
        mirrors: Registry host to the address that stands in for it.
        credentials: Registry host to credential.

    Raises:
        CliError: The registry cannot be reached or says no; the model or ``to`` cannot be used.
        OSError: The model cannot be read.
    """
    try:
        reference = parse_source(to)
        files = hash_model(directory)
    except AgentError as error:
        msg = f"{directory} cannot be pushed to {to}: {error}"
        raise CliError(msg) from error
    if reference.digest is not None:
        msg = f"{to}: push to a tag; the digest is what comes of it"
        raise CliError(msg)
    root = directory if directory.is_dir() else directory.parent
    with RegistryWriter(reference, mirrors=mirrors, credentials=credentials) as registry:
        layers = []
        for name in sorted(files):
            registry.push_file(root / name, digest=files[name])
            layers.append(_layer(name, files[name], size=(root / name).stat().st_size))
        manifest = _manifest(layers, registry=registry)
        digest = registry.push_manifest(manifest)
        if bundle is not None:
            _attach(bundle, subject=manifest, digest=digest, registry=registry)
        registry.push_manifest(manifest, tag=reference.tag)
    return digest


def _require_match(model_path: Path, bundle: bytes, *, path: Path) -> None:
    try:
        signed = parse_statement(parse_bundle(bundle).payload).files
        fault = difference(hash_model(model_path), signed)
    except AgentError as error:
        msg = f"{path}: {error}"
        raise CliError(msg) from error
    if fault is not None:
        msg = f"{path} does not sign this model: {fault}; sign it again"
        raise CliError(msg)


def _layer(name: str, digest: str, *, size: int) -> dict[str, Any]:
    return {
        "mediaType": LAYER_TYPE,
        "digest": digest,
        "size": size,
        "annotations": {FILEPATH_ANNOTATION: name},
    }


def _manifest(layers: list[dict[str, Any]], *, registry: RegistryWriter) -> dict[str, Any]:
    config = canonical_json(
        {
            "descriptor": {},
            "config": {},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        }
    )
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": registry.push_blob(config),
            "size": len(config),
        },
        "layers": layers,
    }


def _attach(
    bundle: bytes, *, subject: Mapping[str, Any], digest: str, registry: RegistryWriter
) -> None:
    empty = b"{}"
    registry.push_blob(empty)
    registry.push_manifest(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": BUNDLE_TYPE,
            "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(empty), "size": len(empty)},
            "layers": [
                {
                    "mediaType": BUNDLE_TYPE,
                    "digest": registry.push_blob(bundle),
                    "size": len(bundle),
                }
            ],
            "subject": {
                "mediaType": MANIFEST_TYPE,
                "digest": digest,
                "size": len(canonical_json(subject)),
            },
        }
    )
