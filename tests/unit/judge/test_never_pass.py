"""Rule 5 by brute force: no history of gaps, lies, resets and restarts ends in a Pass.

A small history is the raw counters of a few nodes over a few scrapes, as a source may give them.
One that is whole, long enough and equal passes (shown first); then every one of them is broken.
``make nightly-judge`` does it a million times.
"""

import random  # noqa: TID251 - seeded
from dataclasses import replace
from math import inf, nan

import pytest

from linnet_operator.judge.assess import MetricInputs, StepInputs, ThresholdInputs, assess
from linnet_operator.judge.compare import Detect
from linnet_operator.judge.counters import Counts, node_counts
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec
from linnet_operator.judge.verdicts import Verdict

CANDIDATES = ("c1", "c2")
STABLE = ("s1", "s2")
SCRAPES = 3
PARTS = 10
# What forbids a Pass, and how often it is drawn; an idle step is forecast, which takes longest.
FORBID = {"gap": 4, "nothing": 2, "lie": 4, "warning": 2, "source": 2, "heat": 2, "idle": 0.2}
NO_MEASUREMENT = (None, (nan, 100.0), (1.0, nan), (inf, inf), (-1.0, 100.0), (200.0, 100.0))


@pytest.fixture(scope="module")
def learned():
    nodes = [
        NodeHistory(node=name, windows=((50.0, 5000.0),) * 6, recent=((5.0, 500.0),) * 4)
        for name in (*CANDIDATES, *STABLE)
    ]
    return learn(nodes, interval_s=1, window_s=10)


def whole_counters():
    """Return the counters of a step in which all is well: 1 % fail, everywhere."""
    times = tuple(float(at) for at in range(SCRAPES))
    rows = {}
    for name in CANDIDATES:
        rows[name, "new"] = tuple((200.0 * at, 20_000.0 * at) for at in range(SCRAPES))
    for name in STABLE:
        rows[name, "old"] = tuple((200.0 * at + 7, 20_000.0 * at + 900) for at in range(SCRAPES))
    return Counts(times_s=times, by_node_revision=rows)


def step(learned, counts, *, samples=(1.0, 1.0), **changes):
    metric = MetricInputs(
        name="errors",
        signal="Errors",
        learned=learned,
        candidates=node_counts(
            counts,
            revision="new",
            seconds_by_node=dict.fromkeys(CANDIDATES, 60.0),
            born_at_zero=True,
        ),
        stable=node_counts(
            counts,
            revision="old",
            seconds_by_node=dict.fromkeys(STABLE, 60.0),
            born_at_zero=False,
        ),
    )
    spec = ThresholdSpec(name="heat", maximum="85")
    found = tuple(
        ThresholdSample(at_s=float(at), value=value, series=1) for at, value in enumerate(samples)
    )
    return StepInputs(
        metrics=(replace(metric, **changes),),
        thresholds=(ThresholdInputs(spec=spec, samples=found),),
        alpha=0.01,
        steps=4,
        detect=Detect(factor=3, floor=0.01),
        required_windows=6,
    )


def broken(dice, learned):
    """Return a step that is not whole in at least one way, drawn by lot."""
    counts = whole_counters()
    rows = {key: list(samples) for key, samples in counts.by_node_revision.items()}
    changes = {}
    samples = [1.0, 1.0]
    node = dice.choice(CANDIDATES)
    ways = dice.choices(
        ["hole", "restart", "absent", *FORBID], weights=[4, 4, 2, *FORBID.values()], k=2
    )
    # The last one is a step that may not pass, whatever else happened to it.
    for way in (*ways, *dice.choices(list(FORBID), weights=FORBID.values())):
        match way:
            case "hole":
                dice.choice(list(rows.values()))[dice.randrange(SCRAPES)] = None
            case "restart":
                row = dice.choice(list(rows.values()))
                failures = dice.uniform(0, 3)
                row[dice.randrange(1, SCRAPES)] = (failures, failures + dice.uniform(0, 400))
            case "absent":
                rows.pop((dice.choice(STABLE), "old"), None)
            case "gap":
                rows[node, "new"][-1] = None
            case "nothing":
                rows[node, "new"] = [None] * SCRAPES
            case "idle":
                rows.update({(name, "new"): [(0.0, 0.0)] * SCRAPES for name in CANDIDATES})
            case "lie":
                changes["candidates"] = dice.choice(NO_MEASUREMENT)
            case "warning":
                changes["partial"] = "a store is down"
            case "source":
                changes["no_data"] = "the source is down"
            case "heat":
                samples[-1] = dice.choice([nan, inf, -inf, None])
    lie = changes.pop("candidates", "no")
    made = step(learned, replace(counts, by_node_revision=rows), samples=samples, **changes)
    if lie != "no":
        (metric,) = made.metrics
        first, *rest = metric.candidates
        failures, requests = lie or (None, None)
        said = replace(first, failures=failures, requests=requests)
        made = replace(made, metrics=(replace(metric, candidates=(said, *rest)),))
    return made


def test_a_whole_history_passes(learned):
    assert assess(step(learned, whole_counters())).verdict is Verdict.PASS


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_rule_5_nothing_that_is_not_whole_ever_passes(learned, histories, part):
    dice = random.Random(f"{histories} {part}")  # noqa: S311 - seeded
    seen = {}

    for number in range(histories // PARTS):
        made = broken(dice, learned)
        verdict = assess(made).verdict
        assert verdict is not Verdict.PASS, (number, made)
        seen[verdict] = seen.get(verdict, 0) + 1

    assert {Verdict.NO_DATA, Verdict.PARTIAL} <= set(seen)
