"""``linnet push``: publish a model and its signature, as nodes read them.

- To a registry, or to a directory for a USB stick, a shared disk or a web server.
- The same files give the same artifact digest, wherever and whenever they are pushed.
- In a registry the bundle is attached before the tag moves: whoever follows the tag finds a signed
  model.
- Several variants are one artifact: each is signed by itself, and nodes take the one that they can
  run.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from linnet_agent.errors import AgentError
from linnet_agent.fetch.credentials import Credential
from linnet_agent.fetch.references import OciReference, parse_file_source, parse_source
from linnet_agent.verify.directory import difference
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.manifest import digest_of, parse_index
from linnet_agent.verify.oms import parse_statement
from linnet_cli.errors import CliError
from linnet_cli.exits import Exit
from linnet_cli.publish.bundles import bundle_path
from linnet_cli.publish.lay import lay_model, lay_variants
from linnet_cli.publish.modelpack import EMPTY_CONFIG, Packed, build_attachment, build_index, pack
from linnet_cli.publish.options import add_registry_options, mirrors_of, read_credentials
from linnet_cli.publish.registry import RegistryWriter
from linnet_cli.publish.statement import canonical_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``push`` takes."""
    parser.add_argument("model_path", metavar="DIR_OR_FILE", type=Path, nargs="?", help="the model")
    parser.add_argument(
        "--to",
        required=True,
        metavar="oci://HOST/REPOSITORY:TAG",
        help="where it goes; file:///DIRECTORY for a USB stick or a web server",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=DIR_OR_FILE",
        help="instead of the one model: a variant such as onnx-int8, in the order of preference; "
        "may repeat. Each has its signature beside it",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="its signature (default: <model>.sigstore.json beside it, where that is there)",
    )
    parser.add_argument(
        "--grant",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="attach a grant too (linnet sign --grant); may repeat",
    )
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Push a model and its bundle, or several as variants."""
    mirrors, credentials = mirrors_of(args), read_credentials()
    try:
        if args.variant:
            variants = {name: _read(path, bundle=None) for name, path in _variants_of(args).items()}
            unsigned = [name for name, packed in variants.items() if packed.bundle is None]
            digest = publish_variants(
                variants, to=args.to, mirrors=mirrors, credentials=credentials
            )
        elif args.model_path is None:
            msg = "name a model, or its variants with --variant NAME=DIR"
            raise CliError(msg)
        else:
            grants = tuple(path.read_bytes() for path in args.grant)
            packed = replace(_read(args.model_path, bundle=args.bundle), grants=grants)
            unsigned = [] if packed.bundle else [args.model_path.name]
            digest = publish(packed, to=args.to, mirrors=mirrors, credentials=credentials)
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    without = f", {', '.join(unsigned)} without a signature: nodes will refuse it"
    print(f"pushed {args.to}{without if unsigned else ''}")
    print(f"artifact digest {digest}")
    if args.to.startswith("file:"):
        print("in the ModelDeployment, with the path or address at which nodes find it:")
        print(f"  source: {args.to}")
        print(f"  digest: {digest}")
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
        to: ``oci://host/repository:tag``, or ``file:///directory``.
        bundle: Its signature, attached as it is; None leaves the model unsigned.
        mirrors: Registry host to the address that stands in for it.
        credentials: Registry host to credential.

    Raises:
        CliError: The registry cannot be reached or says no; the model or ``to`` cannot be used.
        OSError: The model cannot be read, or the directory not written.
    """
    packed = _pack(directory, bundle=bundle)
    return publish(packed, to=to, mirrors=mirrors, credentials=credentials)


def publish(
    packed: Packed,
    *,
    to: str,
    mirrors: Mapping[str, str],
    credentials: Mapping[str, Credential] | None = None,
) -> str:
    """Publish a model and return the artifact digest; see ``push_model``."""
    if (place := _directory_of(to)) is not None:
        lay_model(packed, at=place)
        return packed.digest
    reference = _tag_of(to)
    with RegistryWriter(reference, mirrors=mirrors, credentials=credentials) as registry:
        _push(packed, registry)
        return registry.push_manifest(packed.manifest, tag=reference.tag)


def publish_variants(
    variants: Mapping[str, Packed],
    *,
    to: str,
    mirrors: Mapping[str, str],
    credentials: Mapping[str, Credential] | None = None,
) -> str:
    """Publish models as variants of one artifact and return its digest.

    Args:
        variants: Name, such as ``onnx-int8``, to model; in the order of preference.
        to: As with ``push_model``.
        mirrors: Registry host to the address that stands in for it.
        credentials: Registry host to credential.

    Raises:
        CliError: As with ``push_model``; or a name is none.
        OSError: As with ``push_model``.
    """
    index = build_index(variants)
    content = canonical_json(index)
    try:
        parse_index(content, digest=digest_of(content))
    except AgentError as error:
        raise CliError(str(error)) from error
    if (place := _directory_of(to)) is not None:
        lay_variants(variants, at=place)
        return digest_of(content)
    reference = _tag_of(to)
    with RegistryWriter(reference, mirrors=mirrors, credentials=credentials) as registry:
        for packed in variants.values():
            _push(packed, registry)
        return registry.push_manifest(index, tag=reference.tag)


def _push(packed: Packed, registry: RegistryWriter) -> None:
    """Push a model under its digest alone, and attach its bundles."""
    for name in sorted(packed.files):
        registry.push_file(packed.root / name, digest=packed.files[name])
    registry.push_blob(packed.config)
    registry.push_manifest(packed.manifest)
    for bundle in packed.bundles:
        registry.push_blob(EMPTY_CONFIG)
        registry.push_blob(bundle)
        registry.push_manifest(build_attachment(bundle, to=packed))


def _directory_of(to: str) -> Path | None:
    """Return the directory that ``to`` names; None where it names a registry."""
    if to.startswith("https://"):
        msg = f"{to}: push to file:///DIRECTORY and upload what is in it"
        raise CliError(msg)
    try:
        return parse_file_source(to) if to.startswith("file:") else None
    except AgentError as error:
        raise CliError(str(error)) from error


def _tag_of(to: str) -> OciReference:
    try:
        reference = parse_source(to)
    except AgentError as error:
        raise CliError(str(error)) from error
    if reference.digest is not None:
        msg = f"{to}: push to a tag; the digest is what comes of it"
        raise CliError(msg)
    return reference


def _read(model: Path, *, bundle: Path | None) -> Packed:
    """Read a model and its bundle: the named one, or the one beside it where there is one."""
    path = bundle or bundle_path(model)
    content = path.read_bytes() if bundle is not None or path.exists() else None
    packed = _pack(model, bundle=content)
    if content is not None:
        _require_match(packed, content, path=path)
    return packed


def _pack(model: Path, *, bundle: bytes | None) -> Packed:
    try:
        return pack(model, bundle=bundle)
    except AgentError as error:
        msg = f"{model} cannot be pushed: {error}"
        raise CliError(msg) from error


def _require_match(packed: Packed, bundle: bytes, *, path: Path) -> None:
    try:
        fault = difference(packed.files, parse_statement(parse_bundle(bundle).payload).files)
    except AgentError as error:
        msg = f"{path}: {error}"
        raise CliError(msg) from error
    if fault is not None:
        msg = f"{path} does not sign this model: {fault}; sign it again"
        raise CliError(msg)


def _variants_of(args: argparse.Namespace) -> dict[str, Path]:
    if args.model_path is not None or args.bundle is not None or args.grant:
        msg = "either one model, or --variant for each; a variant's signature lies beside it"
        raise CliError(msg)
    variants: dict[str, Path] = {}
    for text in args.variant:
        name, equals, path = text.partition("=")
        if not equals or not path or name in variants:
            msg = f"--variant {text}: write NAME=DIR_OR_FILE, each name once"
            raise CliError(msg)
        variants[name] = Path(path)
    return variants
