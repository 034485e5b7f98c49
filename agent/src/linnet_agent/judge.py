"""What the node's trust says about an artifact now, and everything that it is asked with.

- It is asked at known time, with the trusted roots at hand, and in a thread: keyless signatures
  take a child's second.
- The trust that was asked is named by a hash; a clock that is not believed is part of it, so that
  what hinged on the clock is asked again when it is believed.
- A time that was signed under a root of the node's own raises known time; a root that the hub gave
  raises nothing.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from linnet_agent.journal import Judged, Standing
from linnet_agent.known_time import Reading
from linnet_agent.trust import TrustStore
from linnet_agent.verify.artifact import Verified, verify_artifact
from linnet_agent.verify.keyless import ChildVerifier
from linnet_agent.verify.manifest import Artifact
from linnet_agent.verify.policy import Decision
from linnet_agent.verify.signatures import IdentitySigner
from linnet_agent.verify.voting import is_inline
from linnet_api.reasons import NodeReason


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about one artifact."""

    judged: Judged
    model_digest: str | None
    """None: it was not allowed."""
    standing: Standing
    keys: tuple[str, ...] = ()
    """The public keys, PEM, that have signed it; none where it was not allowed."""


class Judge:
    """Asks the trust in force."""

    def __init__(
        self,
        trust: TrustStore,
        *,
        node: str,
        read_time: Callable[[], Reading],
        prove_time: Callable[[datetime], None],
    ) -> None:
        """Keep what is asked.

        Args:
            trust: Policies, ceiling and roots.
            node: The node's name, for grants that name one.
            read_time: Returns known time.
            prove_time: Takes a time that has provably passed.
        """
        self._trust = trust
        self._node = node
        self._read_time = read_time
        self._prove_time = prove_time

    @property
    def known(self) -> bool:
        """True once there is something to judge by."""
        return self._trust.known

    @property
    def is_at_fault(self) -> bool:
        """True where nothing can be judged, for a policy or the ceiling cannot be read."""
        return self._trust.fault is not None

    @property
    def hash(self) -> str:
        """64 hex characters that change when the same question may have another answer."""
        return _hash(self._trust.hash, self._read_time())

    async def ask(
        self, artifact: Artifact, *, revision: str, model: str, floor: int | None
    ) -> Answer:
        """Return what is said about ``artifact``.

        Args:
            artifact: Manifest and bundles.
            revision: Whose they are.
            model: ``<namespace>/<serving name>``.
            floor: Lowest release counter that is still taken; None: any.
        """
        trust, time = self._trust, self._read_time()
        asked = _hash(trust.hash, time)
        if trust.fault is not None:
            reason, message = trust.fault
            refused = Judged(revision, False, reason, message, asked, time.now)
            return Answer(refused, None, Standing.GOOD)
        roots = dict(trust.roots)
        # Trust may change while the thread runs: what is asked is what was hashed.
        verified = await asyncio.to_thread(
            verify_artifact,
            artifact,
            expected_model=model,
            policies=dict(trust.policies),
            ceiling=trust.ceiling,
            floor=floor,
            now=time.now,
            clock_trusted=time.trusted,
            keyless=ChildVerifier(roots, now=time.now) if roots else None,
            roots=roots,
            node=self._node,
        )
        self._learn_time(verified)
        decision = verified.decision
        judged = Judged(
            revision=revision,
            allowed=decision.allowed,
            reason=decision.reason,
            message=decision.message,
            policy_hash=asked,
            at=verified.at,
            signer=decision.signer,
            model=decision.model,
            counter=decision.counter,
        )
        return Answer(judged, verified.model_digest, _standing(decision), verified.keys)

    def _learn_time(self, verified: Verified) -> None:
        for proof in verified.proofs:
            own = isinstance(proof.signer, IdentitySigner) and not is_inline(proof.signer.root)
            if own and proof.signed_at is not None:
                self._prove_time(proof.signed_at)


def _hash(trust: str, time: Reading) -> str:
    return trust if time.trusted else hashlib.sha256(f"{trust} no clock".encode()).hexdigest()


def _standing(decision: Decision) -> Standing:
    if decision.reason is not NodeReason.REVOKED:
        return Standing.GOOD
    if decision.refused_by == "ceiling":
        return Standing.FORBIDDEN
    return Standing.KEPT if decision.on_active == "KeepServing" else Standing.REVOKED
