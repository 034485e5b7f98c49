"""The arithmetic below the comparison, against the negative binomial written as products."""

from math import exp, fsum, inf, isfinite, lgamma, log, log1p

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.kernel import (
    integrate,
    log_kernel,
    log_kernel_at,
    log_mean,
    log_sum,
    shared_errors,
)

UNCERTAIN = shared_errors(0.3)


def log_negative_binomial(x, mean, shape):
    """Return log P(x) for a whole shape: Gamma(x + shape) / Gamma(x + 1) is a product then."""
    rising = fsum(log(x + i) for i in range(1, shape)) - lgamma(shape)
    return rising + shape * log(shape / (shape + mean)) - x * log1p(shape / mean)


@pytest.mark.parametrize("failures", [0.0, 1.0, 7.0, 999_999.0, 1e6, 1e9, 2.0**53])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("shape", "usual"), [(1, 40), (400, 30), (3, 3)])
def test_two_shapes_are_compared_as_their_probabilities_are(failures, times, shape, usual):
    mean = max(failures, 2.0) * times

    def log_ratio(found):
        (usually,) = log_kernel(failures, mean=mean, shape=float(usual), errors=[(0.0, 1.0)])
        return found - usually

    (at,) = log_kernel_at(failures, means=[mean], shape=float(shape), usual_shape=float(usual))
    (scaled,) = log_kernel(
        failures, mean=mean, shape=float(shape), errors=[(0.0, 1.0)], usual_shape=float(usual)
    )

    expected = log_negative_binomial(failures, mean, shape)
    expected -= log_negative_binomial(failures, mean, usual)
    assert log_ratio(at) == pytest.approx(expected, abs=2e-5, rel=1e-6)
    assert log_ratio(scaled) == pytest.approx(expected, abs=2e-5, rel=1e-6)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.floats(0.05, 400))
def test_an_error_that_all_share_is_a_factor_on_each_mean(failures, mean, shape):
    scaled = log_kernel(failures, mean=mean, shape=shape, errors=UNCERTAIN)

    alone = [
        log_kernel(failures, mean=mean * exp(by), shape=shape, errors=[(0.0, 1.0)])[0]
        for by, _ in UNCERTAIN
    ]

    assert scaled == pytest.approx(alone, rel=1e-9, abs=1e-9)


def test_the_error_is_a_normal_distribution_of_its_deviation():
    """So the integral of a factor to the power k is exp(k^2 sd^2 / 2)."""
    for power in (1.0, -2.0):
        integral = integrate([power * by for by, _ in UNCERTAIN])
        assert integral == pytest.approx(power**2 * 0.3**2 / 2, abs=1e-3)
    assert integrate([0.0] * len(UNCERTAIN)) == pytest.approx(0.0)


def test_sums_are_taken_of_exponentials_however_large_or_small():
    assert log_sum([1000.0, 1000.0]) == pytest.approx(1000.0 + log(2.0))
    assert log_sum([-1000.0, -inf]) == -1000.0
    assert log_sum([-inf, -inf]) == -inf
    assert log_mean([-1000.0] * 7) == pytest.approx(-1000.0)
    assert isfinite(log_mean([-1e300, 1e300]))
