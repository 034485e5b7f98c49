"""The tables of the benchmark: what is shown of an outcome, and under which heading."""

import re

import pytest
from bench.decisions import report
from bench.decisions.measure import CLEARED, OURS, Outcome
from bench.decisions.scenarios import all_scenarios

SCENARIOS = all_scenarios()


def outcome(*alarms, **more):
    return Outcome(repetitions=len(alarms), alarms={OURS: list(alarms)}, **more)


@pytest.mark.parametrize(
    ("minutes", "share", "found"),
    [
        pytest.param([None] * 4, "0.0", "0/-/-", id="never"),
        pytest.param([9, 2, None, None], "50.0", "50/9/-", id="half of them"),
        pytest.param([5, 4, 3, 2, 1], "100.0", "100/3/4", id="all"),
        pytest.param([7, None, None], "33.3", "33/-/-", id="fewer than half"),
    ],
)
def test_times_are_those_of_half_and_of_four_fifths_of_all_models(minutes, share, found):
    assert report._share(minutes) == share
    assert report._found(minutes) == found


def test_where_a_model_was_never_taken_back_all_nodes_had_it():
    assert report._exposed([0.1, 0.25, None, None]) == "50.0 / 59"


def test_a_rise_that_is_never_excluded_is_a_dash():
    minutes = dict(zip(("5", "3", "2"), ([9, 11, None], [20, None, None], [1, 2, 3]), strict=True))

    assert report._cleared_cells(Outcome(repetitions=3, cleared=minutes)) == ["11", "-", "2"]
    assert report._cleared_cells(None) == ["-"] * len(CLEARED)


def rows(text, title):
    """Return our row of the first table below ``title``, as heading -> cell."""
    table = text.partition(title)[2]
    head, _, ours = [line for line in table.splitlines() if line.startswith("|")][:3]
    cells = zip(*(re.split(r" ?\| ?", line)[2:-1] for line in (head, ours)), strict=True)
    return {name: cell.strip("*") for name, cell in cells}


@pytest.mark.parametrize(
    ("prefix", "title"),
    [
        ("good-40-", "40 nodes, 4 of them candidates:"),
        ("good-10-", "10 nodes, 1 candidate:"),
        ("robust-", "Fleets on which nothing was tuned"),
    ],
)
def test_each_figure_stands_in_its_own_table_under_its_own_heading(prefix, title):
    chosen = [each for each in SCENARIOS if each.key.startswith(prefix)]
    kept = {
        each.key: outcome(*[1] * index, *[None] * (100 - index))
        for index, each in enumerate(chosen)
    }

    found = rows(report.section(kept), title)

    assert found == {each.title: f"{index:.1f}" for index, each in enumerate(chosen)}
    assert len(chosen) >= 9


def test_how_often_it_was_tried_and_what_none_then_means():
    kept = {
        "good-40-iid": outcome(*[None] * 300, asked=1),
        "good-40-soak": outcome(*[None] * 100),
        "bad-40-1to2": outcome(*[3] * 50, asked=2),
    }

    said = report.section(kept)

    assert f"3 of {len(SCENARIOS)} scenarios, 450 fleets, 50 to 300 of each." in said
    # The rule of three: none of 100 is below 3 %, at 95 %.
    assert "none of 100 taken back means below 3.0 % (95 %)" in said
    assert "In 3 of them the evidence rested on one node" in said
    assert report.section({}).endswith("Nothing has been measured yet.\n")
