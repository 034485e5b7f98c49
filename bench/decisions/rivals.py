"""What others do instead, each written from its own description: minute of the first alarm.

Rules:
- They get the same counts, and no history: that is how they are used.
- A judge that has no figure for alpha gets its usual limits.

Sources: Argo Rollouts and Flagger (counts of bad measurements), Kayenta's NetflixACAJudge and
MannWhitneyClassifier, Lindon and Malek (NeurIPS 2022) for the request-level e-process; the research
report, sections 1b and 5b.
"""

from collections.abc import Callable
from math import log, sqrt

import numpy as np

from bench.decisions.generator import Counts

# ``rival(counts, steps)`` returns the first minute with an alarm; None where there was none.
Rival = Callable[[Counts, int], int | None]

ALPHA = 0.01
WINDOW_MINUTES = 5
LINE = 0.05
RELATIVE_LINE = 1.5
# The quantile of the normal distribution that 1 % lie above.
Z_99 = 2.3263478740408408
KAYENTA_EVERY_MINUTES = 10
KAYENTA_LOOKBACK_MINUTES = 60
KAYENTA_TOLERANCE = 0.25
RISES = (1.5, 2.0, 3.0, 6.0, 12.0)


def line_three_running(counts: Counts, steps: int) -> int | None:
    """More than 5 % of requests fail in three windows of five minutes, one after the other."""
    del steps
    return _three_running(_window_ratio(counts, stable=False) > LINE)


def line_three_in_all(counts: Counts, steps: int) -> int | None:
    """The same line with Argo's ``failureLimit: 2``: the third bad window, whenever it comes."""
    del steps
    return _third(_window_ratio(counts, stable=False) > LINE)


def relative_three_running(counts: Counts, steps: int) -> int | None:
    """The candidates fail over 1.5 times as often as the stable nodes, in three windows running."""
    del steps
    ratio = _window_ratio(counts, stable=False)
    return _three_running(ratio > RELATIVE_LINE * _window_ratio(counts, stable=True))


def kayenta(counts: Counts, steps: int) -> int | None:
    """Mann-Whitney at 98 % on error ratios per minute, against as many stable nodes."""
    del steps
    candidate = _minute_ratio(counts, slice(0, counts.candidates))
    baseline = _minute_ratio(counts, slice(counts.candidates, 2 * counts.candidates))
    minutes = counts.failures.shape[1]
    for minute in range(KAYENTA_EVERY_MINUTES, minutes + 1, KAYENTA_EVERY_MINUTES):
        since = max(0, minute - KAYENTA_LOOKBACK_MINUTES)
        if _is_high(candidate[since:minute], baseline[since:minute]):
            return minute
    return None


def peeked_z_test(counts: Counts, steps: int) -> int | None:
    """One-sided test of two proportions at 1 %, after each minute, over all requests."""
    del steps
    x, n, y, m = _cumulative(counts)
    pooled = (x + y) / np.maximum(1, n + m)
    variance = pooled * (1.0 - pooled) * (1.0 / np.maximum(1, n) + 1.0 / np.maximum(1, m))
    difference = x / np.maximum(1, n) - y / np.maximum(1, m)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, difference / np.sqrt(variance), 0.0)
    return _first(z > Z_99)


def request_e_process(counts: Counts, steps: int) -> int | None:
    """The conditional e-process on counts per minute, as if requests were independent."""
    a, n, b, m = _per_minute(counts)
    k = a + b
    paths = [
        np.cumsum(a * log(psi) + k * np.log((n + m) / np.maximum(1e-12, psi * n + m)))
        for psi in RISES
    ]
    log_e = np.logaddexp.reduce(paths) - log(len(paths))
    return _first(log_e >= log(steps / ALPHA))


RIVALS: dict[str, Rival] = {
    "over 5 %, 3 windows running": line_three_running,
    "over 5 %, 3 windows in all": line_three_in_all,
    "over 1.5 x stable, 3 running": relative_three_running,
    "Kayenta's method": kayenta,
    "z-test at 1 %, peeked": peeked_z_test,
    "e-process on requests": request_e_process,
}


def _is_high(experiment: np.ndarray, control: np.ndarray) -> bool:
    """Return whether Kayenta calls the metric High.

    It does where the lower end of the 98 % interval of the shift is above a quarter of the shift's
    estimate. The interval is that of R's ``wilcox.test(exact=FALSE, correct=TRUE)``: its lower end
    is above a value where the test of that value rejects, so no root has to be found.
    """
    if np.ptp(np.concatenate([experiment, control])) == 0.0:
        return False
    shift = float(np.median(experiment[:, None] - control[None, :]))
    if shift < 0.0 or experiment.mean() <= control.mean():
        return False
    # Where most minutes have no failure the estimate is 0: then it is the test of no difference.
    return _shift_z(experiment, control, KAYENTA_TOLERANCE * shift) > Z_99


def _shift_z(experiment: np.ndarray, control: np.ndarray, shift: float) -> float:
    moved = experiment - shift
    above = (moved[:, None] > control[None, :]).sum() + 0.5 * (
        moved[:, None] == control[None, :]
    ).sum()
    n, m = len(moved), len(control)
    _, ties = np.unique(np.concatenate([moved, control]), return_counts=True)
    total = n + m
    variance = n * m / 12.0 * ((total + 1) - (ties**3 - ties).sum() / (total * (total - 1)))
    if variance <= 0.0:
        return 0.0
    difference = above - n * m / 2.0
    return float((difference - 0.5 * np.sign(difference)) / sqrt(variance))


def _window_ratio(counts: Counts, *, stable: bool) -> np.ndarray:
    a, n, b, m = _per_minute(counts)
    failures, requests = (b, m) if stable else (a, n)
    windows = len(failures) // WINDOW_MINUTES
    shape = (windows, WINDOW_MINUTES)
    kept = windows * WINDOW_MINUTES
    summed = failures[:kept].reshape(shape).sum(axis=1)
    return summed / np.maximum(1, requests[:kept].reshape(shape).sum(axis=1))


def _minute_ratio(counts: Counts, nodes: slice) -> np.ndarray:
    requests = counts.requests[nodes].sum(axis=0)
    return counts.failures[nodes].sum(axis=0) / np.maximum(1, requests)


def _per_minute(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return failures and requests of the candidates, then of the stable nodes."""
    cut = counts.candidates
    return (
        counts.failures[:cut].sum(axis=0),
        counts.requests[:cut].sum(axis=0),
        counts.failures[cut:].sum(axis=0),
        counts.requests[cut:].sum(axis=0),
    )


def _cumulative(counts: Counts) -> tuple[np.ndarray, ...]:
    return tuple(np.cumsum(each) for each in _per_minute(counts))


def _three_running(bad: np.ndarray) -> int | None:
    running = bad[2:] & bad[1:-1] & bad[:-2]
    first = _first(running)
    return None if first is None else (first + 2) * WINDOW_MINUTES


def _third(bad: np.ndarray) -> int | None:
    first = _first(np.cumsum(bad) >= 3)
    return None if first is None else first * WINDOW_MINUTES


def _first(alarms: np.ndarray) -> int | None:
    """Return the place of the first alarm, counted from 1."""
    return int(np.argmax(alarms)) + 1 if alarms.any() else None
