"""Whether a node may take a model: facts in, a decision out, nothing else.

- The signed name must be the one under which the model shall be served.
- Of the cluster's policies at least one must match, and all that match must allow.
- The node's own ceiling, where it has one, must allow as well; it can only take away.
- A policy counts distinct keys: one key under two names is one authority.
- What is revoked is refused, whoever signed it.
- A release counter below the node's floor is refused; the floor itself is allowed.
- Keyless authorities never count yet.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import Authority, TrustPolicySpec

REASON_ORDER: Final[tuple[NodeReason, ...]] = (
    NodeReason.REVOKED,
    NodeReason.COUNTER_TOO_LOW,
    NodeReason.CEILING,
    NodeReason.WRONG_MODEL_NAME,
    NodeReason.CONTENT_REFUSED,
    NodeReason.CONTENT_NOT_SIGNED,
    NodeReason.NO_TRUST_POLICY,
    NodeReason.CLOCK_UNTRUSTED,
    NodeReason.BAD_SIGNATURE,
    NodeReason.UNTRUSTED_KEY,
    NodeReason.NO_TRUST_ROOT,
    NodeReason.MALFORMED_BUNDLE,
    NodeReason.UNSIGNED,
)
"""The most telling reason first: the further a bundle came, the more its refusal says."""

MAX_MESSAGE: Final = 2048
MAX_SIGNER: Final = 512
"""What the status of a NodeModel holds."""

RefusedBy = Literal["", "policy", "ceiling"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known for certain about one model: its statement and who has signed it."""

    source: str
    expected_model: str
    """The name under which it shall be served: ``<namespace>/<serving name>``."""
    model: str
    counter: int | None
    files: tuple[str, ...]
    model_digest: str
    artifact_digest: str | None
    signed_by: frozenset[str]
    """Ids of the keys whose signature over exactly this statement was verified."""
    key_ids: Mapping[str, str]
    """PEM text to key id, of every key that policies and ceiling name; absent: unreadable."""
    floor: int | None
    """The lowest release counter that this node still takes; None: none yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """May it be activated, and if not, why."""

    allowed: bool
    reason: NodeReason
    """``NONE`` where allowed."""
    message: str
    signer: str | None
    """``release (key 0123abcd...)``; authority and key id of who made it allowed."""
    model: str | None
    counter: int | None
    policy_hash: str
    refused_by: RefusedBy = ""
    """The ceiling's own revocation is told from the hub's by this."""


@dataclass(frozen=True, slots=True)
class _Finding:
    reason: NodeReason
    message: str
    signer: str | None = None


def decide(
    facts: Facts,
    *,
    policies: Mapping[str, TrustPolicySpec],
    ceiling: Sequence[TrustPolicySpec] | None,
) -> Decision:
    """Decide about one signed model.

    Args:
        facts: What is known for certain.
        policies: The cluster's policies by name.
        ceiling: The node's own policies; None where it has none. An empty one allows nothing.
    """
    asked = policy_hash(policies, ceiling)
    finding = _judge_name_and_counter(facts) or _judge_all(facts, policies)
    refused_by: RefusedBy = "policy"
    if finding.reason is NodeReason.NONE and ceiling is not None:
        named = {f"ceiling[{position}]": spec for position, spec in enumerate(ceiling)}
        limit = _judge_all(facts, named)
        if limit.reason is not NodeReason.NONE:
            message = f"the node's own ceiling refuses ({limit.reason}): {limit.message}"
            finding, refused_by = _Finding(NodeReason.CEILING, message), "ceiling"
    allowed = finding.reason is NodeReason.NONE
    return Decision(
        allowed=allowed,
        reason=finding.reason,
        message=finding.message[:MAX_MESSAGE],
        signer=None if finding.signer is None else finding.signer[:MAX_SIGNER],
        model=facts.model,
        counter=facts.counter,
        policy_hash=asked,
        refused_by="" if allowed else refused_by,
    )


def policy_hash(
    policies: Mapping[str, TrustPolicySpec], ceiling: Sequence[TrustPolicySpec] | None
) -> str:
    """Return 64 hex characters that change whenever the trust that is asked changes."""
    document = {
        "policies": {name: spec.to_dict() for name, spec in policies.items()},
        "ceiling": None if ceiling is None else [spec.to_dict() for spec in ceiling],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def covers(spec: TrustPolicySpec, *, model: str, source: str) -> bool:
    """Return true where ``spec`` speaks of this model from this source."""
    return _any_glob(spec.match.models, model) and _any_glob(spec.match.sources, source)


def public_key_pems(specs: Iterable[TrustPolicySpec]) -> frozenset[str]:
    """Return the PEM text of every key that ``specs`` name."""
    return frozenset(
        authority.key.public_key_pem
        for spec in specs
        for authority in spec.authorities
        if authority.key is not None
    )


def _judge_name_and_counter(facts: Facts) -> _Finding | None:
    if facts.model != facts.expected_model:
        return _Finding(
            NodeReason.WRONG_MODEL_NAME,
            f"it is signed as {facts.model!r} and was to be served as {facts.expected_model!r}",
        )
    if facts.floor is not None and (facts.counter is None or facts.counter < facts.floor):
        counter = "no release counter" if facts.counter is None else f"counter {facts.counter}"
        return _Finding(
            NodeReason.COUNTER_TOO_LOW,
            f"it is signed with {counter}; this node takes {facts.floor} and above",
        )
    return None


def _judge_all(facts: Facts, policies: Mapping[str, TrustPolicySpec]) -> _Finding:
    matching = {
        name: spec
        for name, spec in sorted(policies.items())
        if covers(spec, model=facts.model, source=facts.source)
    }
    if not matching:
        return _Finding(
            NodeReason.NO_TRUST_POLICY,
            f"none of {len(policies)} policies covers {facts.model!r} from {facts.source}",
        )
    findings = [_judge_one(facts, name=name, spec=spec) for name, spec in matching.items()]
    refusals = [finding for finding in findings if finding.reason is not NodeReason.NONE]
    if refusals:
        return min(refusals, key=lambda finding: REASON_ORDER.index(finding.reason))
    return _Finding(
        NodeReason.NONE,
        "; ".join(finding.message for finding in findings),
        signer=findings[0].signer,
    )


def _judge_one(facts: Facts, *, name: str, spec: TrustPolicySpec) -> _Finding:
    return (
        _judge_digests(facts, name=name, spec=spec)
        or _judge_content(facts, name=name, spec=spec)
        or _judge_format(name=name, spec=spec)
        or _judge_signers(facts, name=name, spec=spec)
    )


def _judge_digests(facts: Facts, *, name: str, spec: TrustPolicySpec) -> _Finding | None:
    for kind, digest in (("model", facts.model_digest), ("artifact", facts.artifact_digest)):
        if digest is not None and digest in spec.revoked.digests:
            return _Finding(NodeReason.REVOKED, f"{name} revokes the {kind} {digest}")
    return None


def _judge_content(facts: Facts, *, name: str, spec: TrustPolicySpec) -> _Finding | None:
    for file in facts.files:
        if not _any_glob(spec.content.allow_files, file):
            return _Finding(
                NodeReason.CONTENT_REFUSED,
                f"{name} does not allow the file {file!r} (content.allowFiles)",
            )
    return None


def _judge_format(*, name: str, spec: TrustPolicySpec) -> _Finding | None:
    if "OMS" in spec.signature.formats:
        return None
    formats = ", ".join(spec.signature.formats) or "no format at all"
    return _Finding(
        NodeReason.UNTRUSTED_KEY,
        f"{name} counts {formats} (signature.formats); it is signed as OMS, and this agent reads "
        "nothing else",
    )


def _judge_signers(facts: Facts, *, name: str, spec: TrustPolicySpec) -> _Finding:
    counted = [a for a in spec.authorities if not spec.require.of or a.name in spec.require.of]
    signers: dict[str, str] = {}
    revoked: list[str] = []
    for authority in counted:
        key_id = _key_id(authority, facts.key_ids)
        if key_id is None or key_id not in facts.signed_by:
            continue
        if key_id in spec.revoked.key_ids:
            revoked.append(f"{authority.name} (key {key_id})")
        else:
            signers.setdefault(key_id, authority.name)
    needed = spec.require.threshold
    who = ", ".join(f"{authority} (key {key})" for key, authority in signers.items())
    if len(signers) >= needed:
        return _Finding(NodeReason.NONE, f"{name} allows it: signed by {who}", signer=who)
    if revoked:
        return _Finding(
            NodeReason.REVOKED, f"it is signed by {', '.join(revoked)}, which {name} revokes"
        )
    names = ", ".join(authority.name for authority in counted) or "nobody"
    return _Finding(
        NodeReason.UNTRUSTED_KEY,
        f"{name} wants {needed} of {names} to have signed; {who or 'none of them'} has"
        f"{_keyless_hint(counted)}{_unreadable_hint(counted, facts.key_ids)}",
    )


def _key_id(authority: Authority, key_ids: Mapping[str, str]) -> str | None:
    return None if authority.key is None else key_ids.get(authority.key.public_key_pem)


def _keyless_hint(counted: Sequence[Authority]) -> str:
    names = [authority.name for authority in counted if authority.key is None]
    if not names:
        return ""
    return f" (keyless authorities do not count on this agent: {', '.join(names)})"


def _unreadable_hint(counted: Sequence[Authority], key_ids: Mapping[str, str]) -> str:
    names = [
        authority.name
        for authority in counted
        if authority.key is not None and authority.key.public_key_pem not in key_ids
    ]
    return f" (keys that cannot be read: {', '.join(names)})" if names else ""


def _any_glob(globs: Sequence[str], text: str) -> bool:
    """Return true where a glob matches, and where there is none: no demand."""
    return not globs or any(_compiled(glob).matches(text) for glob in globs)


@dataclass(frozen=True, slots=True)
class _Glob:
    """A glob as an automaton over bit sets: linear time, whatever the pattern and the text."""

    literals: Mapping[str, int]
    """Character to the positions that take it."""
    stars: int
    """Positions of ``*``: they stay on anything but a slash."""
    globstars: int
    """Positions of ``**``: they stay on anything."""
    accepting: int

    def matches(self, text: str) -> bool:
        active = self._skip_stars(1)
        for char in text:
            stay = active & (self.globstars if char == "/" else self.globstars | self.stars)
            active = self._skip_stars((active & self.literals.get(char, 0)) << 1 | stay)
            if not active:
                return False
        return bool(active & self.accepting)

    def _skip_stars(self, active: int) -> int:
        return active | (active & (self.stars | self.globstars)) << 1


@functools.lru_cache(maxsize=256)
def _compiled(glob: str) -> _Glob:
    """Compile a glob: ``**`` is anything, ``*`` anything but a slash, the rest literal."""
    literals: dict[str, int] = {}
    stars = globstars = 0
    position = 0
    for part in re.findall(r"\*+|[^*]", glob, re.DOTALL):
        if part == "*":
            stars |= 1 << position
        elif part.startswith("*"):
            globstars |= 1 << position
        else:
            literals[part] = literals.get(part, 0) | 1 << position
        position += 1
    return _Glob(literals, stars, globstars, 1 << position)
