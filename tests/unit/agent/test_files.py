"""Files for a program of the user's own: swapped, told, asked for health; the server lets go."""

from dataclasses import replace

import pytest
from paper_node import NOON, Node, PowerCutError, order

from linnet_agent import outcome
from linnet_agent.journal import Facts, Goal, Journal, Known, Step
from linnet_api.reasons import NodeReason, NodeState


class FilesNode(Node):
    """A node whose models are files, and a program that must be told of a swap."""

    def __init__(self, *, hook=True):
        super().__init__()
        self.hook = hook
        self.sick = {}
        self.uses = None
        """What the program has in memory."""
        self.told = []
        self.removed = 0

    def facts(self):
        return replace(super().facts(), hook=self.hook, sick=self.sick.get(self.uses, ""))

    def restart_server(self):
        self.active = self.staged = None

    def _do_fetch(self, action, facts):
        after = super()._do_fetch(action, facts)
        files = replace(after.known[action.revision], runtime="Files", tested=True)
        return replace(after, known={**after.known, action.revision: files})

    def _do_flip(self, action, facts):
        self.tick()
        assert self.current == action.revision, "the program finds what it is told of"
        if self.active is not None:
            self.active, self.removed = None, self.removed + 1
        self.tick()
        self.uses = action.revision
        self.told.append(action.revision)
        return outcome.succeed(self.journal, action, facts)


def files_order(revision="r1", **more):
    return order(revision, runtime="Files", **more)


def active_node(*revisions):
    node = FilesNode()
    for sequence, revision in enumerate(revisions or ("r1",), start=1):
        node.run_through(files_order(revision, sequence=sequence))
        assert node.journal.state is NodeState.ACTIVE
    return node


def test_the_program_is_told_once_after_each_swap():
    node = active_node("r1", "r2")

    assert node.told == ["r1", "r2"]
    assert node.current == node.uses == "r2"
    assert node.run().step is Step.REST


def test_where_there_is_no_hook_nobody_is_told():
    node = FilesNode(hook=False)

    node.run_through(files_order())

    assert node.journal.state is NodeState.ACTIVE
    assert node.told == []


def test_a_hook_that_fails_takes_the_swap_back_and_tells_the_program():
    node = active_node("r1")
    node.broken = {(Step.FLIP, "r2"): NodeReason.HOOK_FAILED}

    node.run_through(files_order("r2", sequence=2))

    assert node.journal.state is NodeState.REVERTED
    assert node.journal.reason is NodeReason.HOOK_FAILED
    assert node.current == node.uses == "r1"
    assert node.told == ["r1", "r1"]
    assert node.journal.condemned == ()


def test_a_first_model_whose_hook_fails_is_unloaded():
    node = FilesNode()
    node.broken = {(Step.FLIP, "r1"): NodeReason.HOOK_FAILED}

    node.run_through(files_order())

    assert node.journal.state is NodeState.REVERTED
    assert node.current is None


def test_a_hook_that_fails_on_the_way_back_is_tried_until_it_does_not():
    node = active_node("r1")
    node.broken = {
        (Step.FLIP, "r2"): NodeReason.HOOK_FAILED,
        (Step.FLIP, "r1"): NodeReason.HOOK_FAILED,
    }
    node.run_through(files_order("r2", sequence=2))
    assert node.journal.revert is not None
    assert node.current == "r1"

    node.broken = {}
    node.run()

    assert node.journal.revert is None
    assert node.journal.state is NodeState.REVERTED
    assert node.uses == "r1"


def test_a_program_that_is_not_well_when_its_soak_ends_goes_back():
    node = active_node("r1")
    node.sick = {"r2": "health: http://x answered 503"}

    node.run_through(files_order("r2", sequence=2))

    assert node.journal.state is NodeState.REVERTED
    assert node.journal.reason is NodeReason.SOAK_FAILED
    assert "answered 503" in node.journal.message
    assert node.current == node.uses == "r1"


def test_a_program_has_until_the_end_of_its_soak_to_be_well():
    node = active_node("r1")
    node.sick = {"r2": "warming up"}
    node.give(files_order("r2", sequence=2))
    while (action := node.step()).step is not Step.WAIT:
        pass
    assert node.journal.state is NodeState.SOAKING
    node.sick = {}
    node.now = action.until

    node.run()

    assert node.journal.state is NodeState.ACTIVE
    assert node.current == "r2"


def test_a_model_that_comes_again_is_told_again():
    node = active_node("r1")
    node.run_through(files_order(sequence=2, goal=Goal.ABSENT))

    node.run_through(files_order("r1", sequence=3))

    assert node.told == ["r1", "r1"]


def test_a_hook_that_comes_to_a_node_at_rest_is_not_run():
    node = FilesNode(hook=False)
    node.run_through(files_order())
    node.hook = True

    assert node.run().step is Step.REST
    assert node.told == []


def test_files_that_were_fetched_again_are_told_of():
    node = active_node("r1")
    node.corrupt = {"r1": "rot"}

    node.run()

    assert not node.corrupt
    assert node.told == ["r1", "r1"]
    assert node.journal.state is NodeState.ACTIVE


def test_the_server_lets_go_of_what_the_program_takes_over():
    node = FilesNode()
    node.run_through(files_order("r1"))
    node.active = "r0"  # what it served before the deployment changed its runtime

    node.run()

    assert node.active is None
    assert node.removed == 1
    assert node.run().step is Step.REST


@pytest.mark.slow
def test_rule_8_a_power_cut_anywhere_ends_with_the_program_told():
    cuts = 0
    while True:
        node = active_node("r1")
        node.sick = {"r2": "not well"} if cuts % 2 else {}
        node.give(files_order("r2", sequence=2))
        before = list(node.told)
        try:
            node.cut_after = cuts // 2
            node.run()
        except PowerCutError:
            node.cut_power()
        finished = node.cut_after is not None and node.cut_after >= 0
        node.cut_after = None
        node.run()

        assert node.current == node.uses == ("r1" if node.sick else "r2"), cuts
        assert node.told != before
        cuts += 1
        if finished and cuts % 2 == 0:
            break
    assert cuts > 10


def test_a_journal_of_before_has_nobody_told():
    known = Known(artifact="a", model_digest="m", runtime="Files", policy_hash="t1", tested=True)
    journal = Journal(known={"r1": known}, committed="r1")

    assert journal.told is None
    assert not Facts(now=NOON).hook
