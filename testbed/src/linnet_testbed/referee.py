"""The rules of the design's section 2 that concern the planner, checked on a simulated fleet.

- It computes everything anew, in its own words, from the objects; it shares no code with the
  planner.
- `on_write` is asked before each write, `check` after each event, `check_rest` when all is quiet.
"""

from collections import Counter
from datetime import datetime, timedelta
from math import ceil

from linnet_api.durations import parse_duration
from linnet_api.reasons import ActVerb, NodeReason, NodeState, RolloutPhase, Verdict
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.planner.model import (
    CreateRollout,
    Order,
    RecordRollout,
    RolloutView,
    Write,
)
from linnet_operator.templates import asked
from linnet_testbed.simulator import LEASE, FleetSimulator, RuleBrokenError, VirtualNode

_BAD_ENDS = (RolloutPhase.ROLLED_BACK, RolloutPhase.REFUSED, RolloutPhase.ABORTED)
_DAY = timedelta(days=1)


class Referee:
    """Watches one simulator."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._generations: dict[str, int] = {}
        self._begun: dict[tuple[str, int], datetime] = {}
        self._had_baseline: set[tuple[str, str]] = set()
        self.advances: Counter[str] = Counter()

    # ------------------------------------------------------------ before a write

    def on_write(self, fleet: FleetSimulator, write: Write) -> None:
        """Refuse a write that breaks a rule."""
        match write:
            case Order():
                self._order(fleet, write)
            case CreateRollout():
                self._create(fleet, write)
            case RecordRollout():
                self._record(fleet, write)
            case _:
                pass

    def _order(self, fleet: FleetSimulator, order: Order) -> None:
        rollout, desired = fleet.rollout, order.spec.desired
        node = fleet.nodes[order.node]
        if desired.state == "Absent":
            candidate = rollout.spec.to.revision if rollout is not None else None
            _must(
                rollout is not None
                and rollout.spec.from_ is None
                and (node.current is None or node.current.revision == candidate),
                f"rule 7: {node.name} is told to unload what it serves",
            )
            return
        if rollout is None or rollout.status.phase is None or rollout.status.phase.ended:
            return
        if desired.revision != rollout.spec.to.revision:
            return
        stable = rollout.spec.from_
        if stable is not None:
            baseline = order.spec.baseline
            _must(
                baseline is not None and baseline.revision == stable.revision,
                f"rule 3: the order of {node.name} names no baseline",
            )
            if stable.revision in node.disk:
                self._had_baseline.add((node.name, rollout.uid))
        _must(
            rollout.status.phase is not RolloutPhase.ROLLING_BACK,
            "rule 6: a node is sent on while the rollout goes back",
        )
        before = fleet.orders.get(node.name)
        if before is None or before.desired.revision != desired.revision:
            self._sent_on(fleet, rollout, node)

    def _sent_on(self, fleet: FleetSimulator, rollout: RolloutView, node: VirtualNode) -> None:
        _must(_connected(fleet, node), f"{node.name} is sent on while it is not connected")
        paused = [a.verb for a in rollout.spec.acts if a.verb is not ActVerb.APPROVE]
        _must(not fleet.spec.paused, "rule 14: Git's brake is pulled, and a node is sent on")
        _must(not paused or paused[-1] is not ActVerb.PAUSE, "paused, and a node is sent on")
        _must(
            all(act.verb is not ActVerb.ABORT for act in rollout.spec.acts)
            or any(applied.id for applied in rollout.status.acts) is False
            or rollout.status.phase is not RolloutPhase.ROLLING_BACK,
            "rule 14: aborted, and a node is sent on",
        )
        candidate = rollout.spec.to.revision
        holders = {
            name
            for name, order in fleet.orders.items()
            if order.desired.state == "Active" and order.desired.revision == candidate
        } | {node.name}
        quota = _quota(fleet, rollout, rollout.status.step, rollout.status.phase)
        _must(
            len(holders) <= quota,
            f"rule 4: {len(holders)} nodes on the candidate in step {rollout.status.step}, "
            f"its quota is {quota}",
        )
        budget = rollout.spec.policy.budget
        moving = [
            other
            for other in fleet.nodes.values()
            if _connected(fleet, other) and other.name != node.name and _moving(fleet, other)
        ]
        _must(len(moving) < budget.max_downloads, "rule 4: more fetch at once than may")
        if rollout.spec.from_ is not None and node.current is not None:
            out = _out_of_service(fleet, rollout)
            limit = max(1, _share(budget.max_unavailable, len(_eligible(fleet, rollout))))
            _must(out < limit, f"rule 4: {out} nodes are out of service already, {limit} may be")

    def _create(self, fleet: FleetSimulator, write: CreateRollout) -> None:
        if any(known.name == write.name for known in fleet.rollouts):
            return
        last = fleet.rollout
        if last is not None:
            _must(
                last.status.phase is not None and last.status.phase.ended,
                "rule 8: a second rollout begins while one runs",
            )
            retried = any(act.verb is ActVerb.RETRY for act in last.spec.acts)
            same = last.spec.to.digest == write.spec.to.digest
            edited = self._generations[last.name] != fleet.generation
            _must(
                not (same and last.status.phase in _BAD_ENDS) or retried or edited,
                "rule 6: what was taken back is tried again by itself",
            )
        self._generations[write.name] = fleet.generation

    def _record(self, fleet: FleetSimulator, write: RecordRollout) -> None:
        rollout = fleet.rollouts[-1]
        before, after = rollout.status, write.status
        _must(
            not (before.phase is not None and before.phase.ended),
            "rule 8: an ended rollout is written again",
        )
        new = after.decisions[len(before.decisions) :]
        _must(
            after.decisions[: len(before.decisions)] == before.decisions, "the record was changed"
        )
        _must([d.n for d in after.decisions] == list(range(1, len(after.decisions) + 1)), "n")
        _must(len(new) <= 1, "rule 8: two decisions in one record")
        begins = (after.phase, after.step) != (before.phase, before.step) and (
            after.phase is RolloutPhase.FINISHING or after.step > max(before.step, 1)
        )
        if begins and before.phase in (RolloutPhase.STEPPING, RolloutPhase.BAKING):
            _must(
                any(d.action in ("Advance", "Promote") for d in new),
                "rule 5: a step begins without a decision",
            )
        for decision in new:
            self._decided(fleet, rollout, decision.action, decision.verdict, decision.step)
            if decision.evidence is not None and decision.action in ("Advance", "Rollback", "Ask"):
                _must(
                    decision.evidence.name in fleet.kept,
                    f"rule 15: the evidence of decision {decision.n} was not kept",
                )
        if after.phase in (RolloutPhase.STEPPING, RolloutPhase.BAKING) and after.step:
            shown = after.steps[after.step - 1].quota
            quota = _quota(fleet, rollout, after.step, after.phase)
            _must(shown == quota, f"rule 10: the status shows a quota of {shown}, it is {quota}")
        if after.phase is not None and not after.phase.ended:
            _must(after.waiting_for is not None, "rule 9: it waits, and does not say what for")
        needs_history = (
            rollout.spec.from_ is not None
            and rollout.spec.policy.judge.compare
            and rollout.spec.policy.judge.history.on_missing == "Wait"
        )
        promoted = any(d.action == "Promote" for d in after.decisions)
        if needs_history and after.step and not promoted:
            _must(after.evidence is not None, "rule 12: it compares without history")

    def _decided(
        self, fleet: FleetSimulator, rollout: RolloutView, action: str, verdict: Verdict, step: int
    ) -> None:
        if action == "Promote":
            return
        if action != "Advance":
            return
        self.advances[rollout.name] += 1
        _must(
            not any(d.step == step and d.action == "Advance" for d in rollout.status.decisions),
            f"rule 8: step {step} is passed twice",
        )
        judge = rollout.spec.policy.judge
        is_first = rollout.spec.from_ is None
        limits = asked(judge.thresholds, first_rollout=is_first)
        measures = bool(limits) or (bool(judge.compare) and not is_first)
        allowed = {Verdict.PASS} if measures else {Verdict.NOT_MEASURED}
        if judge.on_undecided == "Advance":
            allowed.add(Verdict.UNDECIDED)
        _must(verdict in allowed, f"rule 5: {verdict} let step {step} pass")
        _must(fleet.metrics != "lying" or not measures, "rule 16: who writes metrics passes a step")
        begun = rollout.status.steps[step - 1].started_at
        bake = parse_duration(rollout.spec.policy.steps[step - 1].bake)
        _must(
            begun is not None and fleet.now - begun >= bake,
            f"rule 5: step {step} ends before its bake of {bake}",
        )
        quota = _quota(fleet, rollout, step, RolloutPhase.BAKING)
        serving = sum(
            node.current is not None
            and node.current.revision == rollout.spec.to.revision
            and node.current.soaked
            for node in fleet.nodes.values()
        )
        _must(
            serving * 10 >= min(quota, len(_eligible(fleet, rollout))) * 9,
            f"rule 5: step {step} ends while {serving} of {quota} nodes serve",
        )

    # ------------------------------------------------------------ after an event

    def check(self, fleet: FleetSimulator) -> None:
        """Raise where a rule does not hold now."""
        rollout = fleet.rollout
        if rollout is None:
            return
        status = rollout.status
        running = status.phase is None or not status.phase.ended
        if running and status.phase is not None and fleet.status.rollout == rollout.name:
            _must(fleet.status.waiting_for is not None, "rule 9: the deployment waits silently")
        for index, step in enumerate(status.steps):
            if step.started_at is not None:
                known = self._begun.setdefault((rollout.uid, index), step.started_at)
                _must(known == step.started_at, f"rule 8: step {index + 1} began twice")
        if running and rollout.spec.from_ is not None:
            for node in fleet.nodes.values():
                on_it = (
                    node.current is not None
                    and node.current.revision == rollout.spec.to.revision
                    and (node.name, rollout.uid) in self._had_baseline
                )
                _must(
                    not on_it or rollout.spec.from_.revision in node.disk,
                    f"rule 3: the baseline is gone from {node.name}",
                )

    def check_same(self, fleet: FleetSimulator) -> None:
        """Raise where the same input gives another plan (rules 8 and 15)."""
        _must(fleet.make_plan() == fleet.make_plan(), "rule 15: two plans from one input")

    def check_rest(self, fleet: FleetSimulator) -> None:
        """Raise where a quiet fleet is not where it belongs, or goes on writing (rules 6, 11)."""
        rollout = fleet.rollout
        if rollout is not None and rollout.status.phase in _BAD_ENDS:
            for node in fleet.nodes.values():
                _must(
                    not node.online
                    or node.current is None
                    or node.current.revision != rollout.spec.to.revision,
                    f"rule 6: {node.name} still serves what was taken back",
                )
        before = sum(fleet.counts.values())
        fleet.run_for(timedelta(minutes=3))
        written = sum(fleet.counts.values()) - before
        _must(written == 0, f"rule 11: {written} writes while nothing happens")


def _must(holds: object, message: str) -> None:
    if not holds:
        raise RuleBrokenError(message)


def _connected(fleet: FleetSimulator, node: VirtualNode) -> bool:
    seen = fleet.view(node).heartbeat_at
    return seen is not None and fleet.now - seen <= LEASE


def _took(fleet: FleetSimulator, rollout: RolloutView, node: VirtualNode) -> bool:
    order, report = fleet.orders.get(node.name), fleet.reports.get(node.name)
    if report is None:
        return False
    candidate = rollout.spec.to.revision
    if report.current is not None and report.current.revision == candidate:
        return True
    return (
        order is not None
        and order.desired.revision == candidate
        and report.observed_sequence >= order.sequence
    )


def _eligible(fleet: FleetSimulator, rollout: RolloutView) -> list[VirtualNode]:
    grace = parse_duration(rollout.spec.policy.offline.defer_after)
    found = []
    for node in fleet.nodes.values():
        seen = fleet.view(node).heartbeat_at
        lost = seen is None or (fleet.now - seen > max(grace, LEASE))
        if (not lost or _took(fleet, rollout, node)) and not _no_variant(fleet, rollout, node):
            found.append(node)
    return found


def _no_variant(fleet: FleetSimulator, rollout: RolloutView, node: VirtualNode) -> bool:
    report = fleet.reports.get(node.name)
    return (
        _took(fleet, rollout, node)
        and report is not None
        and (report.state, report.reason) == (NodeState.FAILED, NodeReason.WRONG_VARIANT)
    )


def _out_of_service(fleet: FleetSimulator, rollout: RolloutView) -> int:
    grace = parse_duration(rollout.spec.policy.offline.suspect_after)
    count = 0
    for node in _eligible(fleet, rollout):
        order, report = fleet.orders.get(node.name), fleet.reports.get(node.name)
        seen = fleet.view(node).heartbeat_at
        if not _connected(fleet, node):
            silent = seen is None or fleet.now - seen > max(grace, LEASE)
            count += silent and _took(fleet, rollout, node)
        elif order is not None and order.baseline is not None and report is not None:
            count += report.current is None and order.baseline.revision in report.on_disk
    return count


def _moving(fleet: FleetSimulator, node: VirtualNode) -> bool:
    order, report = fleet.orders.get(node.name), fleet.reports.get(node.name)
    if order is None:
        return False
    return (
        report is None
        or report.observed_sequence < order.sequence
        or report.state is None
        or not report.state.settled
    )


def _share(share: int | str, whole: int) -> int:
    if isinstance(share, int):
        return min(share, whole)
    return ceil(int(share.rstrip("%")) * whole / 100 - 1e-9)


def _quota(
    fleet: FleetSimulator, rollout: RolloutView, step: int, phase: RolloutPhase | None
) -> int:
    policy: RolloutPolicySpec = rollout.spec.policy
    whole = len(_eligible(fleet, rollout))
    if phase is RolloutPhase.FINISHING:
        return whole
    control = 0
    if rollout.spec.from_ is not None and _share(policy.control, whole) and whole >= 3:
        control = 1 if whole < 10 else max(2, _share(policy.control, whole))
    own = max((_share(s.nodes, whole) for s in policy.steps[:step]), default=0)
    return min(own, whole - min(control, whole - 1 if whole else 0))
