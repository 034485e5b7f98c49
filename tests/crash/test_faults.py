"""A real agent, killed or told of an error at a system call: some of them; ``make crash``: all.

Also: clocks that jump while the agent works.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from crashlab import record
from crashlab.points import ERRORS, KILL, STEP, can_meet
from crashlab.power import dice
from crashlab.scenarios import SCENARIOS, find_more_points, record_scenario
from crashlab.sweep import disturb

from linnet_api.reasons import NodeState

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(300)]
needs_strace = pytest.mark.skipif(record.missing() is not None, reason=str(record.missing()))

R1, R2 = ("r1", 2.0), ("r2", 3.0)
AT_ONCE = 3


@pytest.fixture(scope="module")
def recording(lab):
    return record_scenario(lab, SCENARIOS["update and eviction"])


@pytest.fixture(scope="module")
def points(lab, recording):
    return (*recording.points, *find_more_points(lab, recording.scenario))


@needs_strace
@pytest.mark.parametrize("fault", [STEP, KILL, *ERRORS])
def test_rules_2_3_and_8_a_fault_at_a_point_is_said_and_made_good(lab, recording, points, fault):
    possible = [point for point in points if can_meet(point, fault)]

    points = dice(8).sample(possible, AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda point: disturb(lab, recording, point, fault), points))

    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert any(outcome.hit for outcome in outcomes)


_ONCE_BROKEN = [
    pytest.param("EIO", "rename", "journal.json", 4, id="a verdict that was not written down"),
    pytest.param("EMFILE", "openat", "trust/policies.json", 1, id="policies not read at the start"),
    pytest.param("EIO", "openat", "desired/factory.digits.json", 1, id="an order not read"),
    pytest.param("EIO", "unlinkat", ".trash-", 1, id="an eviction that was not finished"),
    pytest.param("EMFILE", "openat", "serving.json", 3, id="a baseline that could not be read"),
]


@needs_strace
@pytest.mark.parametrize(("error", "call", "path", "number"), _ONCE_BROKEN)
def test_a_fault_that_once_broke_the_agent(lab, recording, error, call, path, number):
    point = next(
        p
        for p in recording.points
        if (p.call, p.number) == (call, number) and path in (p.path or "")
    )

    outcome = disturb(lab, recording, point, error)

    assert outcome.hit
    assert outcome.wrong == ()


@needs_strace
@pytest.mark.parametrize(("error", "call"), [("EMFILE", "openat"), ("EIO", "readv")])
def test_what_serves_is_not_left_because_it_could_not_be_read_once(
    lab, recording, points, error, call
):
    serving = lab.settled(recording.scenario).directory
    record = serving.read_records()[serving.read_current()]
    model = f"store/{record.model_digest.removeprefix('sha256:')}"
    point = next(p for p in points if p.call == call and (p.path or "").startswith(model))

    outcome = disturb(lab, recording, point, error)

    assert outcome.hit
    assert outcome.wrong == ()


@needs_strace
def test_every_call_that_changes_a_file_is_a_point_to_be_killed_at(recording):
    called = {point.call for point in recording.points if point.changes}

    assert {"openat", "write", "pwrite64", "rename", "symlink", "mkdir"} <= called
    assert {"unlink", "unlinkat", "rmdir"} & called


@pytest.mark.parametrize(
    "jump",
    [
        pytest.param("-1795000000", id="back to 1970"),
        pytest.param("+315360000", id="ten years on"),
    ],
)
def test_a_clock_that_jumps_in_the_soak_strands_nobody(make_node, settled, jump):
    node = make_node(copy_of=settled)
    revision = node.order(*R2, sequence=20, baseline=R1, soak_s=3)
    node.start_server()
    node.start_agent()
    node.wait_state(NodeState.SOAKING, revision)

    node.set_clock(jump)

    node.wait_active(revision)
    node.assert_rule_2()
    assert node.answer(2.0) == (6.0, revision)


@pytest.mark.parametrize("clock", ["-1795000000", "+315360000"])
def test_a_clock_that_is_wrong_from_the_start_keeps_no_signed_model_out(make_node, settled, clock):
    node = make_node(copy_of=settled)
    node.set_clock(clock)
    revision = node.order(*R2, sequence=20, baseline=R1)
    node.start_server()
    node.start_agent()

    node.wait_active(revision)

    assert node.answer(2.0) == (6.0, revision)
