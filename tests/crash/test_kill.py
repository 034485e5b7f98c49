"""Kill the agent at every step, start it again, and look at what is left.

- At the kill: current is complete and verified, or nothing is active (rule 2).
- After it: the node gets where its order wants it, serves that, and leaves no litter (rule 8).
- The steps are not listed here: a first run writes down what it passes, the next ones die there.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from crashlab.node import KILLED

from linnet_agent.journal import Goal
from linnet_api.reasons import NodeState

pytestmark = [pytest.mark.slow, pytest.mark.crash]

R1, R2 = ("r1", 2.0), ("r2", 3.0)
AT_ONCE = 3


def run_to_the_end(node, revision, state):
    node.start_server()
    node.start_agent()
    node.wait_state(state, revision)
    node.stop()


def kill_everywhere(make_node, settled, numbered, *, give, state, part=slice(None)):
    """Kill once at each step that a clean run passes; return the table's rows."""
    clean = make_node("clean", copy_of=settled)
    revision = give(clean)
    run_to_the_end(clean, revision, state)
    steps = numbered(clean.passed())[part]

    def kill(number, step):
        node = make_node(f"kill-{number}", copy_of=settled)
        assert give(node) == revision
        node.start_server()
        assert node.start_agent(crash_at=step).wait(timeout=60) == KILLED, (step, node.tail())
        node.assert_rule_2()
        before = (str(node.state()), node.directory.read_current())
        if number % 3 == 0:
            # Every third time the whole node dies, and the server starts from the disk.
            node.stop()
            node.start_server()
        node.start_agent()
        node.wait_state(state, revision)
        node.assert_rule_2()
        node.wait_tidy()
        node.stop()
        return step, *before

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return revision, list(pool.map(kill, range(len(steps)), steps))


def show(title, rows):
    print(f"\n{title}: {len(rows)} kills, all made good")
    for step, state, current in rows:
        print(f"  {step:28} journal {state:12} current {current}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("third", [0, 1, 2])
def test_rules_2_and_8_a_kill_at_every_step_of_an_update(make_node, settled, numbered, third):
    def give(node):
        return node.order(*R2, sequence=20, baseline=R1)

    _, rows = kill_everywhere(
        make_node,
        settled,
        numbered,
        give=give,
        state=NodeState.ACTIVE,
        part=slice(third, None, 3),
    )

    show(f"update, part {third + 1} of 3", rows)
    assert len(rows) >= 8


@pytest.mark.timeout(600)
def test_rules_2_and_8_a_kill_at_every_step_of_a_removal(make_node, settled, numbered):
    def give(node):
        return node.order(*R1, sequence=20, goal=Goal.ABSENT)

    _, rows = kill_everywhere(make_node, settled, numbered, give=give, state=NodeState.ABSENT)

    show("removal", rows)


@pytest.mark.timeout(300)
def test_rule_3_a_kill_at_every_step_of_a_rollback_and_the_registry_is_gone(
    make_node, settled, numbered
):
    updated = make_node("updated", copy_of=settled)
    newer = updated.order(*R2, sequence=20, baseline=R1)
    run_to_the_end(updated, newer, NodeState.ACTIVE)
    updated.publisher = updated.publisher.offline()

    def give(node):
        node.publisher = updated.publisher
        return node.order(*R1, sequence=21, baseline=R1)

    older, rows = kill_everywhere(make_node, updated, numbered, give=give, state=NodeState.ACTIVE)

    show("rollback without a registry", rows)
    assert older != newer
