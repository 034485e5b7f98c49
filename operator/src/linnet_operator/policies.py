"""The status of policies: whether they can be used.

Rules:
- A policy that cannot be used is InvalidSpec, with every problem in the sentence; deployments that
  name it wait.
- The status is written only when it differs.
"""

from collections.abc import Sequence
from datetime import datetime

from linnet_api.conditions import Condition, settled, stalled, stamp
from linnet_api.reasons import DeploymentReason
from linnet_api.rollout_policy import RolloutPolicyStatus
from linnet_api.trust_policy import TrustPolicyStatus
from linnet_operator.cache import Entry, Invalid, PolicyFacts, TrustFacts, facts_of
from linnet_operator.policy_rules import policy_problems, trust_problems


def policy_status(entry: Entry, *, now: datetime) -> RolloutPolicyStatus | None:
    """Return the status that a RolloutPolicy should have, or None where it has it."""
    facts = facts_of(entry, PolicyFacts)
    spec = facts.spec
    problems = [spec.message] if isinstance(spec, Invalid) else policy_problems(spec)
    wanted = RolloutPolicyStatus(
        observed_generation=entry.generation,
        conditions=_conditions(problems, entry, before=facts.status.conditions, now=now),
    )
    return None if wanted == facts.status else wanted


def trust_status(entry: Entry, *, now: datetime) -> TrustPolicyStatus | None:
    """Return the status that a TrustPolicy should have, or None where it has it."""
    facts = facts_of(entry, TrustFacts)
    spec = facts.spec
    problems = [spec.message] if isinstance(spec, Invalid) else trust_problems(spec)
    wanted = TrustPolicyStatus(
        observed_generation=entry.generation,
        conditions=_conditions(problems, entry, before=facts.status.conditions, now=now),
    )
    return None if wanted == facts.status else wanted


def _conditions(
    problems: Sequence[str],
    entry: Entry,
    *,
    before: Sequence[Condition],
    now: datetime,
) -> tuple[Condition, ...]:
    if problems:
        wanted = stalled(
            reason=DeploymentReason.INVALID_SPEC,
            message="; ".join(problems),
            generation=entry.generation,
        )
    else:
        wanted = settled(
            reason=DeploymentReason.ACCEPTED,
            message="The policy can be used.",
            generation=entry.generation,
        )
    # Kubernetes keeps whole seconds; a finer time would differ from itself at the next turn.
    return stamp(wanted, before=before, now=now.replace(microsecond=0))
