"""The seven acts. Each returns what was seen, or raises ``ActFailedError`` with what it saw.

- An act leaves the fleet settled: the next one starts from a known place.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from linnet_api.reasons import RolloutPhase
from linnet_testbed.demo.stage import ActFailedError, Stage

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Act:
    """An act of the demo."""

    name: str
    expected: str
    play: Callable[[Stage], str]


def first_rollout(stage: Stage) -> str:
    """Act 1."""
    digest = stage.publish("1.0")
    stage.trust(stage.key[1])
    stage.deploy("1.0")
    _completed(stage, digest, "1.0", limit_s=120)
    _everyone_serves(stage, digest)
    return f"10 of 10 nodes serve 1.0 (accuracy {stage.accuracy['1.0']:.0%})"


def better_model(stage: Stage) -> str:
    """Act 2."""
    digest = stage.publish("1.1")
    stage.deploy("1.1")
    rollout = _completed(stage, digest, "1.1", limit_s=300)
    _everyone_serves(stage, digest)
    steps = rollout["status"]["steps"]
    decided = [d for d in rollout["status"]["decisions"] if d["verdict"] == "Pass"]
    if [s["quota"] for s in steps][:3] != [1, 3, 8]:
        raise ActFailedError(
            f"expected steps of 1, 3 and 8 nodes, saw {[s['quota'] for s in steps]}"
        )
    if len(decided) < 3:
        raise ActFailedError(f"expected a Pass before each step's end, saw {len(decided)}")
    return (
        f"steps of {', '.join(str(s['quota']) for s in steps)} nodes, "
        f"{len(decided)} looks said Pass, then the {steps[-1].get('control', 0)} nodes held back "
        f"as control; 10 of 10 serve 1.1 "
        f"(accuracy {stage.accuracy['1.1']:.0%})"
    )


def worse_model(stage: Stage) -> str:
    """Act 3."""
    return _taken_back(stage, "2.0", metric="wrong")


def failing_model(stage: Stage) -> str:
    """Act 4."""
    return _taken_back(stage, "2.1", metric="errors")


def refused_models(stage: Stage) -> str:
    """Act 5."""
    good = _served_by_all(stage)
    untrusted = partial(stage.publish, trusted=False)
    seen = [
        _refused(stage, good, version=version, reasons=reasons, publish=publish)
        for version, reasons, publish in (
            ("2.2", {"ContentNotSigned", "BadSignature"}, partial(stage.publish, tamper=True)),
            ("2.3", {"UntrustedKey"}, untrusted),
            ("2.4", {"Unsigned"}, partial(stage.publish, signed=False)),
            ("2.5", {"WrongModelName"}, partial(stage.publish, model="factory/brakes")),
        )
    ]
    stage.say("a compromised hub adds its own key to the TrustPolicy, and sends a model of its own")
    stage.trust(stage.key[1], stage.rogue_key[1])
    seen.append(_refused(stage, good, version="2.6", reasons={"Ceiling"}, publish=untrusted))
    stage.trust(stage.key[1])
    return "; ".join(seen) + "; all ten serve 1.1 on"


def two_nodes_cut_off(stage: Stage) -> str:
    """Act 6."""
    lost = ("edge-3", "edge-8")
    for name in lost:
        stage.bed.node(name).cut()
    stage.say(f"{' and '.join(lost)} lose their network; their clients go on asking them")
    digest = stage.publish("1.2")
    stage.deploy("1.2")
    rollout = _completed(stage, digest, "1.2", limit_s=300)
    serving = stage.serving()
    if any(serving[name] == digest for name in lost):
        raise ActFailedError("a node without network reported the new model")
    said = (
        rollout["status"].get("message") or stage.deployment()["status"]["conditions"][0]["message"]
    )
    for name in lost:
        stage.bed.node(name).restore()
    stage.say(f"{' and '.join(lost)} are back")
    _everyone_serves(stage, digest)
    return f"{said}; back again, both caught up by themselves: 10 of 10 serve 1.2"


def killed_in_the_middle(stage: Stage) -> str:
    """Act 7."""
    before = _orders(stage)
    digest = stage.publish("1.3")
    stage.deploy("1.3")
    stage.watch_rollout(
        digest, version="1.3", until=lambda status: status.get("phase") == "Baking", limit_s=180
    )
    stage.bed.operator.kill()
    stage.say("the operator is killed (SIGKILL), and started again")
    stage.bed.operator.start()
    victim = stage.wait_until(
        lambda: _activating(stage),
        limit_s=180,
        what="a node in the middle of its activation",
        seen=lambda: str(_states(stage)),
    )
    stage.bed.node(victim).agent.kill()
    stage.say(f"the agent of {victim} is killed (SIGKILL) during its activation, and started again")
    stage.bed.node(victim).agent.start()
    rollout = _completed(stage, digest, "1.3", limit_s=300)
    _everyone_serves(stage, digest)
    steps = [(d["step"], d["action"]) for d in rollout["status"]["decisions"]]
    twice = [step for step, count in Counter(steps).items() if count > 1 and step[1] == "Advance"]
    after = _orders(stage)
    orders = {node: after[node] - count for node, count in before.items()}
    if twice:
        raise ActFailedError(f"acted twice on one decision: {twice}")
    return (
        f"both came back; {len(steps)} decisions, none taken twice; each node was asked "
        f"{min(orders.values())} to {max(orders.values())} times; 10 of 10 serve 1.3"
    )


ACTS = (
    Act(
        "digits 1.0, signed: the first rollout",
        "all ten nodes verify it, activate it and serve it",
        first_rollout,
    ),
    Act(
        "digits 1.1, better: canary steps",
        "1 node, 30 %, 100 % less two controls, each step on evidence, the controls last",
        better_model,
    ),
    Act(
        "digits 2.0, worse in a way no self-test sees",
        "judged bad on live feedback at step 1 or 2; who took it is back on 1.1, "
        "the rest never saw it",
        worse_model,
    ),
    Act(
        "digits 2.1, fails on some inputs",
        "judged bad on errors at step 1 or 2; who took it is back on 1.1, the rest never saw it",
        failing_model,
    ),
    Act(
        "tampered, untrusted, unsigned, misnamed; then a compromised hub",
        "all ten refuse each, fetch no blob, and serve 1.1 on; the ceiling holds against the hub",
        refused_models,
    ),
    Act(
        "digits 1.2, good, while two nodes are cut off",
        "the rollout finishes without them and says so; they catch up by themselves",
        two_nodes_cut_off,
    ),
    Act(
        "the operator and an agent are killed (SIGKILL) in the middle",
        "both come back and the work goes on, once",
        killed_in_the_middle,
    ),
)


def _completed(stage: Stage, digest: str, version: str, *, limit_s: float) -> Status:
    rollout = stage.watch_rollout(digest, version=version, until=_ended, limit_s=limit_s)
    if rollout["status"]["phase"] != "Completed":
        raise ActFailedError(f"{rollout['status']['phase']}: {rollout['status'].get('message')}")
    return rollout


def _ended(status: Status) -> bool:
    phase = status.get("phase")
    return phase is not None and RolloutPhase(phase).ended


def _taken_back(stage: Stage, version: str, *, metric: str) -> str:
    good = _served_by_all(stage)
    digest = stage.publish(version)
    stage.deploy(version)
    rollout = stage.watch_rollout(digest, version=version, until=_ended, limit_s=300)
    status = rollout["status"]
    if status["phase"] != "RolledBack":
        raise ActFailedError(f"{status['phase']}: {status.get('message')}")
    if status["step"] > 2:
        raise ActFailedError(f"it went as far as step {status['step']}")
    if metric not in status.get("message", ""):
        raise ActFailedError(f"{metric} is not what it was judged on: {status.get('message')}")
    _everyone_serves(stage, good)
    touched = _touched(stage, rollout["spec"]["to"]["revision"])
    quota = status["steps"][-1]["quota"]
    if len(touched) > quota:
        raise ActFailedError(f"{sorted(touched)} saw it, the quota was {quota}")
    return (
        f"{status['message']}; seen by {', '.join(sorted(touched))} only; "
        f"accuracy {stage.accuracy[version]:.0%} against {stage.accuracy['1.1']:.0%}"
    )


def _touched(stage: Stage, revision: str) -> set[str]:
    """Return the nodes on which the clients were answered by ``revision``."""
    return {node for node, counts in stage.counts().items() if revision in counts["by_revision"]}


def _refused(
    stage: Stage, good: str, *, version: str, reasons: set[str], publish: Callable[[str], str]
) -> str:
    fetched_before = stage.fetched_bytes()
    digest = publish(version)
    stage.deploy(version, policy="at-once")
    rollout = stage.watch_rollout(digest, version=version, until=_ended, limit_s=120)
    if rollout["status"]["phase"] != "Refused":
        raise ActFailedError(f"{rollout['status']['phase']}: {rollout['status'].get('message')}")
    found = {
        node: item["status"].get("verification", {}).get("reason", "")
        for node, item in stage.node_models().items()
    }
    wrong = {node: reason for node, reason in found.items() if reason not in reasons}
    if wrong:
        raise ActFailedError(f"{version}: expected {sorted(reasons)} on every node, saw {wrong}")
    if (fetched := stage.fetched_bytes() - fetched_before) > 0:
        raise ActFailedError(
            f"{version}: nodes fetched {fetched} bytes of a model that they refuse"
        )
    _everyone_serves(stage, good)
    reason = Counter(found.values()).most_common(1)[0][0]
    return f"{version} {reason} on {len(found)} of {len(found)}"


def _everyone_serves(stage: Stage, digest: str) -> None:
    stage.wait_until(
        lambda: True if set(stage.serving().values()) == {digest} else None,
        limit_s=90,
        what=f"ten nodes that serve {digest[:19]}",
        seen=lambda: str(stage.serving()),
    )


def _served_by_all(stage: Stage) -> str:
    served = set(stage.serving().values())
    if len(served) != 1:
        raise ActFailedError(f"the fleet is not settled: it serves {sorted(served)}")
    return served.pop()


def _orders(stage: Stage) -> Counter[str]:
    return Counter(
        {node: item["metadata"]["generation"] for node, item in stage.node_models().items()}
    )


def _states(stage: Stage) -> dict[str, str]:
    return {node: item["status"].get("state", "") for node, item in stage.node_models().items()}


def _activating(stage: Stage) -> str | None:
    busy = {"Verifying", "Fetching", "SelfTesting", "Activating", "Soaking"}
    return next((node for node, state in sorted(_states(stage).items()) if state in busy), None)
