"""The node's own verdict, on a publisher's machine: the same code, asked step by step.

- The verdict is that of ``linnet_agent.verify.artifact`` over all policies and the ceiling; nothing
  is decided here.
- What each policy says is that same verdict, asked with that policy alone.
"""

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from linnet_agent.errors import MalformedBundleError
from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.fetch.https import HttpsClient
from linnet_agent.fetch.oci import OciClient
from linnet_agent.fetch.patience import Retry
from linnet_agent.fetch.sources import Sources
from linnet_agent.fetch.variants import VariantChoice, read_capabilities
from linnet_agent.verify.artifact import Verified, needs_keyless, verify_artifact, verify_files
from linnet_agent.verify.ceiling import Ceiling, load_ceiling, parse_trust_policies
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.keyless import ChildVerifier
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.manifest import Artifact
from linnet_agent.verify.oms import parse_statement
from linnet_agent.verify.signatures import KeylessVerdict, KeylessVerifier
from linnet_agent.verify.voting import inline_roots
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import Authority, Key, Match, TrustPolicySpec
from linnet_cli.errors import CliError, UsageError
from linnet_cli.publish.bundles import count_bundles, find_bundles
from linnet_cli.publish.options import mirrors_of, read_credentials
from linnet_cli.publish.settings import read_clock
from linnet_cli.publish.statement import hash_model
from linnet_cli.publish.steps import Report, Step, walk

# Somebody is waiting: a node would be far more patient.
_IMPATIENT = Retry(attempts=3)

Policies = Mapping[str, TrustPolicySpec]
Ask = Callable[[Policies, Ceiling | None], Verified]

_STEP_OF: Mapping[NodeReason, str] = {
    NodeReason.UNSIGNED: "bundle",
    NodeReason.MALFORMED_BUNDLE: "bundle",
    NodeReason.BAD_SIGNATURE: "signature",
    NodeReason.CONTENT_NOT_SIGNED: "content",
    NodeReason.WRONG_MODEL_NAME: "name",
    NodeReason.COUNTER_TOO_LOW: "counter",
    NodeReason.NO_TRUST_POLICY: "policies",
    NodeReason.CEILING: "ceiling",
}
"""What is not here is a matter of signatures before a statement is known, of policies after."""


def judge_as_node(args: argparse.Namespace) -> Report:
    """Return what a node with these policies would say.

    Raises:
        CliError: Policies, roots or registry cannot be used.
        AgentError: The artifact cannot be had.
        OSError: Something cannot be read.
    """
    policies, ceiling = _policies(args), _ceiling(args.ceiling)
    specs = (*policies.values(), *(() if ceiling is None else ceiling.policies.values()))
    roots = {**_roots(args.trusted_root), **inline_roots(specs)}
    now = read_clock()
    keyless = _Remembering(ChildVerifier(roots, now=now)) if needs_keyless(specs) else None
    case = _of_artifact(args) if "://" in args.target else _of_path(args)
    model = args.name or _claimed_model(case.bundles)
    if not model:  # nobody says a name, so no policy can be chosen by it; it cannot be allowed
        policies = {name: _for_any(spec) for name, spec in policies.items()}

    def ask(policies: Policies, ceiling: Ceiling | None) -> Verified:
        return case.verify(
            expected_model=model,
            policies=policies,
            ceiling=ceiling,
            floor=args.floor,
            now=now,
            keyless=keyless,
            roots=roots,
        )

    verified = ask(policies, ceiling)
    judged = _policy_steps(policies, ask) if verified.decision.model is not None else []
    return _report(case, verified, judged, ceiling=ceiling)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is judged."""

    found: str
    bundles: Sequence[bytes]
    artifact_digest: str | None
    content: str
    """What has been compared, where it is as it was signed."""
    verify: Callable[..., Verified]


def _of_artifact(args: argparse.Namespace) -> _Case:
    artifact = asyncio.run(_fetch(args))
    return _Case(
        found=f"{artifact.digest}: {len(artifact.layers)} files",
        bundles=artifact.bundles,
        artifact_digest=artifact.digest,
        content="the manifest names the signed files and no other; their bytes were not fetched",
        verify=partial(verify_artifact, artifact),
    )


def _of_path(args: argparse.Namespace) -> _Case:
    path = Path(args.target)
    path.stat()
    bundles, inside = find_bundles(path, args.bundle)
    files = {name: digest for name, digest in hash_model(path).items() if name not in inside}
    return _Case(
        found=f"{path}: {len(files)} files",
        bundles=bundles,
        artifact_digest=None,
        content="every file is signed, and no other is there",
        verify=partial(
            verify_files,
            files,
            bundles=bundles,
            source=args.source or path.resolve().as_uri(),
            artifact_digest=None,
        ),
    )


async def _fetch(args: argparse.Namespace) -> Artifact:
    mirrors = mirrors_of(args)
    sources = Sources(
        {
            "oci": OciClient(mirrors=mirrors, credentials=read_credentials(), retry=_IMPATIENT),
            "https": HttpsClient(mirrors=mirrors, retry=_IMPATIENT),
            "file": DirectoryClient(roots=(Path("/"),)),
        }
    )
    accepts = VariantChoice(
        wanted=tuple(args.variant), capabilities=read_capabilities(), any_runtime=True
    )
    try:
        digest = await sources.resolve(args.target)
        return await sources.fetch_artifact(args.target, digest, accepts=accepts)
    finally:
        await sources.aclose()


def _policy_steps(policies: Policies, ask: Ask) -> list[Step]:
    steps: list[Step] = []
    for name, spec in sorted(policies.items()):
        decision = ask({name: spec}, None).decision
        if decision.allowed:
            steps.append(Step(f"policy {name}", "Passed", f"signed by {decision.signer}"))
        elif decision.reason is NodeReason.NO_TRUST_POLICY:
            steps.append(Step(f"policy {name}", "NotApplicable", "does not speak of this model"))
        else:
            steps.append(Step(f"policy {name}", "Failed", decision.message))
    return steps


def _report(
    case: _Case, verified: Verified, judged: Sequence[Step], *, ceiling: Ceiling | None
) -> Report:
    decision = verified.decision
    known = decision.model is not None
    failed = ""
    if not decision.allowed:
        failed = _STEP_OF.get(decision.reason, "policies" if known else "signature")
    steps = walk(
        [
            ("found", case.found),
            ("bundle", count_bundles(case.bundles)),
            ("signature", "verified"),
            ("content", case.content),
            ("name", decision.model or ""),
            ("counter", "none" if decision.counter is None else str(decision.counter)),
            ("policies", decision.signer or ""),
            ("ceiling", "allows it too" if ceiling is not None else "none is given"),
        ],
        failed=failed,
        because=decision.message,
        optional=("ceiling",) if ceiling is None else (),
    )
    before, after = steps[:-2], steps[-2:]
    reached = steps[5].outcome == "Passed"
    return Report(
        reason=str(decision.reason),
        message=decision.message,
        steps=(*before, *(judged if reached else ()), *after),
        facts={
            "model": decision.model,
            "counter": decision.counter,
            "signer": decision.signer,
            "policyHash": decision.policy_hash,
            "refusedBy": decision.refused_by,
            "modelDigest": verified.model_digest,
            "artifactDigest": case.artifact_digest,
        },
    )


def _policies(args: argparse.Namespace) -> dict[str, TrustPolicySpec]:
    if args.key is not None:
        return _policy_of_key(args.key)
    policies: dict[str, TrustPolicySpec] = {}
    for path in args.policy or ():
        try:
            found = parse_trust_policies(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{path}: {error}"
            raise CliError(msg) from error
        if both := policies.keys() & found.keys():
            msg = f"{path}: there are two policies {min(both)}"
            raise CliError(msg)
        policies |= found
    return policies


def _policy_of_key(path: Path) -> dict[str, TrustPolicySpec]:
    text = path.read_text(encoding="utf-8")
    try:
        load_public_key(text)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise CliError(msg) from error
    authority = Authority(name="key", key=Key(public_key_pem=text))
    return {path.name: TrustPolicySpec(authorities=(authority,))}


def _ceiling(path: Path | None) -> Ceiling | None:
    if path is None:
        return None
    ceiling = load_ceiling(path)
    if ceiling is None:
        msg = f"{path}: no such file"
        raise CliError(msg)
    return ceiling


def _roots(named: Sequence[str]) -> dict[str, bytes]:
    roots: dict[str, bytes] = {}
    for text in named:
        name, equals, path = text.partition("=")
        file = Path(path if equals else text)
        roots[name if equals else file.stem] = file.read_bytes()
    return roots


def _claimed_model(bundles: Sequence[bytes]) -> str:
    """Return the name that a bundle claims; whether that counts is for the verdict to say."""
    readable = False
    for raw in bundles:
        try:
            payload = parse_bundle(raw).payload
            readable = True
            return parse_statement(payload).model
        except MalformedBundleError:
            continue
    if readable:
        msg = "no bundle names a model: say with --name under which it is to be served"
        raise UsageError(msg)
    return ""


def _for_any(spec: TrustPolicySpec) -> TrustPolicySpec:
    return spec.model_copy(update={"match": Match()})


class _Remembering(KeylessVerifier):
    """Asks about each bundle once, however many policies there are."""

    def __init__(self, verifier: KeylessVerifier) -> None:
        self._verifier = verifier
        self._known: dict[bytes, KeylessVerdict] = {}

    def verify(self, bundles: Sequence[bytes]) -> Sequence[KeylessVerdict]:
        """Return one verdict for each bundle, in order."""
        new = [raw for raw in dict.fromkeys(bundles) if raw not in self._known]
        if new:
            self._known.update(zip(new, self._verifier.verify(new), strict=True))
        return [self._known[raw] for raw in bundles]
