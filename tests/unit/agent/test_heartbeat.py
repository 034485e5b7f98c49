"""The heartbeat against a hub that answers as a test says, and with clocks that jump."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from linnet_agent.heartbeat import Heartbeat, lease
from linnet_agent.sync import Link

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times[0] if len(self.times) == 1 else self.times.pop(0)


@pytest.fixture
def beats(hub):
    def make(*times, beat_s=0.01):
        link = Link()
        heartbeat = Heartbeat(
            hub, link, node="edge-1", beat_s=beat_s, clock=Clock(*times), jitter=lambda: 0.5
        )
        return heartbeat, link

    return make


def renewals(fake):
    return [json.loads(request.body)["spec"]["renewTime"] for request in fake.seen("PATCH")]


async def test_a_clock_that_jumps_neither_stops_nor_hastens_the_beat(fake, beats):
    jumps = (NOON, datetime(1970, 1, 1, tzinfo=UTC), NOON + timedelta(days=9000), NOON)
    heartbeat, link = beats(*jumps)

    for _ in jumps:
        await heartbeat.beat({})
        async with asyncio.timeout(20):  # the pause is by the clock that never jumps
            await heartbeat.pause()

    assert renewals(fake) == [f"{at:%Y-%m-%dT%H:%M:%S.%fZ}" for at in jumps]
    assert link.up


async def test_a_lease_that_is_not_there_is_made(fake, beats):
    heartbeat, link = beats(NOON)
    none = fake.answer({"message": "none"}, status=404)
    fake.tell(none, none, fake.answer({}, status=201))

    await heartbeat.beat({"factory/defects/r1": [3, 1]})

    made = json.loads(fake.seen("POST")[0].body)
    assert made["metadata"]["annotations"]["linnet.dev/served"] == '{"factory/defects/r1":[3,1]}'
    assert link.up


async def test_counts_go_on_from_the_lease_which_is_read_until_it_was_once(fake, beats):
    heartbeat, _ = beats(NOON)
    served = {"factory/defects/r1": [100, 7]}
    there = lease(
        "edge-1", beat_s=1, now=NOON, served=served, before={"factory/defects/r1": [60, 7]}
    )
    fake.tell(fake.answer({}, status=503), fake.answer(there))

    await heartbeat.beat({"factory/defects/r1": [1, 0]})
    assert not fake.seen("PATCH")
    for requests in (3, 4):
        await heartbeat.beat({"factory/defects/r1": [requests, 0]})

    assert len(fake.seen("GET")) == 2
    written = [
        json.loads(request.body)["metadata"]["annotations"] for request in fake.seen("PATCH")
    ]
    assert [each["linnet.dev/served"] for each in written] == [
        '{"factory/defects/r1":[103,7]}',
        '{"factory/defects/r1":[104,7]}',
    ]
    assert written[-1]["linnet.dev/served-before"] == '{"factory/defects/r1":[100,7]}'


@pytest.mark.parametrize("status", [401, 403, 422])
async def test_a_hub_that_refuses_is_there(fake, beats, status):
    heartbeat, link = beats(NOON)
    fake.tell(fake.answer({"message": "no"}, status=status))

    await heartbeat.beat({})

    assert link.up


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_hub_that_cannot_now_is_away(fake, beats, status):
    heartbeat, link = beats(NOON)
    link.mark(up=True)
    fake.tell(fake.answer({"message": "later"}, status=status))

    await heartbeat.beat({})

    assert not link.up


def test_a_lease_outlives_three_beats_that_got_lost_and_never_lasts_nothing():
    assert lease("n", beat_s=2, now=NOON, served={})["spec"]["leaseDurationSeconds"] == 8
    assert lease("n", beat_s=0.2, now=NOON, served={})["spec"]["leaseDurationSeconds"] == 1
