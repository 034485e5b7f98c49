"""A real agent, disturbed once: killed at a point, or told that a system call has failed.

- After a kill a second agent goes on. After an error the same one does; where it has ended, another
  one is started, as a DaemonSet would.
- It must come to where its order wants it, keep the rules on the way, leave nothing behind, and say
  what was wrong.
"""

import shutil
import signal
from typing import NamedTuple

from crashlab.node import KILLED, wait_until
from crashlab.points import KILL, STEP, Point
from crashlab.scenarios import has_ended, why_not

_SAID_S = 5.0


class Outcome(NamedTuple):
    """What came of one disturbance."""

    point: Point
    fault: str
    hit: bool
    """False: the point did not come again in that run."""
    restarts: int
    wrong: tuple[str, ...]


def disturb(lab, recording, point, fault, *, mutant=None, patience_s=40.0):
    """Run the scenario of ``recording`` once more, disturbed at ``point``.

    Args:
        lab: Makes the node; it is removed where all went well.
        recording: The undisturbed run that the point is from.
        point: Where.
        fault: ``KILL``, or the name of an error.
        mutant: A mistake that the agent is to make.
        patience_s: So long may it take to get where its order wants it.
    """
    scenario = recording.scenario
    node = lab.make(scenario)
    assert scenario.give(node) == recording.revision
    output = node.home / "fault.strace"
    if scenario.served:
        node.start_server()
    try:
        if fault == STEP:
            node.start_agent(crash_at=str(point), mutant=mutant)
        else:
            node.start_agent(mutant=mutant, tracer=_tracer(node, point, fault, output))
        restarts, wrong = _get_there(node, recording, fault, mutant, patience_s)
        killed = fault in (STEP, KILL)
        hit = restarts > 0 if killed else "INJECTED" in output.read_text("ascii")
        if hit and not killed and not wrong and point.is_told:
            wrong = _silence(node, fault)
    finally:
        node.stop()
    if not wrong:
        shutil.rmtree(node.home)
    return Outcome(point, fault, hit, restarts, tuple(wrong))


def _tracer(node, point, fault, output):
    effect = "signal=KILL" if fault == KILL else f"error={fault}"
    on = () if point.path is None else ("-P", str(node.root / point.path).removesuffix("/."))
    return [
        *("strace", "-D", "-f", *on, "-e", f"trace={point.call}", "-o", str(output)),
        *("-e", f"inject={point.call}:{effect}:when={point.number}"),
    ]


def _silence(node, fault):
    """Return that nothing was said of a fault; what is done may be seen before it is said."""
    try:
        wait_until(lambda: node.said(fault), what=lambda: f"{fault} is said", timeout_s=_SAID_S)
    except AssertionError:
        return [f"nothing is said of {fault}"]
    return []


def _get_there(node, recording, fault, mutant, patience_s):
    """Wait for the end of the story; return how often the agent was started again, and faults."""
    scenario, restarts = recording.scenario, 0

    def arrived():
        nonlocal restarts
        if (ended := node.agent.poll()) is not None:
            assert restarts < 2, f"the agent ends again and again: {ended} {node.tail()}"
            killed = ended == {KILL: -signal.SIGKILL, STEP: KILLED}.get(fault, ended)
            assert killed, f"it ended by itself: {ended} {node.tail()}"
            node.assert_rule_2()
            node.assert_rule_3(recording.baseline)
            restarts += 1
            node.start_agent(mutant=mutant)
        return has_ended(node, scenario, recording.revision)

    try:
        wait_until(arrived, what=lambda: why_not(node, scenario), timeout_s=patience_s)
        node.assert_rule_2()
        node.assert_rule_3(recording.baseline)
    except AssertionError as error:
        return restarts, [str(error)]
    return restarts, []
