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

    tally.go_on_from({NEW: [100, 7]})

    assert tally.add(then)[NEW] == said


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
