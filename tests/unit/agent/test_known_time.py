from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet_agent.known_time import RELEASED, KnownTime, Reading

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
YEAR_1970 = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY, YEAR = (
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=365),
)


class Node:
    """A node with a clock that can be set and one that cannot."""

    def __init__(self, path):
        self.path = path / "trust" / "known-time"
        self.uptime = 0.0
        self.clock = NOON
        self.boot()

    def boot(self):
        self.time = KnownTime(self.path, monotonic=lambda: self.uptime)

    def learn(self):
        self.time.note_hub(self.clock, system=self.clock)
        self.boot()

    def look(self, after=timedelta(), *, times=1):
        for _ in range(times):
            self.uptime += after.total_seconds()
            self.clock += after
            reading = self.time.now(self.clock)
        return reading


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    made.learn()
    return made


def test_a_clock_that_runs_is_what_time_it_is(node):
    assert node.look(HOUR) == Reading(NOON + HOUR, trusted=True)
    assert node.time.floor == NOON + HOUR


def test_a_clock_at_1970_is_not_trusted_and_it_is_as_late_as_is_known(node):
    node.look(HOUR)
    node.clock = YEAR_1970

    assert node.look(HOUR) == Reading(NOON + HOUR, trusted=False)
    assert node.look(HOUR) == Reading(NOON + HOUR, trusted=False)


def test_a_new_node_at_1970_knows_when_its_agent_was_released(tmp_path):
    node = Node(tmp_path)
    node.clock = YEAR_1970

    assert node.look() == Reading(RELEASED, trusted=False)


def test_a_clock_a_few_minutes_behind_is_trusted_and_never_goes_back(node):
    node.look(HOUR)
    node.clock -= 9 * MINUTE

    assert node.look() == Reading(NOON + HOUR, trusted=True)


def test_a_clock_that_jumps_ten_years_ahead_and_back_has_raised_nothing(node):
    node.look(HOUR)
    node.clock += 10 * YEAR
    assert node.look(MINUTE).trusted
    node.look(HOUR, times=12)
    node.clock -= 10 * YEAR

    assert node.look(MINUTE) == Reading(node.clock, trusted=True)


def test_a_clock_that_has_run_for_a_day_without_a_jump_is_believed(node):
    node.clock += 90 * DAY  # it was switched off
    node.look(HOUR, times=24)
    assert node.time.floor == NOON
    node.look(HOUR)

    assert node.time.floor == node.clock


def test_what_the_hub_says_too_is_believed_at_once(node):
    node.clock += 90 * DAY
    node.look()
    node.time.note_hub(node.clock + MINUTE, system=node.clock)

    assert node.time.floor == node.clock


def test_the_hub_alone_cannot_push_time_to_where_every_key_has_ended(node):
    for hours in range(1, 20_000):
        node.time.note_hub(NOON + hours * HOUR, system=NOON)

    assert node.time.floor == NOON + DAY


def test_the_hub_helps_a_node_whose_clock_has_stopped(node):
    node.clock = YEAR_1970
    node.time.note_hub(NOON + HOUR, system=node.clock)

    assert node.look() == Reading(NOON + HOUR, trusted=False)


def test_a_hub_that_says_otherwise_keeps_an_early_clock_from_being_believed(node):
    node.clock += 10 * YEAR
    for _ in range(40):
        node.look(HOUR)
        node.time.note_hub(node.clock - 10 * YEAR, system=node.clock)

    assert node.time.floor < NOON + 3 * DAY


def test_a_signed_time_is_known_to_have_passed(node):
    node.time.prove(NOON + 90 * DAY)

    assert node.look() == Reading(NOON + 90 * DAY, trusted=False)


def test_the_floor_survives_a_restart(node):
    node.look(HOUR, times=5)
    node.boot()
    node.clock = YEAR_1970

    assert node.look() == Reading(NOON + 5 * HOUR, trusted=False)


@pytest.mark.parametrize(
    "torn", [b"", b"2026-11-21T1", b"\xff\xfe", b"2926-11-21T12:00:00Z 00000000\n"]
)
def test_a_torn_file_costs_minutes_and_no_more(node, torn):
    node.look(11 * MINUTE, times=5)
    newest = max(node.path.parent.iterdir(), key=lambda slot: slot.read_text())
    newest.write_bytes(torn)
    node.boot()

    assert node.time.floor == NOON + 44 * MINUTE
    node.look(11 * MINUTE, times=2)
    node.boot()
    assert node.time.floor == NOON + 77 * MINUTE


def test_the_disk_is_written_every_ten_minutes_at_most(node):
    written = set()
    for _ in range(60):
        node.look(MINUTE)
        written |= {slot.read_text() for slot in node.path.parent.iterdir()}

    assert len(written) == 7


def test_a_disk_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "trust").write_text("not a directory")
    node = Node(tmp_path)

    node.time.note_hub(NOON, system=NOON)

    assert node.look(HOUR) == Reading(NOON + HOUR, trusted=True)


@pytest.mark.slow
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["look", "set", "hub", "boot"]),
            st.timedeltas(timedelta(days=-7000), timedelta(days=7000)),
        ),
        max_size=30,
    )
)
def test_known_time_never_goes_back(tmp_path_factory, acts):
    node = Node(tmp_path_factory.mktemp("node"))
    latest = RELEASED
    for act, by in acts:
        if act == "set":
            node.clock = NOON + by
        elif act == "hub":
            node.time.note_hub(NOON + by, system=node.clock)
        elif act == "boot":
            node.boot()
            assert node.time.floor > latest - 10 * MINUTE
            latest = node.time.floor
        reading = node.look(abs(by) / 1000)
        assert reading.now >= latest
        assert reading.trusted == (node.clock >= node.time.floor - 10 * MINUTE)
        latest = node.time.floor
