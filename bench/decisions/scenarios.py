"""What is simulated: the closed list of fleets and models, and the limits that the judge keeps."""

from dataclasses import dataclass, replace
from typing import Literal

from bench.decisions.generator import Fleet, with_harm

Table = Literal["good", "bad", "part", "clear", "rollout", "robust"]
DRIFTING = {"correlation": 0.02, "drift": 0.3}
STEPS = (1, 4, 10, 20, 36)
"""Candidates of each step of a whole rollout over 40 nodes; four are kept as control."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fleet and one model.

    Attributes:
        key: Its name on the command line, and the seed of its dice.
        table: Which table it belongs to.
        title: The heading of its column.
        fleet: What is simulated.
        every: Minutes between two looks of ours in the full size.
        share: Of the repetitions: long scenarios make do with fewer.
        withheld: The judge is told what the history says of the fleet, not whose it was.
        median: Minutes to the alarm, half of all bad models (report, 5e); None where fewer than
            half were caught.
    """

    key: str
    table: Table
    title: str
    fleet: Fleet
    every: int = 1
    share: float = 1.0
    withheld: bool = False
    median: float | None = None

    def count(self, repetitions: int) -> int:
        """Return how often this scenario is repeated."""
        return max(1, round(repetitions * self.share))

    @property
    def good(self) -> bool:
        """Return whether the model is as good as the old one."""
        return self.fleet.harm == 0.0

    @property
    def largest_false(self) -> float:
        """Return what the lower 99 % bound of false rollback may not be above, as a ratio."""
        uneven = self.fleet.uneven > 0.0 and self.fleet.nodes == 10
        return 0.025 if uneven else 0.015


_GOOD: dict[str, tuple[str, Fleet]] = {
    "iid": ("equal nodes", Fleet()),
    "rho01": ("rho .01", Fleet(correlation=0.01)),
    "rho02": ("rho .02", Fleet(correlation=0.02)),
    "rho05": ("rho .05", Fleet(correlation=0.05)),
    "drift": (".02, drift .3", Fleet(**DRIFTING)),
    "burst": (".02, burst .05", Fleet(correlation=0.02, burst=0.05)),
    "shock": (".02, shock x3", Fleet(correlation=0.02, shock=3.0)),
    "uneven": (".02, uneven shock", Fleet(correlation=0.02, shock=3.0, uneven=0.5)),
    "base4": ("base 4 %, equal", Fleet(rate=0.04)),
    "soak": ("24 h, .02", Fleet(correlation=0.02, minutes=1440)),
    # A window holds one failure of a node, and the step is as long as 24 of them.
    "thin": ("thin windows, drift .3", Fleet(drift=0.3, requests=5.0, minutes=480, window=20)),
}

_LONG = {"soak", "thin"}

_BAD: dict[str, tuple[str, Fleet, float, float | None]] = {
    "1to2-iid": ("1 to 2 %, equal", with_harm(Fleet(), 0.01, 0.02), 23, 89),
    "1to2": ("1 to 2 %, .02", with_harm(Fleet(correlation=0.02), 0.01, 0.02), 8, 47),
    "1to2-drift": ("1 to 2 %, .02 + drift", with_harm(Fleet(**DRIFTING), 0.01, 0.02), 37, None),
    "1to5-iid": ("1 to 5 %, equal", with_harm(Fleet(), 0.01, 0.05), 3, 11),
    "1to5": ("1 to 5 %, .02", with_harm(Fleet(correlation=0.02), 0.01, 0.05), 2, 6),
    "01to1-iid": ("0.1 to 1 %, equal", with_harm(Fleet(), 0.001, 0.01), 8, 29),
    "01to1": ("0.1 to 1 %, .02", with_harm(Fleet(correlation=0.02), 0.001, 0.01), 3, 12),
}

_ROBUST: dict[str, tuple[str, Fleet]] = {
    "kinds": ("a tenth of the nodes fails 10 x", Fleet(correlation=0.02, kinds=0.1)),
    "traffic": ("traffic of nodes, sd 1.2", Fleet(correlation=0.02, traffic=1.2)),
    "day": ("rates swing by half", Fleet(correlation=0.02, swing=0.5)),
    "ramp": ("rates grow to x 4", Fleet(correlation=0.02, ramp=4.0)),
    "walk": ("drift .3 that walks", Fleet(**DRIFTING, walk=0.9)),
    "short": ("2 windows of history", Fleet(correlation=0.02, windows=2)),
    "one-site": (
        "drift of 10 sites, candidates on one",
        Fleet(**DRIFTING, sites=10, one_site=True),
    ),
    "spread": ("drift of 10 sites, candidates spread", Fleet(**DRIFTING, sites=10)),
    "domains": (
        "4 kinds of node, 12 candidates",
        Fleet(**DRIFTING, candidates=12, kinds_of_node=4),
    ),
}

_HARMED = with_harm(Fleet(**DRIFTING, candidates=12, kinds_of_node=4, harmed_kinds=1), 0.01, 0.05)
_PARTLY_BAD: dict[str, tuple[str, Fleet]] = {
    "one-kind-told": ("1 to 5 % on one of 4 kinds, kinds known", _HARMED),
    "one-kind": ("the same, kinds not known", replace(_HARMED, kinds_told=False)),
}

_ROLLOUT_FLEET = Fleet(minutes=30, correlation=0.02, drift=0.2)
_ROLLOUTS: dict[str, tuple[str, Fleet]] = {
    "good-iid": ("good, equal nodes", Fleet(minutes=30)),
    "good": ("good, .02", _ROLLOUT_FLEET),
    "good-slow": (
        "good, .02, 5 a minute",
        Fleet(minutes=30, correlation=0.02, drift=0.2, requests=5.0),
    ),
    "1to2": ("1 to 2 %", with_harm(_ROLLOUT_FLEET, 0.01, 0.02)),
    "1to5": ("1 to 5 %", with_harm(_ROLLOUT_FLEET, 0.01, 0.05)),
    "01to1": ("0.1 to 1 %", with_harm(_ROLLOUT_FLEET, 0.001, 0.01)),
}


def _small(fleet: Fleet) -> Fleet:
    """Return the same fleet with ten nodes, one of which takes the candidate."""
    return replace(fleet, nodes=10, candidates=1)


def all_scenarios() -> list[Scenario]:
    """Return every scenario, in the order of the tables."""
    made: list[Scenario] = []
    for size, shrink in (("40", lambda fleet: fleet), ("10", _small)):
        made += [
            Scenario(
                key=f"good-{size}-{key}",
                table="good",
                title=title,
                fleet=shrink(fleet),
                every=10 if key in _LONG else 1,
            )
            for key, (title, fleet) in _GOOD.items()
        ]
    for size, shrink in (("40", lambda fleet: fleet), ("10", _small)):
        made += [
            Scenario(
                key=f"bad-{size}-{key}",
                table="bad",
                title=title,
                fleet=shrink(fleet),
                share=0.5,
                median=at_40 if size == "40" else at_10,
            )
            for key, (title, fleet, at_40, at_10) in _BAD.items()
        ]
    made += [
        Scenario(
            key=f"bad-withheld-{key}",
            table="bad",
            title=title,
            fleet=fleet,
            share=0.25,
            withheld=True,
        )
        for key, (title, fleet, _, _) in _BAD.items()
    ]
    made += [
        Scenario(key=f"part-{key}", table="part", title=title, fleet=fleet, share=0.5)
        for key, (title, fleet) in _PARTLY_BAD.items()
    ]
    for size, shrink in (("40", lambda fleet: fleet), ("10", _small)):
        made += [
            Scenario(
                key=f"clear-{size}-{key}",
                table="clear",
                title=_GOOD[key][0],
                fleet=shrink(_GOOD[key][1]),
                share=0.25,
            )
            for key in ("iid", "rho02", "drift")
        ]
    made += [
        Scenario(key=f"rollout-{key}", table="rollout", title=title, fleet=fleet, share=0.5)
        for key, (title, fleet) in _ROLLOUTS.items()
    ]
    made += [
        Scenario(key=f"robust-{key}", table="robust", title=title, fleet=fleet)
        for key, (title, fleet) in _ROBUST.items()
    ]
    return made
