"""A node's own counts go on over a restart of its server, as the metrics do."""

from linnet_agent.served import ServedTally

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
