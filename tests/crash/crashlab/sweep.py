"""A real agent, disturbed once: killed at a point, or told that a system call has failed.

- After a kill a second agent goes on. After an error the same one does; where it has ended, another
  one is started, as a DaemonSet would.
- It must come to where its order wants it, keep the rules on the way, leave nothing behind, and say
  what was wrong.
"""

import shutil
import signal
import time
from typing import NamedTuple

from crashlab.node import KILLED, wait_until
from crashlab.points import ERRORS, KILL, STEP, Point
from crashlab.scenarios import has_ended, why_not

_SAID_S = 20.0
_COMES_S = 1.0
"""So long is a point waited for that comes after the end: an eviction, a last note."""


class Outcome(NamedTuple):
    """What came of one disturbance."""

    point: Point
    fault: str
    hit: bool
    """False: the point did not come again in that run."""
    wrong: tuple[str, ...]


def disturb(lab, recording, point, fault, *, mutant=None, patience_s=90.0):
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
        way = _Way(node, recording, fault, mutant, output)
        wrong = way.go(patience_s)
        hit = way.hit
        if hit and fault in ERRORS and not wrong and point.is_told:
            wrong = _silence(node, fault)
    finally:
        node.stop()
    if not wrong:
        shutil.rmtree(node.home)
    return Outcome(point, fault, hit, tuple(wrong))


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


class _Way:
    """The way to the end of the story."""

    def __init__(self, node, recording, fault, mutant, output):
        self._node, self._recording, self._mutant = node, recording, mutant
        self._ends_with = {KILL: -signal.SIGKILL, STEP: KILLED}.get(fault)
        self._output = output
        self._restarts = 0

    @property
    def hit(self):
        """Whether the point has come."""
        if self._ends_with is not None:
            return self._restarts > 0
        return self._output.exists() and "INJECTED" in self._output.read_text("ascii")

    def go(self, patience_s):
        """Go; return what was wrong. What is still to come after the end is waited for, shortly."""
        node, scenario = self._node, self._recording.scenario
        try:
            wait_until(self._arrives, what=lambda: why_not(node, scenario), timeout_s=patience_s)
            self._wait_hit()
            self._assert_rules()
        except AssertionError as error:
            return [str(error)]
        return []

    def _wait_hit(self):
        end = time.monotonic() + _COMES_S
        wait_until(
            lambda: self._arrives() and (self.hit or time.monotonic() > end),
            what=lambda: why_not(self._node, self._recording.scenario),
        )

    def _arrives(self):
        """Tell whether it is there; start the agent again where it has ended."""
        node = self._node
        if (ended := node.agent.poll()) is not None:
            assert self._restarts < 2, f"the agent ends again and again: {ended} {node.tail()}"
            as_told = ended == self._ends_with and self._restarts == 0
            assert as_told or self._ends_with is None, f"it ended by itself: {ended} {node.tail()}"
            self._assert_rules(rotten=self._recording.leaves)
            self._restarts += 1
            node.start_agent(mutant=self._mutant)
        return has_ended(node, self._recording.scenario, self._recording.revision)

    def _assert_rules(self, *, rotten=None):
        self._node.assert_rule_2(rotten=rotten)
        self._node.assert_rule_3(self._recording.baseline)
