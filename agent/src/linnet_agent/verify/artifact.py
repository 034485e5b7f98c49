"""Judge an artifact before one byte of the model is fetched.

- Signed as OMS: every layer of the manifest must be a signed file with the signed digest, and the
  other way round. Signed by cosign: the manifest's digest is signed, and so are its layers.
- The name and counter of what cosign signed stand in the statement (``cosign sign -a``), else in
  the manifest's annotations.
- Any bundle may satisfy: strangers can add bundles, and must not be able to block.
- Bundles over the same statement count together: that is how several authorities sign.
- Of several statements that are allowed the one with the highest counter is taken; the order of the
  bundles never matters.
- Where none satisfies, the refusal of the bundle that came furthest is told.
- What an unverified bundle says is repeated nowhere but in a refusal.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.ceiling import Ceiling
from linnet_agent.verify.cosign import parse_cosign_statement
from linnet_agent.verify.directory import difference
from linnet_agent.verify.envelope import parse_bundle, parse_object
from linnet_agent.verify.grant import GRANT_TYPE, Grant, parse_grant
from linnet_agent.verify.keys import VerificationKey, load_public_key
from linnet_agent.verify.manifest import Artifact
from linnet_agent.verify.oms import PREDICATE_TYPE, Statement, parse_counter, parse_statement
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
from linnet_agent.verify.signatures import (
    KeylessVerifier,
    KeySigner,
    Proof,
    Signed,
    Unproved,
    check_signatures,
)
from linnet_agent.verify.voting import is_inline
from linnet_api.names import COUNTER_ANNOTATION, MODEL_ANNOTATION
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

MAX_BUNDLES: Final = 2048
"""As many as a client fetches: beside an artifact, and beside its index."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A decision with what it rests on; ``statement`` and ``model_digest`` only where allowed."""

    decision: Decision
    statement: Statement | None
    model_digest: str | None
    at: datetime
    proofs: tuple[Proof, ...] = ()
    """Every verified signature over the statement; their times have provably passed."""
    keys: tuple[str, ...] = ()
    """The public keys, PEM, of those that are by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is judged, and what lies beside it."""

    source: str
    expected_model: str
    files: Mapping[str, str]
    total_bytes: int | None
    digests: tuple[str, ...]
    """Of the manifest, and of the index above it."""
    annotations: Mapping[str, str]
    """Of the manifest."""
    bundles: Sequence[bytes]
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trust:
    """What it is judged by."""

    policies: Mapping[str, TrustPolicySpec]
    limits: Mapping[str, TrustPolicySpec] | None
    keyless: KeylessVerifier | None
    roots: Mapping[str, bytes]
    keys: Mapping[str, VerificationKey]
    floor: int | None
    now: datetime
    clock_trusted: bool

    @property
    def specs(self) -> tuple[TrustPolicySpec, ...]:
        return (*self.policies.values(), *(self.limits or {}).values())


def verify_artifact(
    artifact: Artifact,
    *,
    expected_model: str,
    policies: Mapping[str, TrustPolicySpec],
    ceiling: Ceiling | None,
    floor: int | None,
    now: datetime,
    clock_trusted: bool = True,
    keyless: KeylessVerifier | None = None,
    roots: Mapping[str, bytes] | None = None,
    node: str | None = None,
) -> Verified:
    """Decide whether the node may take ``artifact``; no I/O but the keyless verifier's child.

    It takes milliseconds (up to a second with keyless signatures) and never raises.

    Args:
        artifact: Manifest and bundles, as they were fetched or kept.
        expected_model: ``<namespace>/<serving name>``.
        policies: The cluster's policies by name.
        ceiling: The node's own; None where it has none.
        floor: Lowest release counter that the node still takes; None: none yet.
        now: When it is decided: known time.
        clock_trusted: False where ``now`` is only the latest time that is known to have passed.
        keyless: Verifies with ``roots``; asked only where a policy needs it. None: no root.
        roots: ``TrustStore.roots``: the node's own by name, and those that policies hold inline.
        node: The node's name, for grants that name one.
    """
    subject = _Subject(
        source=artifact.source,
        expected_model=expected_model,
        files={layer.name: layer.digest for layer in artifact.layers},
        total_bytes=artifact.manifest.total_bytes,
        digests=tuple(dict.fromkeys((artifact.manifest.digest, artifact.digest))),
        annotations=artifact.manifest.annotations,
        bundles=artifact.bundles,
        node=node,
    )
    trust = _trust(
        policies,
        ceiling,
        keyless,
        roots,
        floor,
        now,
        clock_trusted=clock_trusted,
        kept_keys=artifact.keys,
    )
    return _verify(subject, trust)


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
    keyless: KeylessVerifier | None = None,
    roots: Mapping[str, bytes] | None = None,
    total_bytes: int | None = None,
) -> Verified:
    """Decide about ``files`` (name to ``sha256:<hex>``), wherever they lie; see verify_artifact."""
    subject = _Subject(
        source=source,
        expected_model=expected_model,
        files=files,
        total_bytes=total_bytes,
        digests=() if artifact_digest is None else (artifact_digest,),
        annotations={},
        bundles=bundles,
        node=None,
    )
    return _verify(subject, _trust(policies, ceiling, keyless, roots, floor, now))


def needs_keyless(specs: Iterable[TrustPolicySpec]) -> bool:
    """Return true where a policy asks for what only the keyless verifier can prove.

    Identities, entries in a log, and the time of a signature.
    """
    return any(
        spec.signature.transparency_log == "Required"
        or spec.freshness.max_signature_age is not None
        or spec.revoked.identities
        or spec.revoked.certificates
        or any(one.keyless or (one.key and one.key.valid_for) for one in spec.authorities)
        for spec in specs
    )


def _trust(
    policies: Mapping[str, TrustPolicySpec],
    ceiling: Ceiling | None,
    keyless: KeylessVerifier | None,
    roots: Mapping[str, bytes] | None,
    floor: int | None,
    now: datetime,
    *,
    clock_trusted: bool = True,
    kept_keys: Sequence[str] = (),
) -> _Trust:
    limits = None if ceiling is None else ceiling.policies
    specs = (*policies.values(), *(limits or {}).values())
    return _Trust(
        policies=policies,
        limits=limits,
        keyless=keyless if needs_keyless(specs) else None,
        roots=roots or {},
        keys=_load_keys(public_key_pems(specs) | {*kept_keys}),
        floor=floor,
        now=now,
        clock_trusted=clock_trusted,
    )


def _verify(subject: _Subject, trust: _Trust) -> Verified:
    refusals: list[Decision] = []
    refuse = _Refuser(refusals, policy_hash(trust.policies, trust.limits, trust.roots))
    signed, unproved = check_signatures(
        subject.bundles[:MAX_BUNDLES],
        keys=list({key.key_id: key for key in trust.keys.values()}.values()),
        keyless=trust.keyless,
        artifact_digest=subject.digests[0] if subject.digests else None,
        index_digest=subject.digests[-1] if subject.digests else None,
    )
    for one in unproved:
        refuse(*_fact(one, subject, trust))
    grants = _grants(signed, trust, refuse)
    allowed: list[Verified] = []
    for candidate in (*signed, *_claimed(subject, trust)):
        if candidate.predicate_type == GRANT_TYPE:
            continue
        try:
            statement = _read(candidate, subject)
        except MalformedBundleError as error:
            refuse(NodeReason.MALFORMED_BUNDLE, str(error))
            continue
        if statement.model == "":
            refuse(NodeReason.WRONG_MODEL_NAME, _NAMELESS)
            continue
        if (fault := difference(subject.files, statement.files)) is not None:
            refuse(NodeReason.CONTENT_NOT_SIGNED, fault, of=statement)
            continue
        decision = decide(
            _facts(candidate, statement, subject, trust, grants),
            policies=trust.policies,
            ceiling=trust.limits,
            roots=trust.roots,
        )
        if decision.allowed:
            allowed.append(
                Verified(
                    decision,
                    statement,
                    statement.model_digest,
                    trust.now,
                    candidate.proofs,
                    _pems(candidate.proofs, trust.keys),
                )
            )
        else:
            refusals.append(decision)
    if allowed:
        return min(allowed, key=_preference)
    if not refusals:
        what = "signature of a model, only a grant" if subject.bundles else "signature bundle"
        refuse(NodeReason.UNSIGNED, f"there is no {what}")
    if not any(_covers(spec, subject) for spec in trust.policies.values()):
        message = (
            f"none of {len(trust.policies)} policies covers {subject.expected_model!r} from "
            f"{subject.source}"
        )
        refuse(NodeReason.NO_TRUST_POLICY, message)
    telling = min(refusals, key=lambda one: (REASON_ORDER.index(one.reason), one.message))
    return Verified(telling, None, None, trust.now)


def _preference(verified: Verified) -> tuple[int, str]:
    """Sort what is allowed: the highest counter first, then whatever is always the same."""
    counter = verified.decision.counter
    return (1 if counter is None else -counter), verified.model_digest or ""


def _covers(spec: TrustPolicySpec, subject: _Subject) -> bool:
    return covers(spec, model=subject.expected_model, source=subject.source)


def _load_keys(pems: Iterable[str]) -> dict[str, VerificationKey]:
    keys: dict[str, VerificationKey] = {}
    for pem in sorted(pems):
        try:
            keys[pem] = load_public_key(pem)
        except ValueError:
            continue  # it never counts, and the decision says so
    return keys


def _pems(proofs: Sequence[Proof], keys: Mapping[str, VerificationKey]) -> tuple[str, ...]:
    """Return the keys that have signed, each once."""
    ids = {proof.signer.key_id for proof in proofs if isinstance(proof.signer, KeySigner)}
    return tuple(
        sorted({key.key_id: pem for pem, key in keys.items() if key.key_id in ids}.values())
    )


def _fact(one: Unproved, subject: _Subject, trust: _Trust) -> tuple[NodeReason, str]:
    """Return why a bundle proves nothing; a root is not missing where nobody asks for one."""
    wanted = any(
        authority.keyless is not None
        for spec in trust.specs
        if _covers(spec, subject)
        for authority in spec.authorities
    )
    if one.reason is NodeReason.NO_TRUST_ROOT and not wanted:
        return NodeReason.UNTRUSTED_KEY, "it is signed keyless, and no policy counts identities"
    return one.reason, one.message


def _read(candidate: Signed, subject: _Subject) -> Statement:
    """Return what is signed, in either format.

    Raises:
        MalformedBundleError: It is neither.
    """
    if candidate.format != "Cosign":
        return parse_statement(candidate.payload)
    about = parse_cosign_statement(candidate.payload)
    said = {**subject.annotations, **about.annotations}
    named = candidate.payload
    if about.artifact_digest != subject.digests[0]:
        # Signed is the index, once for several models: they must not be one in the store.
        named += subject.digests[0].encode()
    return Statement(
        model=said.get(MODEL_ANNOTATION, ""),
        counter=parse_counter(said.get(COUNTER_ANNOTATION)),
        files=subject.files,
        model_digest="sha256:" + hashlib.sha256(named).hexdigest(),
    )


def _grants(
    signed: Sequence[Signed], trust: _Trust, refuse: "_Refuser"
) -> list[tuple[Grant, tuple[Proof, ...]]]:
    """Return the grants that are in force, with who has signed them."""
    grants: list[tuple[Grant, tuple[Proof, ...]]] = []
    for one in signed:
        if one.predicate_type != GRANT_TYPE:
            continue
        try:
            grant = parse_grant(one.payload)
        except MalformedBundleError as error:
            refuse(NodeReason.MALFORMED_BUNDLE, str(error))
            continue
        if trust.now <= grant.not_after:
            grants.append((grant, one.proofs))
    return grants


def _claimed(subject: _Subject, trust: _Trust) -> list[Signed]:
    """Return what is said to be signed with keys that are revoked and that no authority has.

    Their signatures cannot be checked, so they can only refuse: what a revoked key has signed shall
    be known as revoked although the key has left the policies.
    """
    known = {key.key_id for key in trust.keys.values()}
    gone = {key_id for spec in trust.specs for key_id in spec.revoked.key_ids} - known
    claimed: list[Signed] = []
    for raw in subject.bundles[:MAX_BUNDLES] if gone else ():
        try:
            bundle = parse_bundle(raw)
            if bundle.key_hint not in gone:
                continue
            predicate_type = parse_object(bundle.payload, what="the statement").get("predicateType")
        except MalformedBundleError:
            continue
        if predicate_type == PREDICATE_TYPE:
            proof = Proof(KeySigner(bundle.key_hint or ""), None, None)
            claimed.append(Signed("OMS", bundle.payload, PREDICATE_TYPE, (proof,)))
    return claimed


def _facts(
    candidate: Signed,
    statement: Statement,
    subject: _Subject,
    trust: _Trust,
    grants: Sequence[tuple[Grant, tuple[Proof, ...]]],
) -> Facts:
    digests = (statement.model_digest, *subject.digests)
    return Facts(
        source=subject.source,
        expected_model=subject.expected_model,
        model=statement.model,
        counter=statement.counter,
        files=tuple(sorted(statement.files)),
        total_bytes=subject.total_bytes,
        model_digest=statement.model_digest,
        artifact_digests=subject.digests,
        format=candidate.format,
        predicate_type=candidate.predicate_type,
        proofs=candidate.proofs,
        grants=tuple(
            proofs
            for grant, proofs in grants
            if grant.covers(
                model=statement.model,
                digests=digests,
                counter=statement.counter,
                node=subject.node,
            )
        ),
        key_ids={pem: key.key_id for pem, key in trust.keys.items()},
        node_roots=frozenset(name for name in trust.roots if not is_inline(name)),
        floor=trust.floor,
        now=trust.now,
        clock_trusted=trust.clock_trusted,
    )


_NAMELESS: Final = (
    "what is signed names no model: sign with `cosign sign -a linnet.dev/model=<namespace>/<name> "
    "-a linnet.dev/release-counter=<n>`, or push with these annotations on the manifest"
)


@dataclass(frozen=True, slots=True)
class _Refuser:
    """Notes refusals that no policy was asked about."""

    refusals: list[Decision]
    asked: str

    def __call__(self, reason: NodeReason, message: str, *, of: Statement | None = None) -> None:
        self.refusals.append(
            Decision(
                allowed=False,
                reason=reason,
                message=message[:MAX_MESSAGE],
                signer=None,
                model=None if of is None else of.model,
                counter=None if of is None else of.counter,
                policy_hash=self.asked,
                refused_by="policy",
            )
        )
