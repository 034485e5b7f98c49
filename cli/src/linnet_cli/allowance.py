"""What each candidate is allowed beyond chance, in parts: the phi^2 of a look, for a calculator.

Pure. The judge gives the sum and the bursts; the other parts are computed here from the same
inputs, by the formulas of the research report, section 5c, and a test holds the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log, sqrt

from linnet_operator.judge.learned import Learned
from linnet_operator.judge.model import (
    FACTOR_CARE,
    PLACEBO_WEIGHT,
    ROWS_CARE,
    SPREAD_FLOOR,
    Model,
    NodeCount,
    Row,
    is_measured,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far the stable nodes are off their own past now.

    Attributes:
        squares: The sum of (x - e)^2 - e - e^2 / A over them, by the sum of e^2; not below zero.
        care: What it is multiplied with, since few nodes show it badly.
        weight: How many nodes carry it.
    """

    squares: float
    care: float
    weight: float

    @property
    def sentence(self) -> str:
        """Say it with its numbers."""
        return (
            f"off their past beyond chance by q = {self.squares:.4g} x {self.care:.4g} = "
            f"{self.squares * self.care:.4g} (square of a part), carried by c = {self.weight:.4g} "
            "nodes"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The phi^2 of one candidate in its parts, before the stable nodes widen it."""

    burst: float
    drift: float
    fleet: float

    @property
    def own(self) -> float:
        """Return their sum, with the floor."""
        return self.burst + self.drift + SPREAD_FLOOR**2 + self.fleet

    def widened(self, deviation: Deviation) -> float:
        """Return what is left of it beside what the stable nodes are off now: the larger."""
        seen = deviation.weight * deviation.squares * deviation.care
        pooled = (seen + PLACEBO_WEIGHT * self.own) / (deviation.weight + PLACEBO_WEIGHT)
        return max(self.own, pooled)

    def sentence(self, deviation: Deviation) -> str:
        """Say it with its numbers."""
        text = (
            f"allowed phi^2 = bursts {self.burst:.4g} + drift {self.drift:.4g} + "
            f"{SPREAD_FLOOR:g}^2 + {FACTOR_CARE:g} ln(f)^2 = {self.own:.4g}"
        )
        widened = self.widened(deviation)
        if widened > self.own:
            text += (
                f", or (c q + {PLACEBO_WEIGHT:g} x {self.own:.4g}) / (c + {PLACEBO_WEIGHT:g}) = "
                f"{widened:.4g}, which is more"
            )
        return text


def stable_deviation(learned: Learned, stable: Sequence[NodeCount], factor: float) -> Deviation:
    """Return how far the stable nodes are off now; ``factor`` is the fleet's."""
    own = {node.node: node for node in learned.nodes}
    rows: list[tuple[float, float, float]] = []
    for row in stable:
        if not is_measured(row) or not row.requests or row.failures is None:
            continue
        past = own.get(row.node)
        known = learned.shape + (past.failures if past else 0.0)
        rate = known / (learned.shape / learned.rate + (past.requests if past else 0.0))
        rows.append((row.failures, row.requests * rate * factor, known))
    squares = fsum(e * e for _, e, _ in rows)
    if not squares:
        return Deviation(squares=0.0, care=1.0, weight=0.0)
    weight = squares * squares / fsum(e**4 for _, e, _ in rows)
    excess = fsum((x - e) ** 2 - e - e * e / known for x, e, known in rows) / squares
    return Deviation(
        squares=max(0.0, excess), care=1.0 + ROWS_CARE / sqrt(max(1.0, weight)), weight=weight
    )


def allowance(learned: Learned, model: Model, row: Row) -> Allowance:
    """Return the parts of what one candidate is allowed."""
    per_failure = row.requests / row.expected
    drift = max(learned.drift_quadratic, learned.drift_linear * per_failure)
    return Allowance(
        burst=row.burst,
        drift=drift
        * (1.0 + 1.0 / max(1, row.history_windows))
        * (1.0 + ROWS_CARE / sqrt(learned.drift_rows)),
        fleet=FACTOR_CARE * log(model.fleet_factor) ** 2,
    )
