"""From a verdict to what follows: Advance, Rollback, Ask or Hold.

- No data, partial, stale or unmeasured evidence is never a pass (rule 5).
- A pass also needs the nodes' own reports: who can write metrics cannot wave a model through (rule
  16).
- A Fail needs neither bake nor reports: it may act at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import sqrt

from linnet_api.durations import format_duration, parse_duration
from linnet_api.reasons import Verdict, WaitReason
from linnet_api.rollout_policy import Judge
from linnet_operator.planner.fleet import is_active
from linnet_operator.planner.model import Evidence, NodeView

STALE_AFTER_LOOKS = 3
STALE_AT_LEAST = timedelta(seconds=30)
FIT_SHARE = 0.9
FIT_SLACK_REQUESTS = 5
"""Scrape and heartbeat are not taken at one instant."""
FIT_SLACK_FAILURES = 5
"""In the whole step, beside a tenth: what a server that ends takes along unscraped.

1,500 rollouts of honest nodes were simulated: 0.03 to 1000 requests a second, in bursts too, on 1
to 50 nodes; scrapes each 5 to 60 s, heartbeats each 2 or 10 s, looks each 1 to 60 s. Where nodes
fail at one rate, or have ceased to, none of 217,000 looks was a misfit. Where they begin to fail in
the middle 1 in 12,000 was; but 1 in 25 within two scrapes of the step's begin or of a restart of
the operator, when no report is old enough. Such a misfit ends with the next scrapes.
"""
CHANCE_DEVIATIONS = 4


class Action(StrEnum):
    """What follows from a look, or from a person's word (Promote)."""

    ADVANCE = "Advance"
    PROMOTE = "Promote"
    ROLLBACK = "Rollback"
    ASK = "Ask"
    HOLD = "Hold"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate of a step says now, and why."""

    action: Action
    reason: WaitReason
    verdict: Verdict
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gate looks at, besides the evidence.

    Attributes:
        measures: True where the policy has something to measure for this rollout.
        may_go_unmeasured: True where NotMeasured is good enough (Proceed, and no thresholds).
        baked: True where the bake has been served.
        all_in: True where every node of the step serves the candidate, as far as it can be reached.
        late: True where ``decideWithin`` is over.
        gave_up: True where more samples are missing in a row than a threshold tolerates.
        misfit: What does not fit between metrics and node reports; None where they fit.
    """

    measures: bool
    may_go_unmeasured: bool
    baked: bool
    all_in: bool
    late: bool
    misfit: str | None
    gave_up: bool = False


def pass_or_hold(evidence: Evidence | None, facts: Facts, judge: Judge, *, now: datetime) -> Gate:
    """Return what follows for the step that ``evidence`` judges."""
    if not facts.measures:
        return _ready(
            facts,
            Gate(
                Action.ADVANCE,
                WaitReason.EVIDENCE,
                Verdict.NOT_MEASURED,
                "the policy measures nothing here: the nodes' own checks and the bake have passed",
            ),
        )
    if evidence is None:
        return Gate(
            Action.HOLD,
            WaitReason.EVIDENCE,
            Verdict.NOT_MEASURED,
            "no look at the metrics has been made yet",
        )
    if evidence.verdict is Verdict.FAIL:
        action = Action.ASK if evidence.needs_person else Action.ROLLBACK
        return Gate(action, WaitReason.DECISION, Verdict.FAIL, evidence.message)
    return _ready(facts, _weigh(evidence, facts, judge, now))


def misfit(
    nodes: Sequence[NodeView], evidence: Evidence, *, revision: str, now: datetime
) -> str | None:
    """Return where metrics and the nodes' own reports do not fit; None where they do (rule 16).

    The metrics may neither count requests that the nodes do not know, nor miss failures that they
    do.

    Args:
        nodes: The nodes of the step.
        evidence: The look; it counts since each node's activation.
        revision: The candidate.
        now: The time of the turn.
    """
    return _unknown_requests(nodes, evidence, revision, now) or _missing_failures(evidence)


def _unknown_requests(
    nodes: Sequence[NodeView], evidence: Evidence, revision: str, now: datetime
) -> str | None:
    for node in nodes:
        counted = evidence.requests.get(node.name)
        if counted is None or not is_active(node, revision) or not node.connected(now):
            continue
        needed = FIT_SHARE * counted * _covered(node, evidence) - FIT_SLACK_REQUESTS
        own = node.served.get(revision)
        reported = own.requests if own is not None else 0
        if reported < needed:
            return (
                f"node reports do not fit: metrics count {counted:.0f} requests on {node.name}, "
                f"its own heartbeat {reported}"
            )
    return None


def _missing_failures(evidence: Evidence) -> str | None:
    """Return which failures the metrics lack that the nodes reported.

    Of a report that counts no more requests than they do the metrics know every failure, whenever
    it was. Of another its rate tells how many are among the requests that they count, but for
    chance.
    """
    expected_in_all = lacking = part = variance = 0.0
    lacks: dict[str, float] = {}
    for node, own in sorted(evidence.own.items()):
        counted = evidence.requests.get(node)
        if counted is None or not own.failures:
            continue
        share = min(1.0, counted / own.requests) if own.requests else 1.0
        expected = own.failures * share
        expected_in_all += expected
        lacks[node] = expected - evidence.failures.get(node, 0.0)
        if share < 1.0:
            part += lacks[node]
            variance += expected * (1.0 - share)
        else:
            lacking += max(0.0, lacks[node])
    lacking += max(0.0, part - CHANCE_DEVIATIONS * sqrt(variance))
    if lacking <= FIT_SLACK_FAILURES + (1.0 - FIT_SHARE) * expected_in_all:
        return None
    worst = max(lacks, key=lambda node: lacks[node])
    others = sum(lack > 0.0 for lack in lacks.values()) - 1
    more = f" (and fewer than reported on {others} more)" if others else ""
    return (
        f"node reports do not fit: metrics count {evidence.failures.get(worst, 0.0):.0f} failures "
        f"in {evidence.requests[worst]:.0f} requests on {worst}, its own heartbeat "
        f"{evidence.own[worst].failures} in {evidence.own[worst].requests}{more}"
    )


def _covered(node: NodeView, evidence: Evidence) -> float:
    """Return the share of the look's time that the node's newest heartbeat covers, 0 to 1."""
    report = node.report
    assert report is not None, node.name
    assert report.current is not None, node.name
    assert node.heartbeat_at is not None, node.name
    since = report.current.activated_at
    if since is None or node.heartbeat_at >= evidence.at:
        return 1.0
    whole = (evidence.at - since).total_seconds()
    part = (node.heartbeat_at - since).total_seconds()
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _weigh(evidence: Evidence, facts: Facts, judge: Judge, now: datetime) -> Gate:
    stale = now - evidence.at
    if stale > max(STALE_AFTER_LOOKS * parse_duration(judge.interval), STALE_AT_LEAST):
        text = f"the newest look is {format_duration(stale)} old: {evidence.message}"
        return _no_data(Verdict.PARTIAL, WaitReason.PARTIAL_DATA, text, facts, judge)
    match evidence.verdict:
        case Verdict.PASS:
            return _passed(Verdict.PASS, evidence, facts, judge)
        case Verdict.NOT_MEASURED if facts.may_go_unmeasured:
            return _passed(Verdict.NOT_MEASURED, evidence, facts, judge)
        case Verdict.UNDECIDED:
            return _undecided(evidence, facts, judge)
        case Verdict.PARTIAL:
            reason = WaitReason.PARTIAL_DATA
        case Verdict.FLEET_TROUBLE:
            return Gate(
                Action.HOLD, WaitReason.FLEET_TROUBLE, Verdict.FLEET_TROUBLE, evidence.message
            )
        case Verdict.LEARNING:
            return Gate(Action.HOLD, WaitReason.LEARNING, Verdict.LEARNING, evidence.message)
        case _:
            reason = WaitReason.NO_DATA
    return _no_data(evidence.verdict, reason, evidence.message, facts, judge)


def _passed(verdict: Verdict, evidence: Evidence, facts: Facts, judge: Judge) -> Gate:
    if facts.misfit is not None:
        return _no_data(Verdict.PARTIAL, WaitReason.PARTIAL_DATA, facts.misfit, facts, judge)
    return Gate(Action.ADVANCE, WaitReason.EVIDENCE, verdict, evidence.message)


def _undecided(evidence: Evidence, facts: Facts, judge: Judge) -> Gate:
    action = Action(judge.on_undecided) if facts.late else Action.HOLD
    if facts.late and evidence.needs_person:
        # Harm is seen, but not on enough nodes: no policy advances that, nor turns the fleet.
        action = Action.ASK
    if action is Action.ADVANCE and facts.misfit is not None:
        return _no_data(Verdict.PARTIAL, WaitReason.PARTIAL_DATA, facts.misfit, facts, judge)
    reason = WaitReason.DECISION if action is Action.ASK else WaitReason.EVIDENCE
    return Gate(action, reason, Verdict.UNDECIDED, evidence.message)


def _no_data(
    verdict: Verdict, reason: WaitReason, message: str, facts: Facts, judge: Judge
) -> Gate:
    action = Action(judge.on_no_data) if facts.late or facts.gave_up else Action.HOLD
    return Gate(action, WaitReason.DECISION if action is Action.ASK else reason, verdict, message)


def _ready(facts: Facts, gate: Gate) -> Gate:
    """Return ``gate``, but nothing that advances before all nodes are in and the bake is served."""
    if gate.action is not Action.ADVANCE or (facts.all_in and facts.baked):
        return gate
    reason = WaitReason.BAKING if facts.all_in else WaitReason.ACTIVATING
    return Gate(Action.HOLD, reason, gate.verdict, gate.message)
