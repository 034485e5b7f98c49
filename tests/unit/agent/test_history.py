"""Ends that came while nobody listened, told to a hub that answers as a test says."""

import asyncio
import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from linnet_agent.activate import WorkerView
from linnet_agent.history import MAX_EVENTS, History
from linnet_agent.journal import Goal, Journal, Judged, Known, Order
from linnet_agent.results import ResultQueue
from linnet_agent.store import ModelKey
from linnet_agent.sync import Desired, Link
from linnet_api.reasons import NodeReason, NodeState
from linnet_testbed.waiting import until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = ModelKey("factory", "defects")
KNOWN = Known(artifact="sha256:" + "a" * 64, model_digest="sha256:" + "b" * 64)
JUDGED = Judged(
    revision="r2",
    allowed=True,
    reason=NodeReason.NONE,
    message="",
    policy_hash="p",
    at=NOON,
    signer="release",
)


class Inner:
    def __init__(self):
        self.marked = []

    def mark(self, key):
        self.marked.append(key)

    async def report_now(self, key):
        pass


class Node:
    """What a node goes through, and who notes it."""

    def __init__(self, hub, directory):
        self.now = NOON
        self.inner, self.link = Inner(), Link()
        self.desired = Desired(directory / "desired", on_change=lambda _: None)
        (directory / "desired").mkdir(exist_ok=True)
        self.queue = ResultQueue(directory / "results")
        self.journal = Journal(known={"r1": KNOWN, "r2": KNOWN}, judged=JUDGED)
        self.history = History(
            self.inner,
            self.queue,
            hub=hub,
            link=self.link,
            desired=self.desired,
            node="edge-1",
            view=lambda _: WorkerView(self.journal, None, "r1", None, frozenset(), None),
            clock=lambda: self.now,
            grace_s=0.01,
        )
        self.task = None

    def start(self):
        self.task = asyncio.ensure_future(self.history.run())

    async def stop(self):
        assert not self.task.done(), self.task
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def ends(self, state, *, sequence=7, revision="r2", reason=NodeReason.NONE, message=""):
        self.now += timedelta(minutes=1)
        self.journal = dataclasses.replace(
            self.journal,
            observed_sequence=sequence,
            order=Order(sequence=sequence, goal=Goal.ACTIVE, revision=revision),
            state=state,
            reason=reason,
            message=message,
        )
        self.history.mark(KEY)

    def is_told(self, **status):
        item = {
            "metadata": {"namespace": "factory", "name": "defects-1", "uid": "u1"},
            "spec": {"deployment": "defects"},
            "status": status,
        }
        self.desired.put("factory/defects-1", item)


@pytest.fixture
async def node(hub, tmp_path):
    made = Node(hub, tmp_path)
    made.is_told()
    made.start()
    made.ends(NodeState.FETCHING)
    yield made
    await made.stop()


def events(fake):
    return [json.loads(request.body) for request in fake.seen("POST")]


async def kept(node, count):
    def there():
        return len(node.queue.pending(now=node.now)) == count

    await asyncio.to_thread(until, there, 20, f"{count} wait")


async def test_ends_that_nobody_heard_are_told_in_order_with_their_own_times(fake, node):
    node.ends(NodeState.ACTIVE, reason=NodeReason.ACTIVE)
    node.ends(NodeState.SOAKING, sequence=8)
    node.ends(
        NodeState.REVERTED, sequence=8, reason=NodeReason.SOAK_FAILED, message="7 of 9 failed"
    )
    await kept(node, 2)
    assert events(fake) == []

    node.link.mark(up=True)
    await fake.until(lambda: len(events(fake)) == 2)
    await kept(node, 0)

    first, second = events(fake)
    assert [first["reason"], second["reason"]] == ["Active", "SoakFailed"]
    assert [first["type"], second["type"]] == ["Normal", "Warning"]
    assert first["eventTime"] == "2026-01-01T12:02:00.000000Z"
    assert second["eventTime"] == "2026-01-01T12:04:00.000000Z"
    assert second["reportingInstance"] == "edge-1"
    assert second["regarding"]["name"] == "defects-1"
    assert second["regarding"]["uid"] == "u1"
    for word in ("Reverted", "r2", "order 8", "serves r1", KNOWN.model_digest, "release", "7 of 9"):
        assert word in second["note"]
    assert node.inner.marked == [KEY] * 4


async def test_an_end_that_the_status_has_told_is_not_told_again(fake, node):
    node.link.mark(up=True)
    node.ends(NodeState.ACTIVE)
    node.is_told(state="Active", revision="r2", observedSequence=7)
    node.ends(NodeState.SOAKING, sequence=8)
    node.is_told(state="Soaking", revision="r2", observedSequence=8)
    node.ends(NodeState.REVERTED, sequence=8)
    node.ends(NodeState.ACTIVE, sequence=9, reason=NodeReason.ACTIVE)

    await fake.until(lambda: len(events(fake)) == 2)
    await kept(node, 0)

    assert [event["note"].split(";")[0] for event in events(fake)] == [
        "Reverted of revision r2, order 8",
        "Active of revision r2, order 9",
    ]


async def test_what_is_no_end_is_not_kept(node):
    node.ends(NodeState.SELF_TESTING)
    node.ends(NodeState.ACTIVE, reason=NodeReason.ACTIVE)
    node.ends(NodeState.ACTIVE, reason=NodeReason.SERVER_UNAVAILABLE)
    node.ends(NodeState.ACTIVE, reason=NodeReason.ACTIVE)

    await kept(node, 1)


async def test_ends_survive_a_restart_and_a_hub_that_is_away(fake, hub, node, tmp_path):
    node.ends(NodeState.ACTIVE)
    await kept(node, 1)
    await node.stop()
    fake.tell(lambda _: None)
    again = Node(hub, tmp_path)
    again.start()
    again.link.mark(up=True)
    await fake.until(lambda: len(fake.seen("POST")) >= 2)
    assert len(again.queue.pending(now=NOON)) == 1

    fake.tell(fake.answer({"message": "exists"}, status=409))
    await kept(again, 0)

    assert len({event["metadata"]["name"] for event in events(fake)}) == 1
    await again.stop()
    node.start()


@pytest.mark.parametrize("status", [403, 404, 422])
async def test_what_the_hub_will_never_take_is_let_go(fake, node, status):
    fake.tell(fake.answer({"message": "no"}, status=status))
    node.ends(NodeState.ACTIVE)
    await kept(node, 1)

    node.link.mark(up=True)
    await kept(node, 0)

    assert len(events(fake)) == 1


async def test_no_more_than_the_newest_hundred_are_told(fake, node):
    for number in range(MAX_EVENTS + 20):
        node.ends(NodeState.ACTIVE, sequence=100 + number)
        if number == 40:
            await kept(node, 41)
    await kept(node, MAX_EVENTS + 20)

    node.link.mark(up=True)
    await kept(node, 0)

    told = [event["note"] for event in events(fake)]
    assert len(told) == MAX_EVENTS
    assert "order 219" in told[-1]
    assert "order 120" in told[0]


async def test_rule_11_an_idle_history_asks_nobody(fake, node):
    node.link.mark(up=True)
    node.history.mark(KEY)
    node.link.mark(up=False)
    node.ends(NodeState.ACTIVE)
    await kept(node, 1)

    assert fake.requests == []
