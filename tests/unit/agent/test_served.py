"""A node's own counts go on over a restart of its server, as the metrics do."""

import pytest

from linnet_agent.served import ServedTally, read_reported

OLD, NEW, OTHER = "factory/digits/old", "factory/digits/new", "factory/letters/new"


def told(*answers):
    """Return what the heartbeats carry for a row of the server's answers."""
    tally = ServedTally()
    return [tally.add(each) for each in answers]


def test_a_count_that_begins_anew_goes_on_from_what_it_was():
    said = told({NEW: [100, 7]}, {}, {NEW: [3, 0]}, {NEW: [40, 2]}, {NEW: [1, 0]})

    assert said == [
        {NEW: [100, 7]},
        {},
        {NEW: [103, 7]},
        {NEW: [140, 9]},
        {NEW: [141, 9]},
    ]


def test_a_revision_that_comes_back_is_counted_from_its_new_activation():
    said = told({NEW: [100, 7], OTHER: [5, 0]}, {OLD: [9, 0], OTHER: [6, 0]}, {NEW: [2, 0]})

    assert said[1] == {OLD: [9, 0], OTHER: [6, 0]}
    assert said[2] == {NEW: [2, 0]}


def test_models_do_not_disturb_each_other():
    said = told({NEW: [10, 0], OTHER: [5, 0]}, {OTHER: [1, 0]}, {NEW: [2, 0], OTHER: [1, 0]})

    assert said[2] == {NEW: [12, 0], OTHER: [6, 0]}


@pytest.mark.parametrize(
    ("seen", "then", "said"),
    [
        ([{NEW: [120, 7]}], {NEW: [121, 7]}, [121, 7]),  # only the agent was away
        ([{NEW: [3, 0]}], {NEW: [4, 0]}, [104, 7]),  # the whole node was
        ([{}], {NEW: [3, 0]}, [103, 7]),  # the server is not back yet
        ([{NEW: [3, 0]}, {NEW: [500, 0]}], {NEW: [501, 0]}, [601, 7]),  # the hub was away for long
        ([{OLD: [9, 0]}], {NEW: [2, 0]}, [2, 0]),  # it was activated anew meanwhile
    ],
)
def test_what_was_reported_before_this_process_began_is_gone_on_from(seen, then, said):
    tally = ServedTally()
    for counts in seen:
        tally.add(counts)

    tally.go_on_from({NEW: [100, 7]}, {})

    assert tally.add(then)[NEW] == said


@pytest.mark.parametrize(
    ("now", "said", "before"),
    [
        ([41, 3], [141, 10], [100, 7]),  # the agent alone was away; the server goes on from 40
        ([5, 0], [145, 9], [140, 9]),  # the whole node was
    ],
)
def test_nothing_is_counted_twice_where_the_server_had_started_anew_before(now, said, before):
    tally = ServedTally()
    tally.add({NEW: now})

    tally.go_on_from({NEW: [140, 9]}, {NEW: [100, 7]})

    assert tally.of({NEW: now}) == {NEW: said}
    assert tally.before({NEW: now}) == {NEW: before}


def test_what_is_written_is_enough_to_go_on_from():
    """Server and agent start anew in turn; each answer of the server is a beat."""
    tally, counted, newest = ServedTally(), 0, {}
    for restarts, answers in [("", [3, 9]), ("server", [2, 5]), ("agent", [6, 8]), ("both", [1, 4]),
                              ("agent", [7]), ("server", [2]), ("agent", [2, 3])]:  # fmt: skip
        if restarts in ("agent", "both"):
            reported, before = tally.of(newest), tally.before(newest)
            tally = ServedTally()
            tally.add({NEW: [answers[0], 0]})
            tally.go_on_from(reported, before)
        if restarts in ("server", "both"):
            counted += newest[NEW][0]
        for answer in answers:
            newest = {NEW: [answer, 0]}
            said = tally.add(newest)
            assert said == {NEW: [counted + answer, 0]}, restarts


@pytest.mark.parametrize(
    "annotation",
    [
        None, 7, "", "[]", "{", '{"a/b/c": [1]}', '{"a/b/c": [1, true]}', '{"a/b/c": [-1, 0]}',
        '{"a/b/c": "x"}', '{"a/b/c": [1, 1e300]}', "[" * 100_000, "\ud800",
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_read_is_none(annotation):
    assert read_reported(annotation) == {}


def test_a_report_is_read_as_it_was_written():
    assert read_reported('{"a/b/c": [1, 0], "d/e/f": 7}') == {"a/b/c": [1, 0]}
