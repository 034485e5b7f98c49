"""``linnet sign``: name a model, count it, and sign every one of its files.

- The bundle lies beside the model, never in it.
- The same model, name, counter and key give the same bundle, byte for byte, where OpenSSL can.
- What was signed is read back with the node's own code before it is handed out.
- A grant is signed the same way, for a model that is signed already.
"""

import argparse
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from linnet_agent.errors import AgentError
from linnet_agent.verify.envelope import parse_bundle, signing_bytes
from linnet_agent.verify.grant import Grant, build_grant, parse_grant
from linnet_agent.verify.keys import key_id, load_public_key
from linnet_agent.verify.oms import parse_statement
from linnet_cli.errors import CliError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.publish.bundles import bundle_path, grant_path
from linnet_cli.publish.keys import load_private_key, make_signature
from linnet_cli.publish.statement import build_bundle, build_statement, hash_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``sign`` takes."""
    parser.add_argument("model_path", metavar="DIR_OR_FILE", type=Path, help="the model")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NS/NAME",
        help="name under which it may be served: <namespace>/<serving name>, as factory/defects",
    )
    parser.add_argument(
        "--counter",
        required=True,
        type=int,
        metavar="N",
        help="release counter; higher for every release, for nodes refuse to go back",
    )
    parser.add_argument(
        "--key", required=True, type=Path, metavar="FILE", help="private key (linnet keygen)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the bundle goes (default: beside the model, <model>.sigstore.json)",
    )

    grant = parser.add_argument_group(
        "grants",
        "leave for nodes to go back to a release that they would refuse as too old; "
        "push it with `linnet push --grant`",
    )
    grant.add_argument(
        "--grant",
        action="store_true",
        help="sign such a leave for the model that is signed already; its name and counter must "
        "be the ones given here",
    )
    grant.add_argument(
        "--not-after", metavar="TIME", help="when it ends, with a time zone: 2026-12-01T00:00:00Z"
    )
    grant.add_argument("--node", metavar="GLOB", help="for these nodes alone")


def run(args: argparse.Namespace) -> int:
    """Sign a model, or a grant for one, and write the bundle."""
    if args.grant is not (args.not_after is not None) or (args.node and not args.grant):
        msg = "--grant and --not-after go together; --node is for grants"
        raise UsageError(msg)
    return _run_grant(args) if args.grant else _run_model(args)


def _run_model(args: argparse.Namespace) -> int:
    output = args.output or bundle_path(args.model_path)
    if args.model_path.is_dir() and output.resolve().is_relative_to(args.model_path.resolve()):
        msg = f"{output} lies in the model: a bundle cannot sign itself"
        raise CliError(msg)
    try:
        key = args.key.read_bytes()
        bundle = sign_model(
            args.model_path, model=args.model, counter=args.counter, private_key_pem=key
        )
        output.write_bytes(bundle)
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    statement = parse_statement(parse_bundle(bundle).payload)
    print(f"signed {args.model} counter {args.counter}: {len(statement.files)} files, {output}")
    print(f"model digest {statement.model_digest}")
    return Exit.OK


def _run_grant(args: argparse.Namespace) -> int:
    output = args.output or grant_path(args.model_path)
    try:
        bundle = sign_grant(
            bundle_path(args.model_path).read_bytes(),
            model=args.model,
            counter=args.counter,
            not_after=args.not_after,
            node=args.node,
            private_key_pem=args.key.read_bytes(),
        )
        output.write_bytes(bundle)
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    where = f"on {args.node}" if args.node else "on every node"
    print(f"granted {args.model} counter {args.counter} {where} until {args.not_after}: {output}")
    return Exit.OK


def sign_grant(
    bundle: bytes,
    *,
    model: str,
    counter: int,
    not_after: str,
    node: str | None,
    private_key_pem: bytes,
) -> bytes:
    """Return a bundle that lets nodes take a signed model although its counter is too low.

    Args:
        bundle: The signature of the model.
        model: Its name, as it is signed.
        counter: Its release counter, as it is signed.
        not_after: When the grant ends: ISO 8601 with a time zone.
        node: A glob over names of nodes; None: every node.
        private_key_pem: The key of an authority that may sign such models.

    Raises:
        CliError: One of them cannot be used, or the model is signed otherwise.
    """
    key = load_private_key(private_key_pem)
    try:
        statement = parse_statement(parse_bundle(bundle).payload)
        if (statement.model, statement.counter) != (model, counter):
            signed = f"{statement.model} counter {statement.counter}"
            msg = f"the model is signed as {signed}, not as {model} counter {counter}"
            raise CliError(msg)
        ends = datetime.fromisoformat(not_after)
        if ends.tzinfo is None:
            msg = f"{not_after} has no time zone: write 2026-12-01T00:00:00Z"
            raise CliError(msg)
        payload = build_grant(Grant(model, statement.model_digest, counter, ends, node))
        parse_grant(payload)  # what a node would refuse is not handed out
    except ValueError as error:
        msg = f"{not_after} is not a time: write 2026-12-01T00:00:00Z"
        raise CliError(msg) from error
    except AgentError as error:
        msg = f"no grant can be made: {error}"
        raise CliError(msg) from error
    signature = make_signature(key, signing_bytes(payload))
    return build_bundle(payload, signature=signature, key_id=key_id(key.public_key()))


def sign_model(directory: Path, *, model: str, counter: int, private_key_pem: bytes) -> bytes:
    """Return an OMS bundle for the files of ``directory`` (or the one file).

    Args:
        directory: The model; only plain files.
        model: ``<namespace>/<serving name>``.
        counter: Release counter, 0 or more.
        private_key_pem: An EC key on P-256, P-384 or P-521.

    Raises:
        CliError: One of them cannot be used.
        OSError: The model cannot be read.
    """
    key = load_private_key(private_key_pem)
    try:
        payload = build_statement(hash_model(directory), model=model, counter=counter)
        bundle = build_bundle(
            payload,
            signature=make_signature(key, signing_bytes(payload)),
            key_id=key_id(key.public_key()),
        )
        parse_statement(parse_bundle(bundle).payload)  # what a node would refuse is not handed out
    except AgentError as error:
        msg = f"{directory} cannot be signed: {error}"
        raise CliError(msg) from error
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert load_public_key(public_pem.decode()).verifies(parse_bundle(bundle))
    return bundle
