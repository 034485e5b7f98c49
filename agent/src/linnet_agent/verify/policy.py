"""Whether a node may take a model: facts in, a decision out, nothing else.

- The signed name must be the one under which the model shall be served.
- Of the cluster's policies at least one must match, and all that match must allow.
- The node's own ceiling, where it has one, must allow as well; it can only take away.
- What one matching policy revokes counts in none: keys, certificates, identities, digests. What the
  ceiling revokes is told as that, whatever else is wrong: a hub must not be able to hide it.
- As many authorities as a policy wants must have signed, each by a signer of its own (voting).
- A release counter below the node's floor is refused, the floor itself is allowed; below it, every
  policy must find a grant that is signed as it wants a model to be.
- Files that carry code need a pattern that names their ending.
- Old signatures are an alarm in the notes, never a stop.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from linnet_agent.verify.signatures import Format, Proof
from linnet_agent.verify.voting import Ballot, Vote, count_votes, proof_order, unusable
from linnet_api.durations import format_duration, parse_duration
from linnet_api.patterns import compile_glob
from linnet_api.quantities import parse_quantity
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

REASON_ORDER: Final[tuple[NodeReason, ...]] = (
    NodeReason.REVOKED,
    NodeReason.COUNTER_TOO_LOW,
    NodeReason.CEILING,
    NodeReason.WRONG_MODEL_NAME,
    NodeReason.CONTENT_REFUSED,
    NodeReason.CONTENT_NOT_SIGNED,
    NodeReason.NO_TRUST_POLICY,
    NodeReason.CLOCK_UNTRUSTED,
    NodeReason.KEYLESS_UNAVAILABLE,
    NodeReason.BAD_SIGNATURE,
    NodeReason.NO_TRUST_ROOT,
    NodeReason.UNTRUSTED_KEY,
    NodeReason.MALFORMED_BUNDLE,
    NodeReason.UNSIGNED,
)
"""The most telling reason first: the further a bundle came, the more its refusal says."""

MAX_MESSAGE: Final = 2048
MAX_SIGNER: Final = 512
"""What the status of a NodeModel holds."""

_CODE: Final = re.compile(
    r".*(\.(?:pkl|pickle|joblib|pt|pth|ckpt|py|pyc|pyd|so|dll|dylib|exe|sh|jar|class))(?:\.[0-9]+)*"
    r"|(?:.*/)?pytorch_model[^/]*(\.bin)"
)
"""Endings of files that are code, or are unpickled into code by what usually loads them."""

RefusedBy = Literal["", "policy", "ceiling"]
OnActive = Literal["Revert", "KeepServing"]
Policies = Mapping[str, TrustPolicySpec]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known for certain about one model: its statement and who has signed it."""

    source: str
    expected_model: str
    """The name under which it shall be served: ``<namespace>/<serving name>``."""
    model: str
    counter: int | None
    files: tuple[str, ...]
    total_bytes: int | None
    """Of all files together; None: nobody has said."""
    model_digest: str
    artifact_digests: tuple[str, ...]
    """Of the manifest, and of the index above it."""
    format: Format
    predicate_type: str
    proofs: tuple[Proof, ...]
    """Every verified signature over exactly this statement."""
    grants: tuple[tuple[Proof, ...], ...]
    """The signatures of each grant for this model, counter and node that has not ended."""
    key_ids: Mapping[str, str]
    """PEM text to key id, of every key that policies and ceiling name; absent: unreadable."""
    node_roots: frozenset[str]
    """Names of the trusted roots that the node has of its own."""
    floor: int | None
    """The lowest release counter that this node still takes; None: none yet."""
    now: datetime
    clock_trusted: bool
    """False: ``now`` is only the latest time that is known to have passed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """May it be activated, and if not, why."""

    allowed: bool
    reason: NodeReason
    """``NONE`` where allowed."""
    message: str
    signer: str | None
    """``release (key 0123abcd...)``; authority and key or identity of who made it allowed."""
    model: str | None
    counter: int | None
    policy_hash: str
    refused_by: RefusedBy = ""
    """The ceiling's own revocation is told from the hub's by this."""
    notes: tuple[str, ...] = ()
    """Alarms that stop nothing, and what else the decision rests on; they end ``message`` too."""
    on_active: OnActive = "Revert"
    """Of REVOKED: what becomes of it where it is active; KeepServing where all that revoke it say
    so."""


@dataclass(frozen=True, slots=True)
class _Finding:
    reason: NodeReason
    message: str
    signer: str | None = None
    notes: tuple[str, ...] = ()
    revoked_by: frozenset[str] = frozenset()
    """Names of the policies that revoke it."""


def decide(
    facts: Facts,
    *,
    policies: Policies,
    ceiling: Policies | None,
    roots: Mapping[str, bytes] | None = None,
) -> Decision:
    """Decide about one signed model.

    Args:
        facts: What is known for certain.
        policies: The cluster's policies by name.
        ceiling: The node's own policies by name; None where it has none. An empty one allows
            nothing.
        roots: The trusted roots that were asked; only for the decision's ``policy_hash``.
    """
    finding, by = _judge_all(facts, policies), policies
    refused_by: RefusedBy = "policy"
    if (fault := _judge_name(facts)) is not None:
        finding = _telling([finding, fault])
    if ceiling is not None:
        limit = _judge_all(facts, ceiling)
        if limit.reason is NodeReason.REVOKED or (_allows(finding) and not _allows(limit)):
            finding, by, refused_by = _by_ceiling(limit), ceiling, "ceiling"
    return Decision(
        allowed=_allows(finding),
        reason=finding.reason,
        message="; ".join((finding.message, *finding.notes))[:MAX_MESSAGE],
        signer=None if finding.signer is None else finding.signer[:MAX_SIGNER],
        model=facts.model,
        counter=facts.counter,
        policy_hash=policy_hash(policies, ceiling, roots),
        refused_by="" if _allows(finding) else refused_by,
        notes=finding.notes,
        on_active=_on_active(finding, by),
    )


def policy_hash(
    policies: Policies,
    ceiling: Policies | None,
    roots: Mapping[str, bytes] | None = None,
) -> str:
    """Return 64 hex characters that change whenever the trust that is asked changes."""
    document = {
        "policies": {name: spec.to_dict() for name, spec in policies.items()},
        "ceiling": None if ceiling is None else [spec.to_dict() for spec in ceiling.values()],
        "roots": {name: hashlib.sha256(root).hexdigest() for name, root in (roots or {}).items()},
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


# --- one set of policies --------------------------------------------------------------------------


def _judge_name(facts: Facts) -> _Finding | None:
    if facts.model == facts.expected_model:
        return None
    return _Finding(
        NodeReason.WRONG_MODEL_NAME,
        f"it is signed as {facts.model!r} and was to be served as {facts.expected_model!r}",
    )


def _judge_all(facts: Facts, policies: Policies) -> _Finding:
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
    return _telling(
        [_judge_one(_Case(facts, name, spec, matching)) for name, spec in matching.items()]
    )


def _telling(findings: Sequence[_Finding]) -> _Finding:
    """Return what they come to together: all must allow; of refusals the most telling is told."""
    refusals = [finding for finding in findings if not _allows(finding)]
    if refusals:
        final = [one for one in refusals if one.reason is not NodeReason.CLOCK_UNTRUSTED]
        return min(final or refusals, key=lambda one: REASON_ORDER.index(one.reason))
    return _Finding(
        NodeReason.NONE,
        "; ".join(finding.message for finding in findings if finding.message),
        signer=next((finding.signer for finding in findings if finding.signer), None),
        notes=tuple(dict.fromkeys(note for finding in findings for note in finding.notes)),
    )


def _allows(finding: _Finding) -> bool:
    return finding.reason is NodeReason.NONE


def _by_ceiling(limit: _Finding) -> _Finding:
    revoked = limit.reason is NodeReason.REVOKED
    return _Finding(
        NodeReason.REVOKED if revoked else NodeReason.CEILING,
        f"the node's own ceiling refuses ({limit.reason}): {limit.message}",
        revoked_by=limit.revoked_by,
    )


def _on_active(finding: _Finding, policies: Policies) -> OnActive:
    wishes = {policies[name].revoked.on_active for name in finding.revoked_by}
    return "KeepServing" if wishes == {"KeepServing"} else "Revert"


# --- one policy -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """One model before one policy."""

    facts: Facts
    name: str
    spec: TrustPolicySpec
    matching: Policies
    """All policies of the set that match: what one revokes counts in none."""

    @property
    def ballot(self) -> Ballot:
        facts = self.facts
        return Ballot(
            spec=self.spec,
            matching=self.matching,
            key_ids=facts.key_ids,
            node_roots=facts.node_roots,
            now=facts.now,
            clock_trusted=facts.clock_trusted,
        )


def _judge_one(case: _Case) -> _Finding:
    findings = (
        _judge_digests(case),
        _judge_counter(case),
        _judge_content(case),
        _judge_format(case),
        _judge_signers(case),
    )
    return _telling([finding for finding in findings if finding is not None])


def _judge_digests(case: _Case) -> _Finding | None:
    facts = case.facts
    named = [("model", facts.model_digest), *(("artifact", one) for one in facts.artifact_digests)]
    for kind, digest in named:
        by = frozenset(n for n, spec in case.matching.items() if digest in spec.revoked.digests)
        if by:
            return _Finding(
                NodeReason.REVOKED,
                f"{', '.join(sorted(by))} revokes the {kind} {digest}",
                revoked_by=by,
            )
    return None


def _judge_counter(case: _Case) -> _Finding | None:
    facts = case.facts
    if facts.floor is None or (facts.counter is not None and facts.counter >= facts.floor):
        return None
    counter = "no release counter" if facts.counter is None else f"counter {facts.counter}"
    fact = f"it is signed with {counter}; this node takes {facts.floor} and above"
    for proofs in sorted(facts.grants, key=lambda grant: sorted(map(proof_order, grant))):
        votes, _ = count_votes(case.ballot, proofs)
        if len(votes) >= case.spec.require.threshold:
            if not facts.clock_trusted:
                return _Finding(
                    NodeReason.CLOCK_UNTRUSTED,
                    f"{fact}; whether the grant beside it has ended cannot be told: the node's "
                    "clock is not trusted",
                )
            return _Finding(
                NodeReason.NONE, "", notes=(f"{fact}, but for a grant of {_say(votes)}",)
            )
    hint = f"; the grant beside it is not signed as {case.name} wants it" if facts.grants else ""
    return _Finding(NodeReason.COUNTER_TOO_LOW, fact + hint)


def _judge_content(case: _Case) -> _Finding | None:
    content, files = case.spec.content, case.facts.files
    for file in files:
        if not _any_glob(content.allow_files, file):
            return _Finding(
                NodeReason.CONTENT_REFUSED,
                f"{case.name} does not allow the file {file[:200]!r} (content.allowFiles)",
            )
        ending = _code_ending(file)
        naming = [glob for glob in content.allow_files if ending in glob.lower()]
        if ending and not (naming and _any_glob(naming, file)):
            return _Finding(
                NodeReason.CONTENT_REFUSED,
                f"the file {file[:200]!r} can carry code; {case.name} has no pattern that names "
                f"{ending} (content.allowFiles)",
            )
    if content.max_files is not None and len(files) > content.max_files:
        return _Finding(
            NodeReason.CONTENT_REFUSED,
            f"it has {len(files)} files; {case.name} allows {content.max_files} (content.maxFiles)",
        )
    if content.max_bytes is None:
        return None
    size = case.facts.total_bytes
    if size is not None and size <= parse_quantity(content.max_bytes):
        return None
    has = "nobody says how many bytes it has" if size is None else f"it has {size} bytes"
    return _Finding(
        NodeReason.CONTENT_REFUSED,
        f"{has}; {case.name} allows {content.max_bytes} (content.maxBytes)",
    )


def _judge_format(case: _Case) -> _Finding | None:
    facts, wanted = case.facts, case.spec.signature
    if facts.format not in wanted.formats:
        formats = ", ".join(wanted.formats) or "no format at all"
        return _Finding(
            NodeReason.UNTRUSTED_KEY,
            f"{case.name} counts {formats} (signature.formats); it is signed as {facts.format}",
        )
    if wanted.predicate_types and facts.predicate_type not in wanted.predicate_types:
        return _Finding(
            NodeReason.UNTRUSTED_KEY,
            f"{case.name} does not count the predicate type {facts.predicate_type[:200]!r} "
            "(signature.predicateTypes)",
        )
    return None


def _judge_signers(case: _Case) -> _Finding:
    votes, objections = count_votes(case.ballot, case.facts.proofs)
    needed = case.spec.require.threshold
    if len(votes) >= needed:
        who = _say(votes)
        return _Finding(
            NodeReason.NONE,
            f"{case.name} allows it: signed by {who}",
            signer=who,
            notes=_notes(case, votes),
        )
    names = [authority.name for authority in case.ballot.counted]
    wanted = (
        f"a signature by {names[0]}"
        if needed == len(names) == 1
        else (f"signatures by {needed} of {', '.join(names) or 'nobody'}")
    )
    why = "".join(f"{text}; " for text in dict.fromkeys(one.message for one in objections))
    return _Finding(
        min(
            (one.reason for one in objections),
            key=REASON_ORDER.index,
            default=NodeReason.UNTRUSTED_KEY,
        ),
        f"{why}policy {case.name} wants {wanted}: {_say(votes) or 'none'} counts"
        f"{unusable(case.ballot)}",
        revoked_by=frozenset(name for one in objections for name in one.revoked_by),
    )


def _say(votes: Sequence[Vote]) -> str:
    return ", ".join(str(vote) for vote in votes)


def _notes(case: _Case, votes: Sequence[Vote]) -> tuple[str, ...]:
    limit = case.spec.freshness.max_signature_age
    if limit is None:
        return ()
    notes: list[str] = []
    for vote in votes:
        signed_at = vote.proof.signed_at
        if signed_at is None:
            notes.append(f"nothing proves when {vote.authority} has signed; {case.name} asks")
        elif (age := case.facts.now - signed_at) > parse_duration(limit):
            notes.append(
                f"the signature of {vote.authority} is {format_duration(age)} old, and {case.name} "
                f"wants at most {limit} (freshness.maxSignatureAge)"
            )
    return tuple(notes)


def _code_ending(file: str) -> str:
    """Return the ending by which a file can carry code, such as ``.pkl``; empty: it cannot."""
    found = _CODE.fullmatch(file.lower())
    return next((ending for ending in found.groups() if ending), "") if found else ""


def _any_glob(globs: Sequence[str], text: str) -> bool:
    """Return true where a glob matches, and where there is none: no demand."""
    return not globs or any(compile_glob(glob).matches(text) for glob in globs)
