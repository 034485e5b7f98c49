"""The judge against an implementation of its own: arrays, another order, numerical integration.

Written from the research report (5c) and ADR 0006 alone: a negative binomial is a Poisson whose
mean is Gamma-distributed, and that integral is taken on a grid; the error that the candidates share
is integrated by the rule of Gauss and Legendre, not over 41 points.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_operator.judge.compare import Detect, NodeCount, look
from linnet_operator.judge.learned import NodeHistory, learn

RISES = (1.5, 2.0, 3.0, 6.0, 12.0)
INTERVAL_S = 60.0


class Reference:
    """The parameters of a history, as arrays: axis 0 is the node."""

    def __init__(self, windows, recent):
        x, n = windows[..., 0], windows[..., 1]
        nodes, count = x.shape
        self.x0, self.n0, self.windows = x.sum(1), n.sum(1), count
        self.mu = (self.x0.sum() + 0.5) / (self.n0.sum() + 1)
        own = self.x0 / self.n0
        self.b2, self.b1, self.bw = self.bursts(recent, own)
        fleet = (x.sum(0) + 2) / ((n * own[:, None]).sum(0) + 2)
        expected = n * own[:, None] * fleet
        self.d2, self.d1, self.dw = self.excess(x, n, expected, count / (count - 1))
        total = np.var(own, ddof=1)
        sampling = self.mu / self.n0.mean() + self.d2 / count * np.mean(own**2)
        between = max(0.0, total - sampling)
        careful = between + (between + sampling) * np.sqrt(2 / (nodes - 1))
        between = max(between, min(careful, self.mu**2 / 4), 1e-4 * self.mu**2)
        self.a = float(np.clip(self.mu**2 / between, 0.02, 1e4))

    def bursts(self, recent, own):
        x, n = recent[..., 0], recent[..., 1]
        pull = np.minimum(200, self.n0)
        rate = (x.sum(1) + pull * own) / (n.sum(1) + pull)
        return self.excess(x, n, n * rate[:, None], x.shape[1] / (x.shape[1] - 1))

    @staticmethod
    def excess(x, n, e, freedom):
        left = max(0.0, (freedom * (x - e) ** 2 - e).sum())
        rows = (e**2).sum() ** 2 / (e**4).sum()
        return left / (e**2).sum(), left / (n * e).sum(), max(1.0, rows)

    def expect(self, index, n, t, f):
        """Return expected failures, how much the past knows, and the spread."""
        past = self.a + self.x0[index]
        e = n * past / (self.a / self.mu + self.n0[index]) * f
        burst = np.maximum(self.b2, self.b1 * n / e) / t * (1 + 2 / np.sqrt(self.bw))
        drift = np.maximum(self.d2, self.d1 * n / e) * (1 + 1 / self.windows)
        drift *= 1 + 2 / np.sqrt(self.dw)
        return e, past, burst + drift + 0.05**2 + 0.25 * np.log(f) ** 2


def log_negative_binomial(x, mean, shape):
    """Return log P(x), a constant of x aside: Poisson over a Gamma, integrated on a grid."""
    centre = np.log(mean)
    width = 14 / np.sqrt(shape) + 14 / np.sqrt(mean + 1) + 4 / shape
    log_m = np.linspace(centre - width - 6, centre + min(width, 12), 8_001)
    log_gamma = shape * (np.log(shape) - centre) + shape * log_m - shape * np.exp(log_m - centre)
    inside = log_gamma + x * log_m - np.exp(log_m)
    top = inside.max()
    area = np.trapezoid(np.exp(inside - top), log_m)
    # The Gamma's own norm, on the same grid, so that no Gamma function is needed at all.
    norm_top = log_gamma.max()
    norm = norm_top + np.log(np.trapezoid(np.exp(log_gamma - norm_top), log_m))
    return top + np.log(area) - norm


def reference_log_e(ref, candidates, stable, x, n, t, detect):
    """Return the log e-value of harm on every candidate, and the log evidence against the rise."""
    steady = np.array(stable)
    f = (x[steady].sum() + 2) / (
        (n[steady] * (ref.a + ref.x0[steady]) / (ref.a / ref.mu + ref.n0[steady])).sum() + 2
    )
    e, past, spread = ref.expect(steady, n[steady], t, f)
    rows = (e**2).sum() ** 2 / (e**4).sum()
    seen = ((x[steady] - e) ** 2 - e - e**2 / past).sum() / (e**2).sum()
    seen = max(0.0, seen) * (1 + 2 / np.sqrt(max(1.0, rows)))

    def widened(own):
        return np.maximum(own, (rows * seen + 4 * own) / (rows + 4))

    variance = 1 / (x[steady].sum() + 2)
    variance += ((widened(spread) + 1 / past) * e**2).sum() / e.sum() ** 2
    sd = np.sqrt(np.log1p(min(variance, 4.0)))
    nodes = np.array(candidates)
    e, past, spread = ref.expect(nodes, n[nodes], t, f)
    spread = widened(spread)
    shape = 1 / (1 / past + spread)
    ratio = e.sum() / n[nodes].sum()
    half = (1 - ratio) / 2
    nominal = min(max((detect.factor - 1) * ratio, detect.floor), half)
    points, weights = np.polynomial.legendre.leggauss(48)
    points = 4 * points  # The normal distribution is cut off at four deviations.
    weights = np.log(weights) - points**2 / 2
    weights -= np.logaddexp.reduce(weights)

    def marginal(means_of, shapes):
        total = []
        for z in points:
            means = means_of(np.exp(sd * z))
            rows_ = zip(x[nodes], means, shapes, strict=True)
            total.append(sum(log_negative_binomial(*row) for row in rows_))
        return np.logaddexp.reduce(weights + np.array(total))

    def risen(by):
        return e + np.clip(np.minimum(by, 0.98 * n[nodes] - e), 0, None)

    own = e / (e + nominal * n[nodes])
    named_shapes = 1 / (own**2 / shape + (1 - own) ** 2 * np.minimum(spread, 0.1))
    named = marginal(
        lambda k: e * k + n[nodes] * min(max((detect.factor - 1) * ratio * k, detect.floor), half),
        named_shapes,
    )
    null = marginal(lambda k: e * k, shape)
    rises = [(g - 1) * more for g in RISES for more in (e, ref.mu * f * n[nodes])]
    harms = [named, *(marginal(lambda k, rise=rise: risen(rise) * k, shape) for rise in rises)]
    log_e = np.logaddexp.reduce(np.array(harms) - null) - np.log(len(harms))
    return log_e, np.logaddexp(0, log_e) - np.log(2) + null - named


@pytest.mark.slow
@settings(max_examples=4, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    harm=st.sampled_from([0.0, 0.02, 0.1]),
    differ=st.sampled_from([0.0, 0.5]),
    candidates=st.integers(1, 3),
)
def test_the_judge_agrees_with_the_reference(seed, harm, differ, candidates):
    dice = np.random.default_rng(seed)
    nodes = 8
    rates = 0.02 * np.exp(dice.normal(0, differ, nodes)) if differ else np.full(nodes, 0.02)

    def counts(size, mean, rate):
        n = dice.poisson(mean, (nodes, size))
        return np.stack([dice.binomial(n, rate[:, None]), n], axis=-1).astype(float)

    windows, recent = counts(6, 400, rates), counts(10, 40, rates)
    now = rates + np.where(np.arange(nodes) < candidates, harm, 0.0)
    t = 5.0
    step = counts(1, 40 * t, now)[:, 0]
    detect = Detect(factor=3, floor=0.01)
    history = [
        NodeHistory(
            node=f"n{i}",
            windows=tuple(map(tuple, windows[i].tolist())),
            recent=tuple(map(tuple, recent[i].tolist())),
        )
        for i in range(nodes)
    ]
    rows = [
        NodeCount(node=f"n{i}", failures=x, requests=n, seconds=t * INTERVAL_S)
        for i, (x, n) in enumerate(step.tolist())
    ]

    learned = learn(history, interval_s=INTERVAL_S, window_s=600)
    said = look(learned, rows[:candidates], rows[candidates:], alpha=0.01, steps=1, detect=detect)
    reference = Reference(windows, recent)
    log_e, excluding = reference_log_e(
        reference,
        range(candidates),
        range(candidates, nodes),
        step[:, 0],
        step[:, 1],
        t,
        detect,
    )

    assert learned.shape == pytest.approx(reference.a, rel=1e-9)
    assert learned.drift_quadratic == pytest.approx(reference.d2, rel=1e-9)
    assert learned.burst_linear == pytest.approx(reference.b1, rel=1e-9)
    # 41 points count both ends whole: where evidence is overwhelming they are what counts.
    assert said.log_e == pytest.approx(log_e, abs=5e-3, rel=5e-3)
    assert said.log_excluding == pytest.approx(excluding, abs=5e-3, rel=5e-3)
