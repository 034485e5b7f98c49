"""What others do instead: each rival does what its own description says, to the minute."""

from math import comb, log

import numpy as np
import pytest
from bench.decisions.generator import Counts
from bench.decisions.rivals import ALPHA, RISES, RIVALS, Z_99, _shift_z

LINE, LINE_IN_ALL, RELATIVE, KAYENTA, Z_TEST, E_PROCESS = RIVALS


def counts(*nodes, requests=100, candidates=1):
    """Return the counts of a step: the failures of each node by the minute."""
    failures = np.array(nodes)
    none = np.zeros((len(nodes), 0))
    return Counts(
        history_failures=none,
        history_requests=none,
        recent_failures=none,
        recent_requests=none,
        failures=failures,
        requests=np.full_like(failures, requests),
        candidates=candidates,
    )


def windows(*failures):
    """Return failures by the minute where each window of five minutes has as many."""
    return [each for each in failures for _ in range(5)]


def minute(name, given, *, steps=1):
    return RIVALS[name](given, steps)


@pytest.mark.parametrize(
    ("candidate", "running", "in_all"),
    [
        pytest.param([6, 6, 6], 15, 15, id="at once"),
        pytest.param([5, 5, 5, 5], None, None, id="at the line is not over it"),
        pytest.param([6, 6, 0, 6, 6, 6], 30, 20, id="a good one between"),
        pytest.param([6, 6, 0, 0, 6], None, 25, id="never three running"),
        pytest.param([6, 6], None, None, id="only two"),
    ],
)
def test_a_fixed_line_counts_bad_windows_of_the_candidates_alone(candidate, running, in_all):
    made = counts(windows(*candidate), windows(*[90] * len(candidate)))

    assert minute(LINE, made) == running
    assert minute(LINE_IN_ALL, made) == in_all


@pytest.mark.parametrize(("candidate", "alarm"), [(15, None), (16, 15), (9, None)])
def test_the_relative_line_is_one_and_a_half_times_the_stable_nodes(candidate, alarm):
    assert minute(RELATIVE, counts(windows(*[candidate] * 4), windows(*[10] * 4))) == alarm


@pytest.mark.parametrize(
    ("candidate", "stable", "alarm"),
    [
        # Pooled 7.5 %: z = 0.09 / sqrt(0.075 * 0.925 * 2 / 100) = 2.42, and 2.22 for one less.
        pytest.param([12], [3], 1, id="just above 1 %"),
        pytest.param([11], [3], None, id="just below"),
        pytest.param([3], [12], None, id="better is no alarm"),
        pytest.param([11, 11], [3, 3], 2, id="all minutes together"),
        pytest.param([0, 0], [0, 0], None, id="nothing fails"),
        pytest.param([100, 100], [100, 100], None, id="everything fails"),
    ],
)
def test_the_z_test_is_that_of_two_proportions_after_each_minute(candidate, stable, alarm):
    assert minute(Z_TEST, counts(candidate, stable)) == alarm


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beside", [1, 3])
@pytest.mark.parametrize(("worse", "steps"), [(1.0, 1), (2.0, 1), (2.0, 5), (5.0, 5)])
def test_the_e_process_is_a_ratio_of_binomials_given_all_failures(seed, beside, worse, steps):
    """Which of k failures are the candidates': a share of n / (n + m), or more by a factor."""
    dice = np.random.default_rng(seed)
    pairs = list(
        zip(dice.poisson(3 * worse, 30).tolist(), dice.poisson(3, 30).tolist(), strict=True)
    )
    made = counts([a for a, _ in pairs], *[[b for _, b in pairs]] * beside)
    n, m = 100, 100 * beside
    alarms = []
    values = dict.fromkeys(RISES, 1.0)
    for number, (a, b) in enumerate(pairs, 1):
        k = a + beside * b

        def chance(share, a=a, k=k):
            return comb(k, a) * share**a * (1 - share) ** (k - a)

        for psi in RISES:
            values[psi] *= chance(psi * n / (psi * n + m)) / chance(n / (n + m))
        if log(sum(values.values()) / len(RISES)) >= log(steps / ALPHA):
            alarms.append(number)

    assert bool(alarms) is (worse > 1)
    assert minute(E_PROCESS, made, steps=steps) == (alarms[0] if alarms else None)


def bad(minutes):
    return [8 + index % 3 for index in range(minutes)]


def fine(minutes):
    return [index % 3 for index in range(minutes)]


@pytest.mark.parametrize(
    ("nodes", "alarm"),
    [
        pytest.param([bad(20), fine(20)], 10, id="every ten minutes"),
        pytest.param([fine(20), bad(20)], None, id="better"),
        pytest.param([bad(20), bad(20)], None, id="equal"),
        pytest.param([bad(20), fine(20), bad(20)], 10, id="as many stable nodes as candidates"),
        pytest.param([bad(20), bad(20), fine(20)], None, id="the first of the stable ones"),
        pytest.param([fine(80) + bad(40), fine(120)], 120, id="an hour back, not the whole step"),
        pytest.param(
            [list(range(8, 18)), [*range(9), 100]], None, id="higher mostly, but not on average"
        ),
        pytest.param([[0] * 20, [0] * 20], None, id="nothing fails"),
    ],
)
def test_kayenta_compares_the_last_hour_with_as_many_stable_nodes(nodes, alarm):
    assert minute(KAYENTA, counts(*nodes)) == alarm


@pytest.mark.parametrize(("shift", "alarm"), [(5, None), (6, 10)])
def test_kayenta_asks_for_more_than_a_quarter_of_the_shift_that_it_sees(shift, alarm):
    stable = list(range(10))
    candidate = [each + shift for each in stable]

    assert _shift_z(np.array(candidate), np.array(stable), 0.0) > Z_99
    assert minute(KAYENTA, counts(candidate, stable)) == alarm


@pytest.mark.parametrize(
    ("x", "y", "z"),
    [
        # By hand, as R's wilcox.test(x, y, alternative="greater", exact=FALSE, correct=TRUE) has
        # it: W = 35, mean 18, variance 6 * 6 * 13 / 12 = 39.
        pytest.param(
            [1.1, 2.2, 3.3, 4.4, 5.5, 6.6],
            [0.1, 0.2, 0.3, 0.4, 0.5, 1.2],
            (35 - 18 - 0.5) / 39**0.5,
            id="no ties",
        ),
        # W = 26; three values four times each: variance 36 / 12 * (13 - 180 / (12 * 11)).
        pytest.param(
            [1, 2, 2, 3, 3, 3],
            [1, 1, 2, 2, 3, 1],
            (26 - 18 - 0.5) / (3 * (13 - 180 / 132)) ** 0.5,
            id="ties",
        ),
        pytest.param([1, 1], [1, 1], 0.0, id="all the same"),
    ],
)
def test_kayentas_interval_is_that_of_wilcoxons_test(x, y, z):
    assert _shift_z(np.array(x), np.array(y), 0.0) == pytest.approx(z)
