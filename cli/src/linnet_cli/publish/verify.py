"""``linnet verify``: what a node would say about a model, by the node's own code.

- A directory, a file, or an artifact at its source; of an artifact no model bytes are fetched.
- Against policies and a ceiling from files, or, without any policy, against one public key or one
  authority's certificates.
- Every step is told; refused ends with exit code 5 and a sentence that names the step that failed.
- With a key alone hardly anything is imported: the command is then little more than hashing.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from linnet_agent.errors import AgentError
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.manifest import digest_of
from linnet_agent.verify.signatures import Unproved, check_signatures
from linnet_agent.verify.signed_model import ModelVerdict, verify_model
from linnet_api.reasons import NodeReason
from linnet_cli.errors import CliError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.publish.bundles import count_bundles, find_bundles
from linnet_cli.publish.options import add_registry_options
from linnet_cli.publish.settings import read_clock
from linnet_cli.publish.statement import hash_model
from linnet_cli.publish.steps import Report, render, walk

_STEP_OF: Mapping[NodeReason, str] = {
    NodeReason.UNSIGNED: "bundle",
    NodeReason.MALFORMED_BUNDLE: "bundle",
    NodeReason.WRONG_MODEL_NAME: "name",
    NodeReason.COUNTER_TOO_LOW: "counter",
    NodeReason.CONTENT_NOT_SIGNED: "content",
    NodeReason.CONTENT_REFUSED: "content",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``verify`` takes."""
    parser.add_argument(
        "target", metavar="DIR|FILE|oci://...|https://...|file://...", help="the model"
    )
    parser.add_argument(
        "--policy",
        "--trust",
        action="append",
        type=Path,
        metavar="FILE",
        help="TrustPolicies, YAML; may repeat: judge as a node that has them",
    )
    parser.add_argument(
        "--ceiling", type=Path, metavar="FILE", help="a node's own trust.yaml, with --policy"
    )
    parser.add_argument(
        "--trusted-root",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a node's trusted_root.json, with --policy; may repeat (name: that of the file)",
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="one public key, PEM; no policy")
    parser.add_argument(
        "--cert-chain",
        action="append",
        type=Path,
        metavar="FILE",
        help="certificates of an authority, PEM; may repeat; no policy",
    )
    parser.add_argument(
        "--name",
        "--model",
        metavar="NS/NAME",
        help="the name under which it is to be served (default: the one that is signed)",
    )
    parser.add_argument(
        "--floor", type=int, metavar="N", help="lowest release counter that is taken"
    )
    parser.add_argument(
        "--bundle",
        action="append",
        type=Path,
        metavar="FILE",
        help="signature of a directory or file; may repeat (default: <model>.sigstore.json beside "
        "it, else model.sig in it)",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME",
        help="of an artifact with variants, the one that is wanted; may repeat, in order",
    )
    parser.add_argument(
        "--source", metavar="URL", help="judge a directory as if it came from there (oci://...)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Judge a model as a node would, and say so."""
    if [args.policy, args.key, args.cert_chain].count(None) != 2:
        msg = "give one of --policy, --key and --cert-chain: against what shall it be judged?"
        raise UsageError(msg)
    as_node = args.policy or args.ceiling or args.trusted_root or args.source
    as_node = bool(as_node) or "://" in args.target
    if as_node and args.cert_chain:
        msg = "--cert-chain judges a directory or a file alone: no policy can name certificates"
        raise UsageError(msg)
    try:
        report = _judge_as_node(args) if as_node else judge_without_policy(args)
    except AgentError as error:
        raise CliError(f"{error.reason}: {error}" if error.reason else str(error)) from error
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    print(render(report, output=args.output))
    return Exit.OK if report.allowed else Exit.REFUSED


def _judge_as_node(args: argparse.Namespace) -> Report:
    from linnet_cli.publish.as_node import judge_as_node  # noqa: PLC0415 - start-up

    return judge_as_node(args)


def judge_without_policy(args: argparse.Namespace) -> Report:
    """Judge a directory or a file against one key or one authority.

    Raises:
        CliError: Key or certificates cannot be used.
        OSError: Something cannot be read.
    """
    path = Path(args.target)
    path.stat()
    bundles, inside = find_bundles(path, args.bundle)
    signers, unproved = (_by_key if args.key is not None else _by_certificates)(args, bundles)
    verdict = verify_model(
        lambda: {name: one for name, one in hash_model(path).items() if name not in inside},
        payloads=list(signers),
        unproved=unproved,
        model=args.name,
        floor=args.floor,
    )
    return _report(verdict, path=path, bundles=bundles, signers=signers)


def _by_key(
    args: argparse.Namespace, bundles: Sequence[bytes]
) -> tuple[dict[bytes, str], list[Unproved]]:
    try:
        key = load_public_key(args.key.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{args.key}: {error}"
        raise CliError(msg) from error
    signed, unproved = check_signatures(bundles, keys=[key], keyless=None, artifact_digest=None)
    return {one.payload: f"key {key.key_id}" for one in signed}, unproved


def _by_certificates(
    args: argparse.Namespace, bundles: Sequence[bytes]
) -> tuple[dict[bytes, str], list[Unproved]]:
    from linnet_agent.verify.certificates import (  # noqa: PLC0415 - start-up
        check_certificates,
        load_authorities,
    )

    try:
        trusted = load_authorities([path.read_bytes() for path in args.cert_chain])
    except ValueError as error:
        msg = f"{args.cert_chain[0]}: {error}"
        raise CliError(msg) from error
    signed, unproved = check_certificates(bundles, trusted=trusted, at=read_clock())
    return {one.payload: f"{one.subject} ({one.certificate})" for one in signed}, unproved


def _report(
    verdict: ModelVerdict, *, path: Path, bundles: Sequence[bytes], signers: Mapping[bytes, str]
) -> Report:
    statement = verdict.statement
    digest = None if statement is None else statement.model_digest
    signer = next((who for payload, who in signers.items() if digest_of(payload) == digest), None)
    counter = None if statement is None else statement.counter
    steps = [
        ("found", str(path)),
        ("bundle", count_bundles(bundles)),
        ("signature", f"by {signer}"),
        ("name", "" if statement is None else statement.model),
        ("counter", "none" if counter is None else str(counter)),
        ("content", "" if statement is None else f"{len(statement.files)} files"),
    ]
    failed = _STEP_OF.get(verdict.reason, "signature") if verdict.reason else ""
    return Report(
        reason=str(verdict.reason),
        message=verdict.message,
        steps=walk(steps, failed=failed, because=verdict.message),
        facts={
            "model": None if statement is None else statement.model,
            "counter": counter,
            "signer": signer,
            "modelDigest": digest,
        },
    )
