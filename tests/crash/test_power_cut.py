"""What a power cut may leave, enumerated from recordings of the real agent; ``make crash``: more.

- Every name and every byte that was not synced is lost, kept, or torn; in each such state the rules
  hold, and the agent's own start goes on from it.
- A mistake in the order of writing is found: each of those that are seeded here.
"""

import pytest
from crashlab import record
from crashlab.check import Boot, Expected, violations
from crashlab.disk import crash_states
from crashlab.log import ROOT, Ack, Enter, Log, Sync, Write
from crashlab.mutants import MUTANTS
from crashlab.power import cut, dice, go_on
from crashlab.scenarios import SCENARIOS, record_scenario
from crashlab.sweep import disturb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(record.missing() is not None, reason=str(record.missing())),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    return Boot(tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="module")
def recorded(lab):
    """Recordings, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = record_scenario(lab, SCENARIOS[name])
        return made[name]

    return get


@pytest.mark.parametrize("name", ["first activation", "update and eviction", "removal"])
def test_rules_2_and_3_hold_in_whatever_a_power_cut_leaves(recorded, boot, name):
    cuts = cut(recorded(name), boot=boot, rng=dice(4), per_point=12)

    assert not cuts.wrong
    assert len(cuts.states) >= 60


def test_rule_8_the_agent_goes_on_from_a_power_cut_and_from_a_second_one(lab, recorded, boot):
    recording, rng = recorded("update"), dice(5)
    held = cut(recording, boot=boot, rng=rng, per_point=2).held

    again = go_on(lab, recording, rng.choice(held))
    cuts = cut(again, boot=boot, rng=rng, per_point=2)

    assert not cuts.wrong
    assert again.revision == recording.revision


_BY_A_CUT = {
    "no-file-fsync": ("update", "which it never was or is no more"),
    "no-directory-fsync": ("update", "the journal calls"),
    "baseline-evicted-too-early": ("update under the baseline", "rule 3: the baseline"),
    "current-before-the-store": ("update", "which is not complete"),
    "journal-before-its-data": ("update", "the journal knows"),
}
"""The story that it is found in, and what is said of it."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_that_is_seeded_is_found(lab, recorded, mutant):
    if mutant in _BY_A_CUT:
        story, sentence = _BY_A_CUT[mutant]
        ill = record_scenario(lab, SCENARIOS[story], mutant=mutant)
        assert finds(sentence, ill)
        assert not finds("", recorded(story))
        return
    recording = recorded("update")
    point = next(p for p in recording.points if p.call == "rename" and "-current" in (p.path or ""))

    well = disturb(lab, recording, point, "EIO")
    ill = disturb(lab, recording, point, "EIO", mutant=mutant, patience_s=5)

    assert well.hit
    assert not well.wrong
    assert "File exists" in str(ill.wrong)


def finds(sentence, recording):
    """Tell whether one of the sentences about a recording's states has ``sentence`` in it."""
    seen = Expected(recording.log).seen
    states = crash_states(recording.log, rng=dice(6), per_point=16)
    return any(
        sentence in said
        for state in states
        for said in violations(state.tree, seen[state.after], recording)
    )


# --- the model itself, on paper -------------------------------------------------------------------


def left(*steps, per_point=64):
    """Return the trees that a power cut may leave after the last step."""
    kinds = {ROOT: "d", 1: "f", 2: "f", 3: "d", 4: "f"}
    log = Log(kinds, {ROOT: {"old": 4, "dir": 3}, 3: {}}, {4: b"old"}, list(steps), [])
    states = crash_states(log, rng=dice(7), per_point=per_point, choose=lambda n: n == len(steps))
    return [state.tree for state in states]


def test_what_is_written_and_not_synced_may_be_lost_torn_or_kept():
    content = b"a" * 600

    trees = left(Enter(((ROOT, "new", 1),)), Write(1, 0, content), Sync(ROOT))

    found = {tree["new"] for tree in trees}
    assert {b"", content, b"\0" * 600, content[:512], content[:512] + b"\0" * 88} <= found


def test_what_is_synced_is_there():
    trees = left(Enter(((ROOT, "new", 1),)), Write(1, 0, b"x"), Sync(1), Sync(ROOT))

    assert trees == [{"old": b"old", "dir": "d", "new": b"x"}]


def test_a_rename_is_done_or_not_and_never_half():
    trees = left(Enter(((ROOT, "old", None), (3, "moved", 4))))

    assert sorted(trees, key=len) == [
        {"old": b"old", "dir": "d"},
        {"dir": "d", "dir/moved": b"old"},
    ]


def test_names_in_two_directories_may_come_in_any_order_until_each_is_synced():
    trees = left(Enter(((ROOT, "a", 1),)), Enter(((3, "b", 2),)))

    assert {frozenset(tree) - {"old", "dir"} for tree in trees} == {
        frozenset(),
        frozenset({"a"}),
        frozenset({"dir/b"}),
        frozenset({"a", "dir/b"}),
    }


def test_an_acknowledgement_is_no_point_at_which_something_changes():
    assert left(Enter(((ROOT, "a", 1),)), Ack("after.Swap")) == []
