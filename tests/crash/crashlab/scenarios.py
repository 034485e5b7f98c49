"""What an agent is recorded, killed and disturbed in: whole stories, each with its end."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crashlab import record
from crashlab.disk import last_tree
from crashlab.log import Log, read_log, read_tree
from crashlab.node import Node, revision_of, stop, wait_until
from crashlab.points import DESCRIPTORS, READS, Point, call_points, changing_calls, named_points

from linnet_agent.journal import Goal
from linnet_api.reasons import NodeState

_NOON = "2026-11-21T12:00:00+00:00"
"""The agent's clock stands still, so that two runs of one story write the same bytes."""

R1, R2, R3, ODD = ("r1", 2.0), ("r2", 3.0), ("r3", 5.0), ("odd", 4.0)


@dataclass(frozen=True)
class Scenario:
    """An order, given to a node at rest, and what it must come to."""

    name: str
    start: str
    """Of ``STARTS``: what the node has done before."""
    give: Callable[[Node], str]
    """Gives the order and returns its revision."""
    state: NodeState = NodeState.ACTIVE
    runtime: str = "Files"
    baseline: tuple[str, float] | None = None
    """Must be on the disk all the time (rule 3)."""
    goes: tuple[tuple[str, float], ...] = ()
    """Must have left the disk in the end."""
    may_go: tuple[tuple[str, float], ...] = ()
    """May leave it."""
    leaves: tuple[str, float] | None = None
    """Serves at the start, and may not: it has rotted, or was revoked."""
    offline: bool = False
    served: bool = False
    """A server of its own runs along; without one there is only one that has no models."""


STARTS = {
    "empty": [],
    "r1": [lambda node: node.order(*R1, sequence=10)],
    "r1, r2": [
        lambda node: node.order(*R1, sequence=10),
        lambda node: node.order(*R2, sequence=20, baseline=R1),
    ],
}


def _rot(node):
    revision = node.order(*R2, sequence=20, baseline=R1)
    node.flip_a_bit(revision)
    return revision


def _revoke(node):
    node.revoke(R2)
    return node.order(*R2, sequence=20, baseline=R1)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("first activation", "empty", lambda node: node.order(*R1, sequence=10)),
        Scenario(
            "update",
            "r1",
            lambda node: node.order(*R2, sequence=20, baseline=R1),
            baseline=R1,
        ),
        Scenario(
            "update under the baseline",
            "r1, r2",
            lambda node: node.order(*R3, sequence=30, baseline=R1),
            baseline=R1,
        ),
        Scenario(
            "update and eviction",
            "r1, r2",
            lambda node: node.order(*R3, sequence=30, baseline=R2),
            baseline=R2,
            goes=(R1,),
        ),
        Scenario(
            "rollback offline",
            "r1, r2",
            lambda node: node.order(*R1, sequence=30, baseline=R1),
            baseline=R1,
            offline=True,
        ),
        Scenario(
            "removal",
            "r1, r2",
            lambda node: node.order(*R2, sequence=30, goal=Goal.ABSENT),
            state=NodeState.ABSENT,
            goes=(R1, R2),
        ),
        Scenario(
            "failed soak, revert",
            "r1",
            lambda node: node.order(*ODD, sequence=20, baseline=R1, soak_s=600, odd_rows_fail=True),
            state=NodeState.REVERTED,
            runtime="Linnet",
            baseline=R1,
            may_go=(ODD,),
            served=True,
        ),
        Scenario("rot, revert, repair", "r1, r2", _rot, baseline=R1, may_go=(R2,), leaves=R2),
        Scenario(
            "revocation offline",
            "r1, r2",
            _revoke,
            state=NodeState.REFUSED,
            baseline=R1,
            leaves=R2,
            offline=True,
        ),
    )
}


@dataclass(frozen=True)
class Recording:
    """What one scenario did to the disk, and what may be seen of it."""

    scenario: Scenario
    revision: str
    baseline: str | None
    """The revision that must be on the disk all the time."""
    may_go: frozenset[str]
    """The revisions that may leave it."""
    leaves: str | None
    """The revision that serves at the start, and may not."""
    root: str
    log: Log
    points: tuple[Point, ...]
    """Where an agent that does the same can be disturbed."""


class Lab:
    """Makes nodes at rest once, and copies them; has the server that Files need to see removed."""

    def __init__(self, home, publisher):
        self.home = home
        self.publisher = publisher
        self._settled = {}
        self._numbers = itertools.count(1)
        self._bystander = Node(home / "bystander", publisher)
        self._bystander.start_server()
        wait_until(self._bystander.socket.exists, what=lambda: "the server listens")

    def close(self):
        """End the server."""
        self._bystander.stop()

    def make(self, scenario, *, name="node"):
        """Return a node in the state in which the scenario begins; its order is not given yet."""
        node = self._new(scenario, f"{name}-{os.getpid()}-{next(self._numbers)}")
        shutil.rmtree(node.root)
        shutil.copytree(self.settled(scenario).root, node.root, symlinks=True)
        if scenario.offline:
            node.publisher = self.publisher.offline()
        return node

    def settled(self, scenario):
        """Return the node that has done what comes before the scenario."""
        key = (scenario.start, scenario.runtime)
        if key not in self._settled:
            node = self._new(scenario, f"settled-{len(self._settled)}")
            for give in STARTS[scenario.start]:
                at_rest = Scenario("at rest", "", give, runtime=scenario.runtime)
                if scenario.served:
                    node.start_server()
                run(node, at_rest, give(node))
            self._settled[key] = node
        return self._settled[key]

    def _new(self, scenario, name):
        socket = None if scenario.served else self._bystander.socket
        node = Node(self.home / name, self.publisher, runtime=scenario.runtime, socket=socket)
        node.set_clock(_NOON)
        return node


def run(node, scenario, revision, **more):
    """Let the node work until it is where the scenario ends, and end it.

    The agent ends by itself: killed in a call, it leaves a recording that does not say if it was
    done.
    """
    if scenario.served:
        node.start_server()
    node.start_agent(**more)
    try:
        finish(node, scenario, revision)
        stop(node.agent, signal.SIGTERM)
    finally:
        node.stop()


def finish(node, scenario, revision):
    """Wait until the node is where the scenario ends, and tidy."""

    def ended():
        assert node.agent.poll() is None, node.tail()
        return has_ended(node, scenario, revision)

    wait_until(ended, what=lambda: why_not(node, scenario))
    node.assert_rule_2()


def has_ended(node, scenario, revision):
    """Tell whether the node is where the scenario ends; a revert wants requests that fail."""
    if scenario.served:
        node.ask_if_served([1.0, 2.0, 3.0])
    active = scenario.state is not NodeState.ACTIVE or node.directory.read_current() == revision
    there = active and node.is_at(scenario.state, revision) and node.is_whole()
    return there and not node.litter(scenario.goes)


def why_not(node, scenario):
    """Return what there is to say of a node that does not get there."""
    return f"{scenario.state}: {node.journal()} left: {node.litter(scenario.goes)} {node.tail()}"


def record_scenario(lab, scenario, *, mutant=None, begin=None):
    """Run a scenario under strace and return what it did.

    Args:
        lab: Makes the node.
        scenario: What happens.
        mutant: A mistake that the agent is to make.
        begin: Writes the tree that the agent finds into a directory; None: the node at rest, and
            the order.
    """
    node = lab.make(scenario)
    revision = scenario.give(node)
    if begin is not None:
        begin(node.root)

    def act(tracer):
        run(node, scenario, revision, mutant=mutant, tracer=tracer)
        return node.agent.pid

    return _record(lab, scenario, node, revision, act)


NOTES = Scenario("policies and orders", "r1", lambda node: node.order(*R2, sequence=20))


def record_notes(lab):
    """Record the agent's parts that write down what a hub says: policies, and other orders."""
    node = lab.make(NOTES)
    revision = NOTES.give(node)
    program = Path(__file__).parent.with_name("notes_child.py")

    def act(tracer):
        process = subprocess.Popen(
            [*tracer, sys.executable, program, node.root],
            env={"LINNET_CRASH_LOG": str(node.log), "PATH": os.defpath},
        )
        assert process.wait(60) == 0
        return process.pid

    return _record(lab, NOTES, node, revision, act)


def _record(lab, scenario, node, revision, act):
    start, output = node.home / "start", node.home / "run.strace"
    shutil.copytree(node.root, start, symlinks=True)
    pid = act(record.tracer(output))
    _wait_complete(output, pid)
    calls = record.read_calls(output)
    log = read_log(calls, root=node.root, start=start, acknowledgements=node.log)
    assert read_tree(node.root) == last_tree(log), "the recording is not what happened"

    def revision_named(name):
        return revision_of(lab.publisher.publish(*name)[1])

    changing = changing_calls(log)
    found = call_points(
        calls, root=str(node.root), acknowledgements=str(node.log), changing=changing
    )
    return Recording(
        scenario=scenario,
        revision=revision,
        baseline=scenario.baseline and revision_named(scenario.baseline),
        may_go=frozenset(map(revision_named, (*scenario.goes, *scenario.may_go))),
        leaves=scenario.leaves and revision_named(scenario.leaves),
        root=str(node.root),
        log=log,
        points=(*named_points(log), *found),
    )


def find_more_points(lab, scenario):
    """Run a scenario once more; return its calls that change nothing: reads, and sockets."""
    node = lab.make(scenario)
    revision, output = scenario.give(node), node.home / "run.strace"
    more = (*READS, *DESCRIPTORS)
    run(node, scenario, revision, tracer=record.tracer(output, more=more))
    _wait_complete(output, node.agent.pid)
    calls = record.read_calls(output, whole=False)
    found = call_points(calls, root=str(node.root), acknowledgements=str(node.log))
    return tuple(point for point in found if point.call in more)


def _wait_complete(output, pid):
    """Return when strace, which may be slower than its child, has written the end."""
    end = re.compile(rf"^{pid} +\+\+\+ ", re.MULTILINE)
    wait_until(
        lambda: output.exists() and end.search(output.read_text("ascii")),
        what=lambda: f"strace has written {output}",
    )
