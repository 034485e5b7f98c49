"""Judge an artifact before one byte of the model is fetched.

- Every layer of the manifest must be a signed file with the signed digest, and the other way round.
- Any bundle may satisfy, of at most 16: strangers can add bundles, and must not be able to block.
- Bundles over the same statement count together: that is how several authorities sign.
- Where none satisfies, the refusal of the bundle that came furthest is told.
- What an unverified bundle says is repeated nowhere but in a refusal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.ceiling import Ceiling
from linnet_agent.verify.directory import difference
from linnet_agent.verify.envelope import Bundle, parse_bundle
from linnet_agent.verify.keys import VerificationKey, load_public_key
from linnet_agent.verify.manifest import Artifact
from linnet_agent.verify.oms import Statement, parse_statement
from linnet_agent.verify.policy import (
    MAX_MESSAGE,
    REASON_ORDER,
    Decision,
    Facts,
    covers,
    decide,
    policy_hash,
    public_key_pems,
)
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

MAX_BUNDLES: Final = 16


@dataclass(frozen=True, slots=True)
class Verified:
    """A decision with what it rests on; ``statement`` and ``model_digest`` only where allowed."""

    decision: Decision
    statement: Statement | None
    model_digest: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class _Signed:
    """One payload with the ids of all keys that have verifiably signed it."""

    payload: bytes
    signed_by: frozenset[str]


def verify_artifact(
    artifact: Artifact,
    *,
    expected_model: str,
    policies: Mapping[str, TrustPolicySpec],
    ceiling: Ceiling | None,
    floor: int | None,
    now: datetime,
) -> Verified:
    """Decide whether the node may take ``artifact``; no I/O, milliseconds, never an exception.

    Args:
        artifact: Manifest and bundles, as they were fetched or kept.
        expected_model: ``<namespace>/<serving name>``.
        policies: The cluster's policies by name.
        ceiling: The node's own; None where it has none.
        floor: Lowest release counter that the node still takes; None: none yet.
        now: When it is decided.
    """
    return verify_files(
        {layer.name: layer.digest for layer in artifact.layers},
        bundles=artifact.bundles,
        source=artifact.source,
        artifact_digest=artifact.digest,
        expected_model=expected_model,
        policies=policies,
        ceiling=ceiling,
        floor=floor,
        now=now,
    )


def verify_files(
    files: Mapping[str, str],
    *,
    bundles: Sequence[bytes],
    source: str,
    artifact_digest: str | None,
    expected_model: str,
    policies: Mapping[str, TrustPolicySpec],
    ceiling: Ceiling | None,
    floor: int | None,
    now: datetime,
) -> Verified:
    """Decide about ``files`` (name to ``sha256:<hex>``), wherever they lie; see verify_artifact."""
    limits = None if ceiling is None else ceiling.policies
    asked = policy_hash(policies, limits)
    keys = _load_keys(public_key_pems([*policies.values(), *(limits or ())]))
    refusals: list[Decision] = []
    if not bundles:
        refusals.append(_refuse(NodeReason.UNSIGNED, "there is no signature bundle", asked))
    signed, unproved = _check_signatures(bundles[:MAX_BUNDLES], keys=keys.values())
    refusals.extend(_refuse(reason, message, asked) for reason, message in unproved)
    for candidate in signed:
        try:
            statement = parse_statement(candidate.payload)
        except MalformedBundleError as error:
            refusals.append(_refuse(NodeReason.MALFORMED_BUNDLE, str(error), asked))
            continue
        if (fault := difference(files, statement.files)) is not None:
            refusals.append(_refuse(NodeReason.CONTENT_NOT_SIGNED, fault, asked, of=statement))
            continue
        facts = Facts(
            source=source,
            expected_model=expected_model,
            model=statement.model,
            counter=statement.counter,
            files=tuple(sorted(statement.files)),
            model_digest=statement.model_digest,
            artifact_digest=artifact_digest,
            signed_by=candidate.signed_by,
            key_ids={pem: key.key_id for pem, key in keys.items()},
            floor=floor,
        )
        decision = decide(facts, policies=policies, ceiling=limits)
        if decision.allowed:
            return Verified(decision, statement, statement.model_digest, now)
        refusals.append(decision)
    if not any(covers(spec, model=expected_model, source=source) for spec in policies.values()):
        message = f"none of {len(policies)} policies covers {expected_model!r} from {source}"
        refusals.append(_refuse(NodeReason.NO_TRUST_POLICY, message, asked))
    telling = min(refusals, key=lambda decision: REASON_ORDER.index(decision.reason))
    return Verified(telling, None, None, now)


def _load_keys(pems: Iterable[str]) -> dict[str, VerificationKey]:
    keys: dict[str, VerificationKey] = {}
    for pem in sorted(pems):
        try:
            keys[pem] = load_public_key(pem)
        except ValueError:
            continue  # it never counts, and the decision says so
    return keys


def _check_signatures(
    bundles: Sequence[bytes], *, keys: Iterable[VerificationKey]
) -> tuple[list[_Signed], list[tuple[NodeReason, str]]]:
    trusted = {key.key_id: key for key in keys}
    signed: dict[bytes, frozenset[str]] = {}
    unproved: list[tuple[NodeReason, str]] = []
    for raw in bundles:
        try:
            bundle = parse_bundle(raw)
        except MalformedBundleError as error:
            unproved.append((NodeReason.MALFORMED_BUNDLE, str(error)))
            continue
        hinted = trusted.get(bundle.key_hint or "")
        candidates = [hinted] if hinted is not None else list(trusted.values())
        proof = next((key.key_id for key in candidates if key.verifies(bundle)), None)
        if proof is not None:
            signed[bundle.payload] = signed.get(bundle.payload, frozenset()) | {proof}
        else:
            unproved.append(_unproved(bundle, trusted=trusted))
    return [_Signed(payload, signed_by) for payload, signed_by in signed.items()], unproved


def _unproved(bundle: Bundle, *, trusted: Mapping[str, VerificationKey]) -> tuple[NodeReason, str]:
    if bundle.key_hint in trusted:
        return (
            NodeReason.BAD_SIGNATURE,
            f"the signature is not by key {bundle.key_hint}, which the bundle names: "
            "payload or signature was changed",
        )
    hint = "no key" if bundle.key_hint is None else f"key {bundle.key_hint[:64]!r}"
    return (
        NodeReason.UNTRUSTED_KEY,
        f"none of {len(trusted)} trusted keys has made the signature; the bundle names {hint}",
    )


def _refuse(
    reason: NodeReason, message: str, asked: str, *, of: Statement | None = None
) -> Decision:
    return Decision(
        allowed=False,
        reason=reason,
        message=message[:MAX_MESSAGE],
        signer=None,
        model=None if of is None else of.model,
        counter=None if of is None else of.counter,
        policy_hash=asked,
        refused_by="policy",
    )
