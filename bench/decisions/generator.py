"""Simulated fleets: counts of failures and requests, with everything that makes real nodes differ.

Rules:
- Each node has a rate of its own, for good: Beta with the given mean and intra-class correlation.
- History is windows as long as the step, where nothing else is said; the step is one window more.
- The same seed gives the same counts, whatever is measured on them.
- A good model changes nothing; a bad one adds failures on every candidate (it fails on anyone).

Source of the family: the research report, section 5.
"""

from dataclasses import dataclass, replace

import numpy as np

LOWEST, HIGHEST = 1e-9, 0.95


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What a simulated fleet is like; intervals are minutes.

    Attributes:
        nodes: How many, the candidates included.
        candidates: How many of them take the candidate; they are the first ones.
        minutes: How long the step is, and each window of history.
        requests: Of one node in a minute, on average.
        rate: Failures per request, on average over the fleet.
        correlation: Intra-class correlation: how much nodes differ for good.
        harm: Failures per request that a bad model adds.
        windows: Of history.
        window: Minutes of one of them; 0: as long as the step.
        recent: Minutes of history at the resolution of minutes.
        drift: Sd of a log-normal factor of each node in each window, under any model.
        burst: Over-dispersion within a node from minute to minute (beta-binomial).
        shock: Factor on all nodes during the step: upstream trouble.
        uneven: Sd of a log-normal factor of each node on top of the shock, not seen in history.
        kinds: Share of nodes that fail ten times as often, always.
        traffic: Sd of a log-normal factor on each node's traffic.
        swing: Amplitude of a wave in all rates over the step: the time of the day.
        ramp: Factor that all rates reach at the end of the step, growing from 1.
        walk: The drift of a window builds on that of the window before, with this persistence.
        sites: How many sites share their drift; 0: each node has its own.
        one_site: All candidates stand on one site (otherwise they are spread).
        kinds_of_node: How many kinds of node there are, taken in turn.
        kinds_told: The judge is told which node is of which kind.
        harmed_kinds: How many of them a bad model harms; 0: all.
    """

    nodes: int = 40
    candidates: int = 4
    minutes: int = 120
    requests: float = 20.0
    rate: float = 0.01
    correlation: float = 0.0
    harm: float = 0.0
    windows: int = 24
    window: int = 0
    recent: int = 60
    drift: float = 0.0
    burst: float = 0.0
    shock: float = 1.0
    uneven: float = 0.0
    kinds: float = 0.0
    traffic: float = 0.0
    swing: float = 0.0
    ramp: float = 1.0
    walk: float = 0.0
    sites: int = 0
    one_site: bool = False
    kinds_of_node: int = 0
    kinds_told: bool = True
    harmed_kinds: int = 0

    @property
    def window_minutes(self) -> int:
        """Return how long a window of history is."""
        return self.window or self.minutes


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One fleet's counts: axis 0 is the node, axis 1 the window or the minute.

    The first ``candidates`` nodes are those; node i is of kind i modulo ``kinds_of_node``, or of no
    known one (0).
    """

    history_failures: np.ndarray
    history_requests: np.ndarray
    recent_failures: np.ndarray
    recent_requests: np.ndarray
    failures: np.ndarray
    requests: np.ndarray
    candidates: int
    kinds_of_node: int = 0


def make(fleet: Fleet, dice: np.random.Generator, *, steps: tuple[int, ...] = ()) -> list[Counts]:
    """Return the counts of one fleet for every step, over one history.

    Args:
        fleet: What it is like.
        dice: The only source of chance.
        steps: How many candidates each step has; default one step with the fleet's own.
    """
    own = _own_rates(fleet, dice)
    volume = fleet.requests * _lognormal(dice, fleet.traffic, fleet.nodes)
    steps = steps or (fleet.candidates,)
    drifts = _drifts(fleet, dice, windows=fleet.windows + len(steps))
    past = _clip(own[:, None] * drifts[:, : fleet.windows])
    if fleet.burst:
        # The mean of as many bursts as a window has minutes: the same mean, the matching variance.
        past = _beta(dice, past, fleet.burst / fleet.window_minutes)
    history_requests = dice.poisson(volume[:, None] * fleet.window_minutes, past.shape)
    history_failures = dice.binomial(history_requests, past)
    late = np.repeat(past[:, -1:], fleet.recent, axis=1) if not fleet.burst else None
    if late is None:
        late = _beta(dice, np.repeat(_clip(own[:, None]), fleet.recent, axis=1), fleet.burst)
    recent_requests = dice.poisson(np.repeat(volume[:, None], fleet.recent, axis=1))
    recent_failures = dice.binomial(recent_requests, late)
    made = []
    for step, candidates in enumerate(steps):
        now = own * drifts[:, fleet.windows + step] * fleet.shock
        now = _clip(now * _lognormal(dice, fleet.uneven, fleet.nodes))
        harmed = np.arange(fleet.nodes) < candidates
        if fleet.harmed_kinds:
            harmed &= np.arange(fleet.nodes) % fleet.kinds_of_node < fleet.harmed_kinds
        now = np.where(harmed, np.clip(now + fleet.harm, LOWEST, 0.999), now)
        rates = _clip(now[:, None] * _course(fleet)[None, :], top=0.999)
        if fleet.burst:
            rates = _beta(dice, rates, fleet.burst)
        requests = dice.poisson(np.repeat(volume[:, None], fleet.minutes, axis=1))
        made.append(
            Counts(
                history_failures=history_failures,
                history_requests=history_requests,
                recent_failures=recent_failures,
                recent_requests=recent_requests,
                failures=dice.binomial(requests, rates),
                requests=requests,
                candidates=candidates,
                kinds_of_node=fleet.kinds_of_node if fleet.kinds_told else 0,
            )
        )
    return made


def with_harm(fleet: Fleet, rate: float, harmful: float) -> Fleet:
    """Return the fleet whose base rate is ``rate``, and whose candidate fails ``harmful``."""
    return replace(fleet, rate=rate, harm=harmful - rate)


def _own_rates(fleet: Fleet, dice: np.random.Generator) -> np.ndarray:
    rates = np.full(fleet.nodes, fleet.rate)
    if fleet.correlation:
        size = 1.0 / fleet.correlation - 1.0
        rates = dice.beta(fleet.rate * size, (1.0 - fleet.rate) * size, fleet.nodes)
    if fleet.kinds:
        rates = np.where(dice.random(fleet.nodes) < fleet.kinds, 10.0 * rates, rates)
    return _clip(rates)


def _drifts(fleet: Fleet, dice: np.random.Generator, *, windows: int) -> np.ndarray:
    """Return the drift factor of each node in each window; of mean 1 in the long run."""
    shape = (fleet.sites or fleet.nodes, windows)
    if not fleet.drift:
        return np.ones((fleet.nodes, windows))
    noise = dice.normal(0.0, fleet.drift, shape)
    if fleet.walk:
        for index in range(1, windows):
            fresh = np.sqrt(1.0 - fleet.walk**2) * noise[:, index]
            noise[:, index] = fleet.walk * noise[:, index - 1] + fresh
    factors = np.exp(noise - fleet.drift**2 / 2.0)
    if not fleet.sites:
        return factors
    size = fleet.nodes // fleet.sites
    index = np.arange(fleet.nodes)
    return factors[
        np.minimum(index // size, fleet.sites - 1) if fleet.one_site else index % fleet.sites
    ]


def _course(fleet: Fleet) -> np.ndarray:
    """Return the factor on all rates, minute by minute of the step."""
    time = (np.arange(fleet.minutes) + 0.5) / fleet.minutes
    return (1.0 + fleet.swing * np.sin(2.0 * np.pi * time)) * (1.0 + (fleet.ramp - 1.0) * time)


def _lognormal(dice: np.random.Generator, sd: float, count: int) -> np.ndarray:
    return np.exp(dice.normal(-sd * sd / 2.0, sd, count)) if sd else np.ones(count)


def _beta(dice: np.random.Generator, mean: np.ndarray, dispersion: float) -> np.ndarray:
    size = 1.0 / dispersion - 1.0
    return dice.beta(mean * size, (1.0 - mean) * size)


def _clip(rates: np.ndarray, top: float = HIGHEST) -> np.ndarray:
    return np.clip(rates, LOWEST, top)
