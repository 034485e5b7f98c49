"""The workings of a decision: whoever computes with what is printed comes to what is said."""

import re
from math import exp, log

import numpy as np
import pytest

from linnet_cli.allowance import allowance, stable_deviation
from linnet_cli.workings import show_workings
from linnet_operator.evidence import make_record, recompute
from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.compare import Detect, NodeCount
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.model import build_model

DETECT = Detect(factor=3.0, floor=0.01)


def a_metric(dice, *, name="errors", candidates=2, stable=6, worse=1.0, today=1.0, domains=()):
    """Return a comparison of nodes that differ, drift, and fail in bursts."""
    nodes = [f"edge-{number}" for number in range(1, candidates + stable + 1)]
    rates = {node: 0.02 * float(dice.gamma(2.0, 0.5)) for node in nodes}

    def count(rate, requests):
        rate = min(0.9, rate * dice.lognormal(0.0, 0.4))
        return float(dice.binomial(requests, rate)), float(requests)

    past = [
        NodeHistory(
            node=node,
            windows=tuple(count(rates[node], 100) for _ in range(int(dice.choice((3, 6))))),
            recent=tuple(count(rates[node], 20) for _ in range(5)),
        )
        for node in nodes
    ]

    def row(index, node):
        failures, requests = count(rates[node] * (worse if index < candidates else today), 150)
        return NodeCount(
            node=node,
            failures=failures,
            requests=requests,
            seconds=float(dice.choice((30.0, 450.0))),
            domain=domains[index] if index < len(domains) else "",
        )

    rows = [row(index, node) for index, node in enumerate(nodes)]
    return MetricInputs(
        name=name,
        signal="Errors",
        learned=learn(past, interval_s=60.0, window_s=600.0),
        candidates=tuple(rows[:candidates]),
        stable=tuple(rows[candidates:]),
    )


def workings_of(*metrics):
    inputs = StepInputs(metrics=metrics, alpha=0.01, steps=4, detect=DETECT, required_windows=3)
    record = make_record(inputs, assess(inputs), about={"queries": ["up"]})
    return "\n".join(show_workings(recompute(record.canonical), metric=None, node=None))


def found(pattern, text):
    """Return the numbers of all matches."""
    matches = re.findall(pattern, text)
    assert matches, pattern
    return [[float(part) for part in ([m] if isinstance(m, str) else m)] for m in matches]


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_what_is_allowed_add_up_to_what_the_judge_allows(seed):
    dice = np.random.default_rng(seed)
    metric = a_metric(
        dice, stable=int(dice.choice((0, 1, 6))), today=float(dice.choice((1.0, 4.0)))
    )
    model = build_model(metric.learned, metric.candidates, metric.stable, detect=DETECT)

    off = stable_deviation(metric.learned, metric.stable, model.fleet_factor)

    for row, count in zip(model.rows, metric.candidates, strict=True):
        assert row.node == count.node
        parts = allowance(metric.learned, model, row)
        assert parts.widened(off) == pytest.approx(row.spread, rel=1e-9)


@pytest.mark.parametrize("worse", [1.0, 3.0, 8.0], ids=["equal", "undecided", "bad"])
def test_a_calculator_comes_to_the_same_evidence(worse):
    """From the printed m, s and spread of f alone, by the printed formulas."""
    text = workings_of(a_metric(np.random.default_rng(7), worse=worse))
    counts = [x for (x,) in found(r"counted x = (\S+) of", text)]
    expected = [e for (e,) in found(r"expected e = n r f = .* = (\S+) \(", text)]
    shapes = [s for (s,) in found(r"\+ phi\^2\) = .* = (\S+) \(large", text)]
    ((spread,),) = found(r"sqrt\(log\(1 \+ \S+\)\) = (\S+) \(one", text)

    def log_probability(times):
        points = [0.2 * step - 4.0 for step in range(41)]
        terms = [
            -z * z / 2
            + sum(
                x * log(times * e * exp(spread * z))
                - (x + s) * log(times * e * exp(spread * z) + s)
                for x, e, s in zip(counts, expected, shapes, strict=True)
            )
            for z in points
        ]
        top = max(terms)
        return top + log(sum(exp(term - top) for term in terms))

    by_factor = found(
        r"x([\d.]+) (-?[\d.]+)(?:,|$)", text.partition("worse by x: ")[2].split("\n")[0]
    )
    assert [factor for factor, _ in by_factor] == [1.5, 2, 3, 6, 12]
    for factor, said in by_factor:
        assert log_probability(factor) - log_probability(1.0) == pytest.approx(said, abs=0.05)

    by_mean = found(r"\+[\d.]+ (-?[\d.]+)", text.partition("fleet means: ")[2].split("\n")[0])
    ((by_rise,),) = found(r"the rise that detect names: (\S+)", text)
    kinds = [*(said for _, said in by_factor), *(said for (said,) in by_mean), by_rise]
    ((log_e,),) = found(r"log E = (\S+); line", text)
    assert log(sum(map(exp, kinds)) / 11) == pytest.approx(log_e, abs=0.02)

    ((minus, against),) = found(r"log\(\(1 \+ E\) / 2\) - \((\S+)\) = (\S+),", text)
    assert log((1 + exp(log_e)) / 2) - minus == pytest.approx(against, abs=0.005)


def test_harm_everywhere_and_in_domains_averages_to_the_evidence():
    text = workings_of(a_metric(np.random.default_rng(3), candidates=4, worse=6.0, domains="aabb"))
    ((everywhere,),) = found(r"harm everywhere: log E = (\S+)", text)
    alone = [value for (value,) in found(r"harm on . alone: .*; log E = (\S+) \(", text)]
    ((log_e,),) = found(r"log E = (\S+); line", text)

    assert len(alone) == 2
    averaged = (exp(everywhere) + sum(map(exp, alone)) / 2) / 2
    assert log(averaged) == pytest.approx(log_e, abs=0.002)


def test_what_is_no_measurement_is_in_no_sum():
    metric = a_metric(np.random.default_rng(5))
    broken = NodeCount(node="edge-8", failures=500.0, requests=100.0, seconds=60.0)
    text = workings_of(
        MetricInputs(
            name="errors",
            signal="Errors",
            learned=metric.learned,
            candidates=metric.candidates,
            stable=(*metric.stable[:-1], broken),
        )
    )

    ((above, below, factor),) = found(r"= \((\S+) \+ 2\) / \((\S+) \+ 2\) = (\S+), from 5", text)
    assert (above + 2) / (below + 2) == pytest.approx(factor, rel=1e-3)


def test_why_the_candidate_is_not_blamed_stands_with_its_numbers():
    text = workings_of(a_metric(np.random.default_rng(1), today=12.0))

    ((factor,),) = found(r"trouble +f = (\S+) is above 2", text)
    assert factor > 2
    assert "above detect.floor (1.00%)" in text


def test_one_node_of_five_that_carries_the_evidence_is_named_with_what_is_left():
    learned = learn(
        [NodeHistory(node=f"edge-{n}", windows=((2.0, 200.0),) * 6) for n in range(1, 10)],
        interval_s=60.0,
        window_s=600.0,
    )
    rows = [
        NodeCount(node=f"edge-{n}", failures=80.0 if n == 2 else 2.0, requests=200.0, seconds=600.0)
        for n in range(1, 10)
    ]
    text = workings_of(
        MetricInputs(
            name="errors",
            signal="Errors",
            learned=learned,
            candidates=tuple(rows[:5]),
            stable=tuple(rows[5:]),
        )
    )

    ((left, line),) = found(r"without edge-2 log E = (\S+), line (\S+)", text)
    assert left < line
    assert "a person is asked" in text
