"""The small size of the decision benchmark: the limits that the judge keeps, with fixed seeds."""

import numpy as np
import pytest
from bench.decisions import gate, report
from bench.decisions.generator import Fleet, make
from bench.decisions.measure import OURS, Outcome, run, run_batch
from bench.decisions.rivals import RIVALS
from bench.decisions.scenarios import all_scenarios

SCENARIOS = {each.key: each for each in all_scenarios()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "scenarios"), [("good", 22), ("robust", 9), ("rollout", 3), ("bad", 13)]
)
def test_no_limit_of_the_small_size_is_broken(part, scenarios):
    broken = [gate.problems(*each) for each in gate.measure(part, workers=2)]

    assert [problem for problems in broken for problem in problems] == []
    assert len(broken) == scenarios


def outcome(*alarms):
    return Outcome(repetitions=len(alarms), alarms={OURS: list(alarms)})


def test_the_gate_sees_false_rollbacks_and_slow_ones():
    good, bad = SCENARIOS["good-40-iid"], SCENARIOS["bad-40-1to2"]

    assert not gate.problems(good, outcome(3, *[None] * 99))
    assert "4 of 40 good models" in gate.problems(good, outcome(*[3] * 4, *[None] * 36))[0]
    assert not gate.problems(bad, outcome(8, 10, 100))
    assert "after 11 minutes" in gate.problems(bad, outcome(8, 11, 100))[0]
    assert "after inf minutes" in gate.problems(bad, outcome(8, None, None))[0]


@pytest.mark.parametrize(
    ("successes", "trials", "bound"), [(0, 40, 0.0), (4, 40, 0.02112), (10, 100, 0.04235)]
)
def test_the_lower_bound_is_clopper_and_pearsons(successes, trials, bound):
    assert gate.lower_bound(successes, trials) == pytest.approx(bound, abs=2e-4)


def test_a_repetition_does_not_depend_on_how_the_work_is_cut():
    scenario = SCENARIOS["bad-10-1to5"]
    whole = run_batch(scenario, 0, 3, "few")
    parts = run_batch(scenario, 0, 1, "few")
    parts.add(run_batch(scenario, 1, 3, "few"))

    assert whole == parts
    assert len(set(whole.alarms[OURS])) == 3, "each has dice of its own"


def test_a_rollout_ends_with_its_first_alarm():
    """What is kept is the share of nodes that had the candidate by then, not in a later step."""
    outcome = run_batch(SCENARIOS["rollout-1to5"], 0, 3, "few")

    shares = outcome.alarms[OURS]
    assert len(shares) == 3
    assert all(share is not None and share <= 0.1 for share in shares)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_where_it_was():
    scenario = SCENARIOS["good-10-rho02"]
    kept = {scenario.key: run_batch(scenario, 0, 1, "few")}
    kept[scenario.key].asked = 7

    ((_, outcome),) = run([scenario], 3, workers=1, kept=kept, looks="few")

    whole = run_batch(scenario, 0, 3, "few")
    assert (outcome.repetitions, outcome.alarms) == (3, whole.alarms)
    assert outcome.asked == whole.asked + 7, "the first repetition was not asked for again"
    assert kept[scenario.key].repetitions == 1


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_find_what_is_plainly_bad_and_not_what_is_equal(name):
    def alarm(rate):
        fleet = Fleet(nodes=20, candidates=10, minutes=60, requests=100.0, harm=rate)
        (counts,) = make(fleet, np.random.default_rng(3))
        return RIVALS[name](counts, 1)

    assert alarm(0.2) is not None
    assert alarm(0.0) is None


def test_only_the_section_of_the_decisions_is_written(tmp_path):
    readme = tmp_path / "README.md"
    (tmp_path / "decisions").mkdir()
    readme.write_text(
        "# Benchmarks\n\n## Server\n\nfast\n\n## Decisions\n\nold\n\n## Agent\n\nslim\n"
    )
    scenario = SCENARIOS["good-10-rho02"]

    report.write({scenario.key: run_batch(scenario, 0, 2, "every")}, tmp_path)
    once = readme.read_text()
    report.write({scenario.key: run_batch(scenario, 0, 2, "every")}, tmp_path)

    assert readme.read_text() == once
    assert once.startswith("# Benchmarks\n\n## Server\n\nfast\n\n## Decisions\n")
    assert once.endswith("\n## Agent\n\nslim\n")
    assert "old" not in once
    assert "| **Linnet** |" in once
    assert "<svg" in (tmp_path / "decisions" / "false-rollback.svg").read_text()
