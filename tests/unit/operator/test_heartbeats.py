"""Heartbeats: our clock counts, the lease sets the pace, and what an agent says is checked."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from linnet_operator.heartbeats import Heartbeats, read_served
from linnet_operator.planner.model import Served

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Leases:
    """The part of the API server that lists Leases."""

    def __init__(self):
        self.items = []
        self.lists = 0

    async def list_pages(self, _resource, **_):
        self.lists += 1
        yield self.items


def lease(node="edge-1", renewed="2001-01-01T00:00:00.000000Z", seconds=6, served=None):
    metadata = {"name": node, "annotations": {"linnet.dev/served": served or ""}}
    return {"metadata": metadata, "spec": {"renewTime": renewed, "leaseDurationSeconds": seconds}}


@pytest.fixture
def leases():
    return Leases()


async def test_a_heartbeat_is_as_old_as_our_first_sight_of_it(leases):
    now = NOON
    beats = Heartbeats(leases, clock=lambda: now, poll_s=1e-9)
    leases.items = [lease(renewed="1999-12-31T23:59:59.000000Z")]
    await beats.refresh()

    now = NOON + timedelta(seconds=4)
    await beats.refresh()
    assert beats.of("edge-1").seen_at == NOON

    leases.items = [lease(renewed="1999-12-31T23:59:58.000000Z")]
    await beats.refresh()
    assert beats.of("edge-1").seen_at == now


async def test_leases_are_listed_three_times_in_the_shortest_of_them(leases):
    beats = Heartbeats(leases, clock=lambda: NOON, poll_s=10)
    assert beats.poll_s == 10

    leases.items = [lease(seconds=6), lease("edge-2", seconds=60)]
    await beats.refresh()

    assert beats.poll_s == 2


async def test_two_deployments_at_once_make_one_list(leases):
    beats = Heartbeats(leases, clock=lambda: NOON, poll_s=10)

    await beats.refresh()
    await beats.refresh()

    assert leases.lists == 1


async def test_a_node_without_a_lease_was_never_seen(leases):
    beats = Heartbeats(leases, clock=lambda: NOON, poll_s=10)

    await beats.refresh()

    assert beats.of("edge-1") is None


def test_counts_are_read_by_deployment_and_revision():
    said = json.dumps({"factory/digits/abc": [12, 3], "factory/other/def": [1, 0]})

    assert read_served(said)["factory/digits"] == {"abc": Served(requests=12, failures=3)}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        # One captured agent would stop every deployment's turns.
        pytest.param("[" * 100_000, id="too deep"),
        "[]",
        '{"factory/digits/abc": 5}',
        '{"factory/digits/abc": [1]}',
        '{"factory/digits/abc": [-1, 0]}',
        '{"factory/digits/abc": [true, 0]}',
        '{"factory/digits/abc": [1.5, 0]}',
        '{"abc": [1, 0]}',
    ],
)
def test_what_is_no_count_is_left_out(said):
    assert dict(read_served(said)) == {}
