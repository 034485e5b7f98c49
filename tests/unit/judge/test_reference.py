"""The judge against an implementation of its own: arrays, another order, numerical integration.

Written from the research report (5c) and ADR 0006 alone: a negative binomial is a Poisson whose
mean is Gamma-distributed, and that integral is taken on a grid; the error that the candidates share
is integrated by the rule of Gauss and Legendre, not over 41 points.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_operator.judge.compare import Detect, NodeCount, look
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.model import build_model

RISES = (1.5, 2.0, 3.0, 6.0, 12.0)
INTERVAL_S = 60.0


class Reference:
    """The parameters of a history, as arrays: axis 0 is the node; NaN is a missing window."""

    def __init__(self, windows, recent):
        x, n = windows[..., 0], windows[..., 1]
        there = ~np.isnan(n)
        self.x0, self.n0, self.windows = np.nansum(x, 1), np.nansum(n, 1), there.sum(1)
        self.mu = (self.x0.sum() + 0.5) / (self.n0.sum() + 1)
        known = self.n0 > 0
        own = np.where(known, self.x0 / np.maximum(1, self.n0), self.mu)
        self.b2, self.b1, self.bw = self.bursts(recent[known], own[known], self.n0[known])
        fleet = (np.nansum(x, 0) + 2) / (np.nansum(n * own[:, None], 0) + 2)
        expected = n * own[:, None] * fleet
        use = there & (self.windows > 1)[:, None]
        freedom = np.repeat(self.windows[:, None], n.shape[1], 1)[use]
        freedom = freedom / (freedom - 1)
        self.d2, self.d1, self.dw = self.excess(x[use], n[use], expected[use], freedom)
        self.a = 0.02
        if known.sum() > 1:
            self.a = self.likeness(own[known], self.n0[known].mean(), self.windows[known].mean())

    def likeness(self, own, requests, windows):
        sampling = self.mu / requests + self.d2 / windows * np.mean(own**2)
        between = max(0.0, np.var(own, ddof=1) - sampling)
        careful = between + (between + sampling) * np.sqrt(2 / (len(own) - 1))
        between = max(between, min(careful, self.mu**2 / 4), 1e-4 * self.mu**2)
        return float(np.clip(self.mu**2 / between, 0.02, 1e4))

    def bursts(self, recent, own, requests):
        x, n = recent[..., 0], recent[..., 1]
        pull = np.minimum(200, requests)
        rate = (x.sum(1) + pull * own) / (n.sum(1) + pull)
        count = x.shape[1]
        return self.excess(x, n, n * rate[:, None], count / (count - 1))

    @staticmethod
    def excess(x, n, e, freedom):
        if not e.any():
            return 0.0, 0.0, 1.0
        left = max(0.0, (freedom * (x - e) ** 2 - e).sum())
        rows = (e**2).sum() ** 2 / (e**4).sum()
        return left / (e**2).sum(), left / (n * e).sum(), max(1.0, rows)

    def expect(self, index, n, t, f):
        """Return expected failures, how much the past knows, the spread, and its bursts."""
        past = self.a + self.x0[index]
        e = n * past / (self.a / self.mu + self.n0[index]) * f
        e = np.maximum(1e-9, e)
        burst = np.maximum(self.b2, self.b1 * n / e) / np.maximum(1, t) * (1 + 2 / np.sqrt(self.bw))
        drift = np.maximum(self.d2, self.d1 * n / e) * (1 + 1 / np.maximum(1, self.windows[index]))
        drift *= 1 + 2 / np.sqrt(self.dw)
        return e, past, burst + drift + 0.05**2 + 0.25 * np.log(f) ** 2, burst

    def rows(self, candidates, stable, x, n, t):
        """Return the fleet's factor and its spread, then four figures of each candidate."""
        steady = np.array([i for i in stable if n[i] > 0], dtype=int)
        usual = (self.a + self.x0[steady]) / (self.a / self.mu + self.n0[steady])
        f = (x[steady].sum() + 2) / ((n[steady] * usual).sum() + 2)
        e, past, spread, _ = self.expect(steady, n[steady], t[steady], f)
        rows, seen, variance = 0.0, 0.0, 1 / (x[steady].sum() + 2)
        if len(steady):
            rows = (e**2).sum() ** 2 / (e**4).sum()
            seen = ((x[steady] - e) ** 2 - e - e**2 / past).sum() / (e**2).sum()
            seen = max(0.0, seen) * (1 + 2 / np.sqrt(max(1.0, rows)))

        def widened(own):
            return np.maximum(own, (rows * seen + 4 * own) / (rows + 4))

        if len(steady):
            variance += ((widened(spread) + 1 / past) * e**2).sum() / e.sum() ** 2
        nodes = np.array(candidates)
        e, past, spread, bursts = self.expect(nodes, n[nodes], t[nodes], f)
        return f, np.sqrt(np.log1p(min(variance, 4.0))), e, past, widened(spread), bursts


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
    f, sd, e, past, spread, bursts = ref.rows(candidates, stable, x, n, np.full(len(x), t))
    nodes = np.array(candidates)
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
    named_spread = own**2 / shape + (1 - own) ** 2 * np.minimum(spread, 0.1)

    def named_means(k):
        return e * k + n[nodes] * min(max((detect.factor - 1) * ratio * k, detect.floor), half)

    named = marginal(named_means, 1 / named_spread)
    in_bursts = marginal(named_means, 1 / (named_spread + own * (1 - own) * bursts))
    null = marginal(lambda k: e * k, shape)
    steady = marginal(lambda k: e * k, 1 / (1 / past + np.minimum(spread, 0.1)))
    rises = [(g - 1) * more for g in RISES for more in (e, ref.mu * f * n[nodes])]
    ratios = [marginal(lambda k, rise=rise: risen(rise) * k, shape) - null for rise in rises]
    ratios.append(named - max(null, steady))
    log_e = np.logaddexp.reduce(ratios) - np.log(len(ratios))
    return log_e, np.logaddexp(0, log_e) - np.log(2) + null - in_bursts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "rate", "harm", "differ", "candidates"),
    [
        pytest.param(0, 0.02, 0.0, 0.5, 1, id="equal"),
        pytest.param(1, 0.02, 0.02, 0.0, 2, id="twice as bad"),
        pytest.param(3, 0.02, 0.02, 0.5, 3, id="twice as bad, on nodes that differ"),
        pytest.param(1, 0.02, 0.1, 0.5, 1, id="bad"),
        pytest.param(0, 0.02, 0.1, 0.0, 2, id="overwhelming"),
        pytest.param(0, 0.0005, 0.01, 0.0, 2, id="bad, where hardly a request failed"),
        pytest.param(0, 0.4, 0.1, 0.0, 2, id="where nearly half of the requests fail anyway"),
    ],
)
def test_the_judge_agrees_with_the_reference(seed, rate, harm, differ, candidates):
    dice = np.random.default_rng(seed)
    nodes = 8
    rates = rate * np.exp(dice.normal(0, differ, nodes)) if differ else np.full(nodes, rate)

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
    # 41 points count both ends whole: where evidence is overwhelming they are what counts, and
    # the judge is a little less sure.
    assert said.log_e == pytest.approx(log_e, abs=5e-3, rel=2e-2 if log_e > said.line else 0.0)
    assert said.log_excluding == pytest.approx(excluding, abs=5e-3, rel=5e-3)


@given(
    seed=st.integers(0, 10**6),
    nodes=st.integers(2, 8),
    windows=st.sampled_from([1, 2, 6]),
    rate=st.sampled_from([0.0, 0.002, 0.05]),
    differ=st.sampled_from([0.0, 0.8]),
    drift=st.sampled_from([0.0, 0.6]),
    burst=st.sampled_from([0.0, 1.0]),
    missing=st.sampled_from([0.0, 0.3, 0.7]),
    candidates=st.integers(1, 3),
    shock=st.sampled_from([1.0, 4.0]),
)
def test_what_is_learned_and_expected_agrees_with_the_reference(
    fleet, seed, nodes, windows, rate, differ, drift, burst, missing, candidates, shock
):
    """Gaps, nodes without a past, idle ones, and each with a time of its own."""
    dice = np.random.default_rng(seed)
    rates = rate * np.exp(dice.normal(0, differ, nodes))

    def counts(size, mean, wobble):
        n = dice.poisson(mean * dice.uniform(0.2, 2, (nodes, 1)), (nodes, size))
        now = np.clip(rates[:, None] * np.exp(dice.normal(0, wobble, (nodes, size))), 0, 1)
        return np.stack([dice.binomial(n, now), n], axis=-1).astype(float)

    past, recent = counts(windows, 300, drift), counts(5, 60, burst)
    past[dice.random((nodes, windows)) < missing] = np.nan
    past[past[..., 1] == 0] = np.nan
    now = counts(1, 500 * shock, 0.3)[:, 0]
    now[dice.random(nodes) < missing / 2] = 0.0
    seconds = dice.uniform(0.5, 20, nodes) * INTERVAL_S
    history = [
        NodeHistory(
            node=f"n{i}",
            windows=tuple(None if np.isnan(n) else (x, n) for x, n in past[i].tolist()),
            recent=tuple(map(tuple, recent[i].tolist())),
        )
        for i in range(nodes)
        # To have no past is the same as not to be known.
        if i % 2 or not np.isnan(past[i]).all()
    ]
    rows = [
        NodeCount(node=f"n{i}", failures=x, requests=n, seconds=seconds[i])
        for i, (x, n) in enumerate(now.tolist())
    ]

    learned = learn(history, interval_s=INTERVAL_S, window_s=600)
    model = build_model(learned, rows[:candidates], rows[candidates:], detect=fleet.detect)

    ref = Reference(past, recent)
    found = [learned.rate, learned.shape, learned.burst_quadratic, learned.burst_linear]
    found += [learned.drift_quadratic, learned.drift_linear]
    assert found == pytest.approx([ref.mu, ref.a, ref.b2, ref.b1, ref.d2, ref.d1], rel=1e-9)
    assert (learned.burst_rows, learned.drift_rows) == pytest.approx((ref.bw, ref.dw), rel=1e-9)
    assert learned.windows == ref.windows.max()
    assert learned.requests_per_s * ref.windows.sum() * 600 == pytest.approx(ref.n0.sum())
    if model is None:
        assert not now[:candidates, 1].any()
        return
    chosen = range(min(candidates, nodes))
    f, sd, e, known, spread, bursts = ref.rows(
        chosen, range(candidates, nodes), now[:, 0], now[:, 1], seconds / INTERVAL_S
    )
    assert (model.fleet_factor, model.factor_spread) == pytest.approx((f, sd), rel=1e-9)
    assert [row.expected for row in model.rows] == pytest.approx(e.tolist(), rel=1e-9)
    assert [row.past for row in model.rows] == pytest.approx(known.tolist(), rel=1e-9)
    assert [row.spread for row in model.rows] == pytest.approx(spread.tolist(), rel=1e-9)
    assert [row.burst for row in model.rows] == pytest.approx(bursts.tolist(), rel=1e-9)
    assert [row.history_windows for row in model.rows] == ref.windows[list(chosen)].tolist()
    assert model.stable_nodes == np.count_nonzero(now[candidates:, 1])
