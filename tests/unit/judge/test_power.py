from dataclasses import replace

import pytest

from linnet_operator.judge.compare import Detect
from linnet_operator.judge.learned import learn
from linnet_operator.judge.power import Power, forecast, say_duration
from linnet_operator.judge.verdicts import Verdict

WANTED = Detect(factor=3, floor=0.05)


def ask(fleet, candidates, stable, **more):
    return forecast(
        more.pop("learned", None) or fleet.learned(),
        candidates,
        stable,
        alpha=0.01,
        steps=4,
        detect=more.pop("detect", WANTED),
    )


# Failures of a node come together in one scrape interval of five, or evenly.
EVEN, TOGETHER = ((0.2, 20.0),) * 5, ((6.0, 20.0), *((0.0, 20.0),) * 9)


@pytest.mark.parametrize("recent", [EVEN, TOGETHER], ids=["even", "bursts"])
@pytest.mark.parametrize("slower", [1.0, 1000.0])
def test_what_the_forecast_asks_for_is_enough_and_not_far_too_much(fleet, recent, slower):
    """However slow the traffic: bursts average out with scrape intervals, not with seconds."""
    history = [replace(node, recent=recent) for node in fleet.history()]
    learned = learn(history, interval_s=slower, window_s=10 * slower)
    stable = [fleet.count(index, 1.0, 100.0, 10.0 * slower) for index in range(1, 10)]
    candidates = [fleet.count(0, 1.0, 100.0, 10.0 * slower)]

    power = ask(fleet, candidates, stable, learned=learned)

    assert power.requests is not None
    assert power.seconds == pytest.approx(power.requests / 10 * slower, rel=0.05)

    def verdict(requests):
        n = 100.0 + requests
        later = [fleet.count(index, n / 100, n, n / 10 * slower) for index in range(10)]
        return fleet.look(later[:1], later[1:], learned=learned, detect=WANTED).verdict

    assert verdict(power.requests * 1.05) is Verdict.PASS
    assert verdict(power.requests * 0.85) is Verdict.UNDECIDED


def test_before_a_rollout_the_rate_of_the_history_is_todays(fleet):
    rows = [fleet.count(index, 0.0, 0.0, 0.0) for index in range(10)]

    power = ask(fleet, rows[:1], rows[1:])

    assert power.decidable
    assert power.requests == pytest.approx(20 * power.seconds, rel=0.1)
    assert power.sentence.startswith("needs about ")


def test_without_any_traffic_there_is_no_time_to_tell(fleet):
    rows = [fleet.count(index, 0.0, 0.0, 0.0) for index in range(10)]
    learned = replace(fleet.learned(), requests_per_s=0.0)

    power = ask(fleet, rows[:1], rows[1:], learned=learned)

    assert (power.decidable, power.seconds) == (True, None)
    assert power.sentence.endswith("there is no traffic to say how long that takes")


def test_where_nobody_serves_the_candidate_nothing_can_be_decided(fleet):
    rows = [fleet.count(index, 1.0, 100.0, 10.0) for index in range(10)]

    assert not ask(fleet, [], rows).decidable


def test_a_forecast_is_said_with_two_figures_that_count():
    assert Power(decidable=True, requests=12_345.0, seconds=61.0).sentence == (
        "needs about 12 000 more requests, 61s at today's rate"
    )


def test_a_ratio_near_zero_can_never_be_decided(fleet):
    rows = [fleet.count(index, 0.0, 10.0, 10.0) for index in range(10)]

    power = ask(
        fleet,
        rows[:1],
        rows[1:],
        learned=fleet.learned(failures=0.0),
        detect=Detect(factor=3, floor=0.0),
    )

    assert not power.decidable
    assert power.sentence.startswith("can never be decided")


def test_a_decided_look_needs_nothing_more(fleet):
    rows = [fleet.count(index, 50.0, 5000.0, 100.0) for index in range(10)]

    assert ask(fleet, rows[:3], rows[3:]).requests == 0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1s"), (89, "89s"), (120, "2m"), (7200, "2h"), (200000, "2d")]
)
def test_durations_are_said_as_people_do(seconds, said):
    assert say_duration(seconds) == said


def test_chance_in_a_few_failures_is_not_what_the_nodes_will_always_do(fleet):
    """After five minutes: what has failed three times, or not at all, will not go on like that."""
    learned = fleet.learned(failures=2.0, requests=200.0)
    by_chance = (3.0, 0.0, 0.0, 2.0, 0.0, 0.0)
    detect = Detect(factor=3, floor=0.01)
    candidates = [fleet.count(index, 1.0, 100.0, 300.0) for index in range(2)]
    stable = [fleet.count(2 + index, x, 100.0, 300.0) for index, x in enumerate(by_chance)]

    power = ask(fleet, candidates, stable, learned=learned, detect=detect)

    assert power.requests is not None
    n = 100.0 + 1.3 * power.requests / 2
    later = [fleet.count(index, 0.01 * n, n, 3 * n) for index in range(8)]
    said = fleet.look(later[:2], later[2:], learned=learned, detect=detect)
    assert said.verdict is Verdict.PASS


def test_what_many_failures_show_of_the_nodes_does_not_go_away(fleet):
    """Each other stable node fails five times as often as before, thousands of times."""
    learned = fleet.learned(failures=2.0, requests=200.0)
    candidates = [fleet.count(0, 3000.0, 100_000.0, 36_000.0)]
    stable = [
        fleet.count(index, (1000.0, 5000.0)[index % 2], 1e5, 36_000.0) for index in range(1, 9)
    ]

    power = ask(fleet, candidates, stable, learned=learned, detect=Detect(factor=3, floor=0.01))

    assert not power.decidable
