"""Who has verifiably signed what: bundles in, payloads with their signers out.

- A payload counts with everyone who signed exactly its bytes, in however many bundles.
- Strangers can add bundles and must not be able to block: those that name a trusted key are looked
  at first, and of those the smallest.
- A bundle that cannot be proved is told, and is nothing else.
- Nothing that comes from outside raises; time and number are bounded.
- What cosign has signed for another artifact is not a signature of this one.
- An entry in a transparency log adds a time to a key's signature, and takes nothing away; under
  whose trusted root it is good stays with it, for not everybody believes every root.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify import cosign, oms
from linnet_agent.verify.envelope import Bundle, Method, parse_bundle, parse_object
from linnet_agent.verify.keys import VerificationKey
from linnet_api.reasons import NodeReason

MAX_ASKED: Final = 2048
"""Bundles that the keyless verifier sees; as many as a client fetches, 1 to 5 ms each."""
KEYS_BUDGET_S: Final = 10.0
"""A check by key takes 0.1 ms."""

Format = Literal["OMS", "Cosign", "Other"]


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Whoever holds a key."""

    key_id: str
    """Hex sha256 of the PEM text."""


@dataclass(frozen=True, slots=True)
class IdentitySigner:
    """Whoever an issuer vouched for, by a certificate of a sigstore instance."""

    issuer: str
    subject: str
    root: str
    """Name of the trusted root under which it was verified."""
    certificate: str
    """Hex sha256 of the DER certificate."""
    claims: Mapping[str, str] = field(hash=False)
    """What the issuer said besides; Fulcio's extensions by their documented names."""


Signer = KeySigner | IdentitySigner


@dataclass(frozen=True, slots=True)
class Proof:
    """One verified signature."""

    signer: Signer
    signed_at: datetime | None
    """Verified time; None for a key without a log entry or timestamp that was verified."""
    log_index: int | None
    root: str | None = None
    """Of a key: name of the trusted root under which time and log entry were verified."""


@dataclass(frozen=True, slots=True)
class Signed:
    """One payload, and everyone who has verifiably signed exactly it."""

    format: Format
    payload: bytes
    predicate_type: str
    proofs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class Unproved:
    """A bundle that proves nothing, and why."""

    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class Identified:
    """A keyless bundle is good: one proof for each trusted root under which it is."""

    proofs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log has seen a signature by the key with this hash over what the bundle holds."""

    spki_hash: str
    signed_at: datetime
    log_index: int
    root: str
    """Name of the trusted root under which it was verified."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A bundle by a key is good: one entry for each trusted root under which a log has it."""

    entries: tuple[LogEntry, ...]

    def proofs(self, key: VerificationKey) -> tuple[Proof, ...]:
        """Return what the entries prove of a signature by ``key``."""
        return tuple(
            Proof(KeySigner(key.key_id), one.signed_at, one.log_index, one.root)
            for one in self.entries
            if one.spki_hash == key.spki_hash
        )


KeylessVerdict = Identified | Logged | Unproved


_NO_ROOT: Final = Unproved(
    NodeReason.NO_TRUST_ROOT,
    "it is signed keyless, and this node has no trusted root to judge that by",
)
_TOO_MANY: Final = Unproved(NodeReason.UNTRUSTED_KEY, "there are too many bundles to look at all")
_NO_IDENTITY: Final = Unproved(NodeReason.BAD_SIGNATURE, "its certificate names nobody")
_CHAIN: Final = Unproved(
    NodeReason.UNTRUSTED_KEY,
    "it is signed under a chain of certificates; nodes trust keys and keyless identities",
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    raw: bytes
    bundle: Bundle


class KeylessVerifier(Protocol):
    """Verifies what needs a trusted root: certificates, logs, timestamps."""

    def verify(self, bundles: Sequence[bytes]) -> Sequence[KeylessVerdict]:
        """Return one verdict for each bundle, in order; never raises."""
        ...


def check_signatures(
    bundles: Sequence[bytes],
    *,
    keys: Sequence[VerificationKey],
    keyless: KeylessVerifier | None,
    artifact_digest: str | None,
    index_digest: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[Signed], list[Unproved]]:
    """Return what is verifiably signed by whom, and what each other bundle lacks.

    Args:
        bundles: As they were fetched, by whomever.
        keys: Whose signatures count.
        keyless: Verifies keyless bundles and log entries; None where there is no trusted root.
        artifact_digest: Of the manifest beside which the bundles lay; what cosign signs.
        index_digest: Of the index that names the manifest, where there is one; or that.
        clock: Monotonic seconds.
    """
    candidates, unproved = _read(bundles)
    by_key, refused = _check_keys(candidates, keys, clock=clock)
    vouched = [one for one in candidates if one.bundle.method is Method.KEYLESS]
    logged = [one for one, _ in by_key if one.bundle.logged]
    verdicts = _ask([*logged, *vouched][:MAX_ASKED], keyless)
    unproved += refused
    proofs: dict[bytes, list[Proof]] = {}
    for one, key in by_key:
        proofs.setdefault(one.bundle.payload, []).extend(key_proofs(key, verdicts.get(one.raw)))
    for one in vouched:
        verdict = verdicts.get(one.raw, _NO_ROOT if keyless is None else _TOO_MANY)
        if isinstance(verdict, Identified):
            proofs.setdefault(one.bundle.payload, []).extend(verdict.proofs)
        else:
            unproved.append(verdict if isinstance(verdict, Unproved) else _NO_IDENTITY)
    unproved += [_CHAIN for one in candidates if one.bundle.method is Method.CERTIFICATES]
    signed: list[Signed] = []
    for payload, by in proofs.items():
        outcome = _signed(
            payload, tuple(dict.fromkeys(by)), digests=(artifact_digest, index_digest)
        )
        if isinstance(outcome, Signed):
            signed.append(outcome)
        else:
            unproved.append(outcome)
    return signed, unproved


def key_proofs(key: VerificationKey, verdict: KeylessVerdict | None) -> tuple[Proof, ...]:
    """Return what a signature by ``key`` proves, with what was said of its log entry."""
    logged = verdict.proofs(key) if isinstance(verdict, Logged) else ()
    return logged or (Proof(KeySigner(key.key_id), None, None),)


def _read(bundles: Sequence[bytes]) -> tuple[list[_Candidate], list[Unproved]]:
    candidates: list[_Candidate] = []
    unproved: list[Unproved] = []
    for raw in dict.fromkeys(bundles):
        try:
            candidates.append(_Candidate(raw, parse_bundle(raw)))
        except MalformedBundleError as error:
            unproved.append(Unproved(NodeReason.MALFORMED_BUNDLE, str(error)))
    return candidates, unproved


def _check_keys(
    candidates: Sequence[_Candidate],
    keys: Sequence[VerificationKey],
    *,
    clock: Callable[[], float],
) -> tuple[list[tuple[_Candidate, VerificationKey]], list[Unproved]]:
    hinted = {hint: key for key in keys for hint in key.hints}
    by_key = [one for one in candidates if one.bundle.method is Method.KEY]
    by_key.sort(key=lambda one: (one.bundle.key_hint not in hinted, len(one.raw)))
    good: list[tuple[_Candidate, VerificationKey]] = []
    unproved: list[Unproved] = []
    deadline = clock() + KEYS_BUDGET_S
    for one in by_key:
        if clock() > deadline:
            unproved.append(_TOO_MANY)
            break
        named = hinted.get(one.bundle.key_hint or "")
        tried = keys if named is None else [named]
        key = next((key for key in tried if key.verifies(one.bundle)), None)
        if key is not None:
            good.append((one, key))
        else:
            unproved.append(_not_by_key(one.bundle, named=named, tried=len(keys)))
    return good, unproved


def _not_by_key(bundle: Bundle, *, named: VerificationKey | None, tried: int) -> Unproved:
    if named is not None:
        return Unproved(
            NodeReason.BAD_SIGNATURE,
            f"the signature is not by key {named.key_id}, which the bundle names: "
            "payload or signature was changed",
        )
    hint = "no key" if bundle.key_hint is None else f"key {bundle.key_hint[:64]!r}"
    return Unproved(
        NodeReason.UNTRUSTED_KEY,
        f"the signature is by no key that is trusted here (of {tried}); the bundle names {hint}",
    )


def _ask(
    candidates: Sequence[_Candidate], keyless: KeylessVerifier | None
) -> dict[bytes, KeylessVerdict]:
    if keyless is None or not candidates:
        return {}
    asked = [one.raw for one in candidates]
    return dict(zip(asked, keyless.verify(asked), strict=True))


def _signed(
    payload: bytes, proofs: tuple[Proof, ...], *, digests: tuple[str | None, ...]
) -> Signed | Unproved:
    try:
        predicate_type = parse_object(payload, what="the statement").get("predicateType")
        if predicate_type != cosign.PREDICATE_TYPE:
            kind: Format = "OMS" if predicate_type == oms.PREDICATE_TYPE else "Other"
            return Signed(kind, payload, str(predicate_type), proofs)
        about = cosign.parse_cosign_statement(payload).artifact_digest
    except MalformedBundleError as error:
        return Unproved(NodeReason.MALFORMED_BUNDLE, str(error))
    if about not in digests:
        return Unproved(
            NodeReason.CONTENT_NOT_SIGNED,
            f"it is signed for another artifact: {about}, not {digests[0]}",
        )
    return Signed("Cosign", payload, cosign.PREDICATE_TYPE, proofs)
