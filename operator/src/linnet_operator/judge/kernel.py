"""The arithmetic below the comparison: the negative binomial in logarithms, and what is integrated.

Rules:
- Nothing overflows or underflows: all products are sums of logarithms, good for a billion requests.
- The order of the rows does not matter, not even in the last bit: sums are exactly rounded.

A row's log probability is held at every point of the error that all rows share (of the fleet
factor), as a list; the integral over that error is taken last, once.
"""

from collections.abc import Sequence
from math import exp, fsum, inf, lgamma, log, log1p

# 41 points over plus and minus four standard deviations.
POINTS = tuple(-4.0 + 0.2 * index for index in range(41))
_POINT_WEIGHTS = tuple(-z * z / 2.0 for z in POINTS)
_MANY_FAILURES = 1e6

# The error of the fleet factor at every point: (its logarithm, its inverse).
SharedErrors = Sequence[tuple[float, float]]


def shared_errors(factor_spread: float) -> SharedErrors:
    """Return the error of a factor with that standard deviation of its logarithm."""
    return [(factor_spread * z, exp(-factor_spread * z)) for z in POINTS]


def log_kernel(
    failures: float,
    *,
    mean: float,
    shape: float,
    errors: SharedErrors,
    usual_shape: float | None = None,
) -> list[float]:
    """Return the log NB kernel of a count at every point of the shared error.

    The kernel mean^x / (shape + mean)^(x + shape) is written with log1p, so that a billion
    failures lose no digits. With ``usual_shape`` as in ``log_kernel_at``.
    """
    both = failures + shape
    ratio = shape / mean
    constant = -shape * log(mean)
    if usual_shape is not None:
        constant += _log_weight(failures, shape) - _log_weight(failures, usual_shape)
    return [constant - both * log1p(ratio * inverse) - shape * by for by, inverse in errors]


def log_kernel_at(
    failures: float, *, means: Sequence[float], shape: float, usual_shape: float
) -> list[float]:
    """Return the log NB kernel where the mean of each point is given, and the shape is another one.

    The constant by which the two shapes differ is added, so that the two can be compared.
    """
    constant = _log_weight(failures, shape) - _log_weight(failures, usual_shape)
    both = failures + shape
    return [constant - both * log1p(shape / mean) - shape * log(mean) for mean in means]


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of the sum of exponentials."""
    top = max(values)
    if top == -inf:
        return -inf
    return top + log(fsum(exp(value - top) for value in values))


def log_mean(values: Sequence[float]) -> float:
    """Return the logarithm of the mean of exponentials."""
    return log_sum(values) - log(len(values))


def totals(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the sum of all rows at every point."""
    return [fsum(column) for column in zip(*rows, strict=True)]


def less(total: Sequence[float], one: Sequence[float]) -> list[float]:
    """Return a total without one of its rows."""
    return [a - b for a, b in zip(total, one, strict=True)]


def integrate(terms: Sequence[float]) -> float:
    """Return the logarithm of the integral over the shared error."""
    weighted = [weight + term for weight, term in zip(_POINT_WEIGHTS, terms, strict=True)]
    return log_sum(weighted) - _LOG_NORM


def rounded(value: float) -> float:
    """Round to what a record shows, so that the last bit of a math library decides nothing."""
    return round(value, 6)


def _log_weight(failures: float, shape: float) -> float:
    """Return what the NB probability has beside the kernel, up to a constant of the count."""
    if failures < _MANY_FAILURES:
        rising = lgamma(failures + shape) - lgamma(max(failures, 1.0)) - lgamma(shape)
    else:
        # Gamma(x + s) / Gamma(x), without the difference of two huge numbers.
        rising = shape * log(failures) + shape * (shape - 1.0) / (2.0 * failures) - lgamma(shape)
    return rising + shape * log(shape)


_LOG_NORM = log_sum(_POINT_WEIGHTS)
