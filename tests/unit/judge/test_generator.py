"""The simulated fleets: each thing that makes nodes differ does what its name says, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from bench.decisions.generator import Fleet, make, with_harm

MANY = Fleet(nodes=4000, candidates=1000, minutes=8, requests=4000.0, rate=0.05, windows=2)


def made(fleet=MANY, *, steps=(), seed=5, **changes):
    return make(replace(fleet, **changes), np.random.default_rng(seed), steps=steps)


def one(**changes):
    (counts,) = made(**changes)
    return counts


def now(counts):
    """Return the rate of each node in the step."""
    return counts.failures.sum(1) / counts.requests.sum(1)


def past(counts):
    """Return the rate of each node in each window."""
    return counts.history_failures / counts.history_requests


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"correlation": 0.02},
        {"drift": 0.3},
        {"drift": 0.3, "walk": 0.9},
        {"drift": 0.3, "sites": 1000},
        {"burst": 0.05},
        {"traffic": 0.5},
        {"uneven": 0.5},
        {"swing": 0.5},
    ],
    ids=str,
)
def test_whatever_makes_nodes_differ_keeps_the_rate(changes):
    counts = one(**changes)

    assert now(counts).mean() == pytest.approx(0.05, rel=0.03)
    assert past(counts).mean() == pytest.approx(0.05, rel=0.03)
    late = counts.recent_failures.sum() / counts.recent_requests.sum()
    assert late == pytest.approx(0.05, rel=0.03)


def test_correlation_is_the_share_of_variance_between_nodes():
    counts = one(correlation=0.02)

    assert np.var(now(counts)) == pytest.approx(0.02 * 0.05 * 0.95, rel=0.1)
    assert np.corrcoef(now(counts), past(counts)[:, 0])[0, 1] > 0.95, "for good"


def test_a_drift_is_of_one_node_and_one_window():
    first, second = made(drift=0.3, steps=(1000, 1000))
    rates = [*past(first).T, now(first), now(second)]

    for rate in rates:
        assert np.std(np.log(rate)) == pytest.approx(0.3, rel=0.05)
    assert np.corrcoef(rates) == pytest.approx(np.eye(4), abs=0.06)


def test_a_drift_that_walks_remembers_the_window_before():
    counts = one(drift=0.3, walk=0.9)
    logs = [np.log(rate) for rate in (*past(counts).T, now(counts))]

    assert [np.std(each) for each in logs] == pytest.approx([0.3] * 3, rel=0.06)
    assert np.corrcoef(logs)[0, 1:] == pytest.approx([0.9, 0.81], abs=0.05)


@pytest.mark.parametrize("one_site", [True, False])
def test_nodes_of_a_site_drift_together(one_site):
    counts = one(nodes=1000, drift=0.5, sites=10, one_site=one_site)
    index = np.arange(1000)
    site = index // 100 if one_site else index % 10
    logs = np.log(now(counts))

    assert np.std([logs[site == number].mean() for number in range(10)]) > 0.2
    assert max(np.std(logs[site == number]) for number in range(10)) < 0.05


def test_a_burst_is_of_one_minute_and_averages_out_in_a_window():
    """As many bursts as a window has minutes."""
    counts = one(burst=0.05)
    variance = 0.05 * 0.05 * 0.95
    late = counts.recent_failures / counts.recent_requests

    assert np.var(late) == pytest.approx(variance, rel=0.1)
    assert np.var(counts.failures / counts.requests) == pytest.approx(variance, rel=0.1)
    assert np.var(past(counts)) == pytest.approx(variance / 8, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [({"shock": 3.0}, 3.0), ({"kinds": 0.1, "rate": 0.01}, 0.2 * 1.9), ({"harm": 0.05}, 1.25)],
    ids=str,
)
def test_what_is_worse_in_the_step_is_worse_by_as_much(changes, factor):
    assert now(one(**changes)).mean() == pytest.approx(0.05 * factor, rel=0.05)


def test_a_shock_is_in_the_step_alone_and_a_kind_of_node_is_always_so():
    assert past(one(shock=3.0)).mean() == pytest.approx(0.05, rel=0.02)
    bad = now(one(kinds=0.1, rate=0.01)) > 0.05
    assert bad.mean() == pytest.approx(0.1, abs=0.02)
    assert past(one(kinds=0.1, rate=0.01))[bad].mean() == pytest.approx(0.1, rel=0.02)


def test_an_uneven_shock_hits_nodes_differently_and_is_not_in_their_history():
    counts = one(uneven=0.5)

    assert np.std(np.log(now(counts))) == pytest.approx(0.5, rel=0.05)
    assert np.std(np.log(past(counts))) < 0.05


def test_a_bad_model_adds_its_failures_on_the_candidates_alone():
    counts = one(harm=0.1, nodes=40, candidates=4)

    assert now(counts)[:4] == pytest.approx([0.15] * 4, rel=0.1)
    assert now(counts)[4:] == pytest.approx([0.05] * 36, rel=0.1)
    assert past(counts) == pytest.approx(0.05, rel=0.1)
    assert with_harm(Fleet(), 0.01, 0.05) == Fleet(rate=0.01, harm=0.04)


def test_a_model_that_is_bad_on_one_kind_of_node_is_good_on_the_others():
    counts = one(harm=0.1, nodes=40, candidates=12, kinds_of_node=4, harmed_kinds=1)

    assert np.flatnonzero(now(counts) > 0.1).tolist() == [0, 4, 8]
    assert (counts.kinds_of_node, one(kinds_of_node=4, kinds_told=False).kinds_of_node) == (4, 0)


def test_traffic_differs_between_nodes_and_stays_theirs():
    counts = one(traffic=0.5)
    volume = np.log(counts.requests.mean(1))

    assert np.std(volume) == pytest.approx(0.5, rel=0.05)
    assert np.log(counts.history_requests[:, 0] / 8) == pytest.approx(volume, abs=0.1)
    assert np.log(counts.recent_requests.mean(1)) == pytest.approx(volume, abs=0.1)


def test_the_course_of_a_step_is_a_whole_wave_and_a_ramp_from_one():
    def course(**changes):
        counts = one(minutes=40, **changes)
        return counts.failures.sum(0) / counts.requests.sum(0) / 0.05

    wave, ramp = course(swing=0.5), course(ramp=4.0)

    assert (wave[9:11].mean(), wave[29:31].mean()) == pytest.approx((1.5, 0.5), rel=0.03)
    assert (wave[0], wave[19:21].mean(), wave[-1]) == pytest.approx((1, 1, 1), abs=0.06)
    assert (ramp[0], ramp[19:21].mean(), ramp[-1]) == pytest.approx((1.0, 2.5, 4.0), rel=0.04)


def test_all_steps_of_a_rollout_have_one_history():
    first, second = made(nodes=40, steps=(1, 4))

    assert (first.candidates, second.candidates) == (1, 4)
    assert (first.history_failures == second.history_failures).all()
    assert (first.failures != second.failures).any()
    assert first.history_requests.mean() == pytest.approx(8 * 4000, rel=0.01)


def test_the_same_seed_gives_the_same_counts_and_another_others():
    first, again, other = (one(nodes=40, seed=seed).failures for seed in (1, 1, 2))

    assert (first == again).all()
    assert (first != other).any()
