"""Milliseconds of a plan and writes per node, for a rollout over 1,000 simulated nodes."""

from datetime import timedelta

from linnet_api.rollout_policy import Budget, History, Judge, Offline, RolloutPolicySpec, Step
from linnet_testbed.simulator import FleetSimulator

NODES = 1000
POLICY = RolloutPolicySpec(
    steps=(
        Step(nodes=1, bake="30s"),
        Step(nodes="10%", bake="30s"),
        Step(nodes="50%", bake="30s"),
        Step(nodes="100%", bake="30s"),
    ),
    judge=Judge(interval="5s", history=History(window="30s")),
    offline=Offline(defer_after="30s", suspect_after="30s"),
    budget=Budget(max_downloads=100),
)


def main(arguments: list[str]) -> int:
    del arguments
    fleet = FleetSimulator(seed=1, nodes=NODES, policy=POLICY)
    _finish(fleet)
    fleet.set_source("oci://r.test/m/digits:2")
    fleet.run_for(timedelta(seconds=1))
    fleet.plan_seconds.clear()
    fleet.counts.clear()
    _finish(fleet)
    running = sorted(fleet.plan_seconds)
    written = dict(fleet.counts)
    fleet.plan_seconds.clear()
    fleet.counts.clear()
    fleet.run_for(timedelta(minutes=10))
    print(f"{'one rollout over 1,000 nodes':<34}{'':>10}")
    print(f"{'  plans':<34}{len(running):>10}")
    print(f"{'  a plan, median, ms':<34}{1000 * running[len(running) // 2]:>10.1f}")
    print(f"{'  a plan, p99, ms':<34}{1000 * running[len(running) * 99 // 100]:>10.1f}")
    print(f"{'  orders per node':<34}{written['Order'] / NODES:>10.2f}")
    print(f"{'  all writes per node':<34}{sum(written.values()) / NODES:>10.2f}")
    settled = sorted(fleet.plan_seconds)
    print(f"{'  a plan when settled, median, ms':<34}{1000 * settled[len(settled) // 2]:>10.1f}")
    print(f"{'  writes in 10 settled minutes':<34}{sum(fleet.counts.values()):>10}")
    return 0


def _finish(fleet: FleetSimulator) -> None:
    if not fleet.run_until(lambda one: one.is_quiet()):
        raise SystemExit(f"the rollout does not end: {fleet.last}")
