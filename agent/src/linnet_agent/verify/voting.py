"""Who of a policy's authorities has signed: proofs in, votes out.

- A vote is a pair of a distinct authority and a distinct signer: one key or identity under two
  names is one, and so are two identities under one name.
- What a matching policy revokes is no vote in any: keys, certificates, identities.
- A signature counts at the time that is proved for it, else now; outside a key's validity it does
  not.
- A time, a log entry or an identity counts under roots that the policy believes alone: those it
  holds itself, and the node's. What one policy brings proves nothing to another.
- What stands against a signature is told, so that a refusal can say it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from linnet_agent.verify.signatures import IdentitySigner, KeySigner, Proof
from linnet_api.patterns import compile_glob, compile_regexp
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import Authority, Keyless, RevokedIdentity, TrustPolicySpec

_INLINE: Final = "sha256:"
_LAST: Final = "~"
"""Sorts behind every time: of two proofs of one signer the one with a time is told."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One policy, and what is known when its authorities are counted."""

    spec: TrustPolicySpec
    matching: Mapping[str, TrustPolicySpec]
    """By name, all policies that speak of the model: what one revokes is no vote in any."""
    key_ids: Mapping[str, str]
    """PEM text to key id; absent: unreadable."""
    node_roots: frozenset[str]
    """Names of the trusted roots that the node has of its own."""
    now: datetime
    clock_trusted: bool

    @property
    def counted(self) -> list[Authority]:
        """Return the authorities that count."""
        of = self.spec.require.of
        return [one for one in self.spec.authorities if not of or one.name in of]

    @property
    def roots(self) -> frozenset[str]:
        """Return the names of the trusted roots that the policy believes."""
        return self.node_roots | {_inline_name(r.trusted_root_json) for r in self.spec.trust_roots}


@dataclass(frozen=True, slots=True)
class Vote:
    """One authority for which one signer has signed."""

    authority: str
    proof: Proof

    def __str__(self) -> str:
        return _say(self.authority, self.proof)


@dataclass(frozen=True, slots=True)
class Objection:
    """What stands against a signature that is no vote."""

    reason: NodeReason
    message: str
    revoked_by: frozenset[str] = frozenset()
    """Names of the policies that revoke it."""


def inline_roots(specs: Iterable[TrustPolicySpec]) -> dict[str, bytes]:
    """Return the trusted roots that ``specs`` hold, each under a name that says what is in it.

    No root that a node has of its own can be called like that.
    """
    return {
        _inline_name(root.trusted_root_json): root.trusted_root_json.encode()
        for spec in specs
        for root in spec.trust_roots
    }


def is_inline(name: str) -> bool:
    """Return true where a trusted root of that name comes from a policy, and not from the node."""
    return name.startswith(_INLINE)


def count_votes(ballot: Ballot, proofs: Iterable[Proof]) -> tuple[list[Vote], list[Objection]]:
    """Return the votes, and what stands against signatures that are none."""
    found: dict[str, dict[str, Proof]] = {}
    objections: list[Objection] = []
    for proof in sorted((_as_believed(ballot, one) for one in proofs), key=proof_order):
        if (revoked := _revoked(ballot, proof)) is not None:
            objections.append(revoked)
            continue
        for authority in ballot.counted:
            if not _is_by(authority, proof, key_ids=ballot.key_ids):
                continue
            objection = _objection(ballot, authority, proof)
            if objection is None:
                found.setdefault(authority.name, {}).setdefault(_signer_id(proof), proof)
            else:
                objections.append(objection)
    pairs = _pair({name: list(signers) for name, signers in found.items()})
    return [Vote(name, found[name][signer]) for name, signer in sorted(pairs.items())], objections


def _as_believed(ballot: Ballot, proof: Proof) -> Proof:
    """Return the proof without a time that only somebody else's trusted root vouches for."""
    if isinstance(proof.signer, IdentitySigner) or proof.root in ballot.roots:
        return proof
    return Proof(proof.signer, None, None)


def _pair(candidates: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Give as many authorities as can be a signer of their own (Kuhn's algorithm)."""
    holder: dict[str, str] = {}

    def place(authority: str, seen: set[str]) -> bool:
        for signer in candidates[authority]:
            if signer in seen:
                continue
            seen.add(signer)
            if signer not in holder or place(holder[signer], seen):
                holder[signer] = authority
                return True
        return False

    for authority in candidates:
        place(authority, set())
    return {authority: signer for signer, authority in holder.items()}


def _is_by(authority: Authority, proof: Proof, *, key_ids: Mapping[str, str]) -> bool:
    signer = proof.signer
    if authority.key is not None:
        key_id = key_ids.get(authority.key.public_key_pem)
        return isinstance(signer, KeySigner) and signer.key_id == key_id
    return (
        authority.keyless is not None
        and isinstance(signer, IdentitySigner)
        and signer.issuer == authority.keyless.issuer
        and _is_subject(authority.keyless, signer.subject)
    )


def _is_subject(keyless: Keyless, subject: str) -> bool:
    if (keyless.identity is None) == (keyless.identity_regexp is None):
        return False
    if keyless.identity_regexp is None:
        return subject == keyless.identity
    try:
        return compile_regexp(keyless.identity_regexp).matches(subject)
    except ValueError:
        return False  # it never counts, and the decision says so


def _objection(ballot: Ballot, authority: Authority, proof: Proof) -> Objection | None:
    who = _say(authority.name, proof)
    if ballot.spec.signature.transparency_log == "Required" and proof.log_index is None:
        return Objection(
            NodeReason.UNTRUSTED_KEY,
            f"no transparency log proves the signature of {who} (signature.transparencyLog)",
        )
    if authority.key is not None and authority.key.valid_for is not None:
        start, end = authority.key.valid_for.start, authority.key.valid_for.end
        at = proof.signed_at or ballot.now
        waits = proof.signed_at is None and not ballot.clock_trusted
        if start is not None and at < start:
            return Objection(
                NodeReason.CLOCK_UNTRUSTED if waits else NodeReason.UNTRUSTED_KEY,
                f"{who} counts from {_rfc3339(start)}, and it is {_rfc3339(at)}"
                f"{' by a clock that is not trusted' * waits} (validFor)",
            )
        if end is not None and at > end:
            return Objection(
                NodeReason.UNTRUSTED_KEY, f"{who} counted until {_rfc3339(end)} (validFor)"
            )
    if authority.keyless is not None and isinstance(proof.signer, IdentitySigner):
        return _object_identity(ballot, authority.keyless, proof.signer, who=who)
    return None


def _object_identity(
    ballot: Ballot, keyless: Keyless, signer: IdentitySigner, *, who: str
) -> Objection | None:
    root = _root_of(ballot, keyless)
    if root is None:
        return Objection(NodeReason.NO_TRUST_ROOT, f"{who} does not count: {_root_fault(keyless)}")
    if signer.root != root:
        return Objection(
            NodeReason.UNTRUSTED_KEY, f"{who} is not vouched for by the trusted root that counts"
        )
    for claim, wanted in sorted(keyless.claims.items()):
        if signer.claims.get(claim) != wanted:
            return Objection(
                NodeReason.UNTRUSTED_KEY,
                f"the certificate of {who} says {signer.claims.get(claim)!r} as {claim}, not "
                f"{wanted!r} (claims)",
            )
    return None


def _root_of(ballot: Ballot, keyless: Keyless) -> str | None:
    """Return the name of the root that vouches for an authority: the policy's, else the node's."""
    inline = {r.name: _inline_name(r.trusted_root_json) for r in ballot.spec.trust_roots}
    own = {name: name for name in ballot.node_roots}
    if keyless.trust_root is not None:
        return (own | inline).get(keyless.trust_root)
    candidates = inline or own
    return next(iter(candidates.values())) if len(candidates) == 1 else None


def _root_fault(keyless: Keyless) -> str:
    if keyless.trust_root is not None:
        return f"the trusted root {keyless.trust_root!r} is neither in the policy nor on the node"
    return "there is no trusted root, or several and keyless.trustRoot names none"


def _revoked(ballot: Ballot, proof: Proof) -> Objection | None:
    by = frozenset(name for name, spec in ballot.matching.items() if _revokes(spec, proof))
    if not by:
        return None
    return Objection(
        NodeReason.REVOKED,
        f"{_signer_text(proof)} is revoked by {', '.join(sorted(by))}",
        revoked_by=by,
    )


def _revokes(spec: TrustPolicySpec, proof: Proof) -> bool:
    signer, revoked = proof.signer, spec.revoked
    if isinstance(signer, KeySigner):
        return signer.key_id in revoked.key_ids
    return signer.certificate in revoked.certificates or any(
        _revokes_identity(one, signer, proof) for one in revoked.identities
    )


def _revokes_identity(one: RevokedIdentity, signer: IdentitySigner, proof: Proof) -> bool:
    named = one.issuer == signer.issuer and compile_glob(one.subject).matches(signer.subject)
    if one.not_after is None or proof.signed_at is None:
        return named
    return named and proof.signed_at > one.not_after


# --- words ----------------------------------------------------------------------------------------


def unusable(ballot: Ballot) -> str:
    """Return which authorities can never count as they stand."""
    keys = [
        authority.name
        for authority in ballot.counted
        if authority.key is not None and authority.key.public_key_pem not in ballot.key_ids
    ]
    keyless = [(one.name, one.keyless) for one in ballot.counted if one.keyless is not None]
    rootless = [name for name, one in keyless if _root_of(ballot, one) is None]
    odd = [name for name, one in keyless if not _is_usable(one)]
    said = {
        "keys that cannot be read": keys,
        "without a trusted root": rootless,
        "identities that cannot be read": odd,
    }
    return "".join(f" ({what}: {', '.join(names)})" for what, names in said.items() if names)


def _is_usable(keyless: Keyless) -> bool:
    if (keyless.identity is None) == (keyless.identity_regexp is None):
        return False
    try:
        compile_regexp(keyless.identity_regexp or "")
    except ValueError:
        return False
    return True


def _say(authority: str, proof: Proof) -> str:
    parts = [_signer_text(proof)]
    if proof.signed_at is not None:
        parts.append(f"signed {_rfc3339(proof.signed_at)}")
    if proof.log_index is not None:
        parts.append(f"log entry {proof.log_index}")
    return f"{authority} ({', '.join(parts)})"


def _signer_text(proof: Proof) -> str:
    signer = proof.signer
    if isinstance(signer, KeySigner):
        return f"key {signer.key_id}"
    return f"{signer.subject} by {signer.issuer}"


def _signer_id(proof: Proof) -> str:
    """Return what makes a signer one and the same, whatever certificate it has today."""
    signer = proof.signer
    if isinstance(signer, KeySigner):
        return f"key {signer.key_id}"
    return json.dumps(["identity", signer.issuer, signer.subject])


def proof_order(proof: Proof) -> tuple[str, ...]:
    """Return what sorts proofs one way, whatever order they came in."""
    signer = proof.signer
    signed_at = _LAST if proof.signed_at is None else proof.signed_at.isoformat()
    order = (_signer_id(proof), signed_at, f"{proof.log_index}", proof.root or "")
    if isinstance(signer, KeySigner):
        return order
    return *order, signer.root, signer.certificate, *map(str, sorted(signer.claims.items()))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _inline_name(trusted_root_json: str) -> str:
    return _INLINE + hashlib.sha256(trusted_root_json.encode()).hexdigest()
