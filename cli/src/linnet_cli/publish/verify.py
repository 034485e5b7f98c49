"""``linnet verify``: what a node would say about a model, by the node's own code.

- A directory, a file, or an artifact in a registry; of an artifact no model bytes are fetched.
- Against policies (and a ceiling) from files, or against one public key.
- Refused ends with exit code 5 and one sentence that names the step that failed.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from linnet_agent.errors import AgentError
from linnet_agent.fetch.oci import OciClient, Retry
from linnet_agent.verify.artifact import Verified, verify_artifact, verify_files
from linnet_agent.verify.ceiling import Ceiling, load_ceiling, parse_trust_policies
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.manifest import Artifact
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import Authority, Key, TrustPolicySpec
from linnet_cli.errors import CliError
from linnet_cli.exits import Exit
from linnet_cli.publish.push import add_registry_options, mirrors_of, read_credentials
from linnet_cli.publish.settings import read_clock
from linnet_cli.publish.sign import bundle_path
from linnet_cli.publish.statement import hash_model

# Somebody is waiting: a node would be far more patient.
_IMPATIENT = Retry(attempts=3)

_STEPS: Mapping[NodeReason, str] = {
    NodeReason.UNSIGNED: "finding a signature",
    NodeReason.MALFORMED_BUNDLE: "reading the signature bundle",
    NodeReason.BAD_SIGNATURE: "checking the signature",
    NodeReason.UNTRUSTED_KEY: "finding a trusted signer",
    NodeReason.CONTENT_NOT_SIGNED: "comparing the files with those that were signed",
    NodeReason.WRONG_MODEL_NAME: "comparing the signed name",
    NodeReason.COUNTER_TOO_LOW: "comparing the release counter",
    NodeReason.NO_TRUST_POLICY: "finding a policy that covers the model",
    NodeReason.REVOKED: "looking for revocations",
    NodeReason.CONTENT_REFUSED: "checking what the model holds",
    NodeReason.CEILING: "asking the node's own ceiling",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``verify`` takes."""
    parser.add_argument("target", metavar="DIR_OR_FILE|oci://...", help="the model")
    parser.add_argument(
        "--model", required=True, metavar="NS/NAME", help="the name under which it is to be served"
    )
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--trust", type=Path, metavar="FILE", help="TrustPolicies, YAML")
    trust.add_argument("--key", type=Path, metavar="FILE", help="one public key, PEM")
    parser.add_argument("--ceiling", type=Path, metavar="FILE", help="a node's own trust.yaml")
    parser.add_argument(
        "--floor", type=int, metavar="N", help="lowest release counter that is taken"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="signature of a directory or file (default: <model>.sigstore.json beside it)",
    )
    parser.add_argument(
        "--source", metavar="URL", help="judge a directory as if it came from there (oci://...)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Judge a model as a node would, and say so."""
    try:
        policies = _policies(args)
        ceiling = load_ceiling(args.ceiling) if args.ceiling is not None else None
        if args.ceiling is not None and ceiling is None:
            msg = f"{args.ceiling}: no such file"
            raise CliError(msg)
        if args.target.startswith("oci://"):
            verified, digest = _verify_artifact(args, policies, ceiling)
        else:
            verified, digest = _verify_path(args, policies, ceiling), None
    except AgentError as error:
        raise CliError(_sentence(error)) from error
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CliError(msg) from error
    _show(verified, artifact_digest=digest, args=args)
    return Exit.OK if verified.decision.allowed else Exit.REFUSED


def _policies(args: argparse.Namespace) -> dict[str, TrustPolicySpec]:
    path: Path = args.trust or args.key
    text = path.read_text(encoding="utf-8")
    try:
        if args.trust is not None:
            return parse_trust_policies(text)
        load_public_key(text)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise CliError(msg) from error
    authority = Authority(name="key", key=Key(public_key_pem=text))
    return {path.name: TrustPolicySpec(authorities=(authority,))}


def _verify_artifact(
    args: argparse.Namespace, policies: Mapping[str, TrustPolicySpec], ceiling: Ceiling | None
) -> tuple[Verified, str]:
    async def fetch() -> Artifact:
        client = OciClient(
            mirrors=mirrors_of(args), credentials=read_credentials(), retry=_IMPATIENT
        )
        async with client:
            return await client.fetch_artifact(args.target, await client.resolve(args.target))

    artifact = asyncio.run(fetch())
    verified = verify_artifact(
        artifact,
        expected_model=args.model,
        policies=policies,
        ceiling=ceiling,
        floor=args.floor,
        now=read_clock(),
    )
    return verified, artifact.digest


def _verify_path(
    args: argparse.Namespace, policies: Mapping[str, TrustPolicySpec], ceiling: Ceiling | None
) -> Verified:
    path = Path(args.target)
    bundle = args.bundle or bundle_path(path)
    bundles = (bundle.read_bytes(),) if args.bundle is not None or bundle.exists() else ()
    return verify_files(
        hash_model(path),
        bundles=bundles,
        source=args.source or path.resolve().as_uri(),
        artifact_digest=None,
        expected_model=args.model,
        policies=policies,
        ceiling=ceiling,
        floor=args.floor,
        now=read_clock(),
    )


def _show(verified: Verified, *, artifact_digest: str | None, args: argparse.Namespace) -> None:
    decision = verified.decision
    if args.output == "json":
        document = {
            **asdict(decision),
            "model_digest": verified.model_digest,
            "artifact_digest": artifact_digest,
        }
        print(json.dumps({_camel(key): value for key, value in document.items()}, indent=2))
        return
    if not decision.allowed:
        step = _STEPS.get(decision.reason, "deciding")
        print(f"refused ({decision.reason}) when {step}: {decision.message}")
        return
    counter = "no release counter" if decision.counter is None else f"counter {decision.counter}"
    print(f"allowed: {decision.model}, {counter}, signed by {decision.signer}")
    print(f"model digest {verified.model_digest}")
    if artifact_digest is not None:
        print(f"artifact digest {artifact_digest}")


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _sentence(error: AgentError) -> str:
    return f"{error.reason}: {error}"
