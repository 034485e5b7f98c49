"""Counters, gauges and histograms in Prometheus' text format, for one thread.

- One thread counts a metric (the loop's, but for spans), and the loop's renders: no locks. That,
  and the web server that comes with `prometheus_client` (5 MiB of a server that has its own), are
  why it is not used here.
- A family without series is still described: who scrapes learns its name and type.

Source: the text format 0.0.4, `docs/instrumenting/exposition_formats.md` of Prometheus.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self) -> None:
        """Count one."""
        self.value += 1

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """Yield suffix, last label and value of each sample."""
        yield "", "", self.value


class Gauge:
    """A number that is set, or asked for at each scrape."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self._read: Callable[[], float] = lambda: 0.0

    def set(self, value: float) -> None:
        """Let it be ``value``."""
        self._read = lambda: value

    def set_function(self, read: Callable[[], float]) -> None:
        """Let it be what ``read`` returns."""
        self._read = read

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """Yield suffix, last label and value of each sample."""
        yield "", "", float(self._read())


class Histogram:
    """How many observations lay up to each edge."""

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect.bisect_left(self._edges, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """Yield suffix, last label and value of each sample."""
        edges = [*(repr(float(edge)) for edge in self._edges), "+Inf"]
        for edge, count in zip(edges, itertools.accumulate(self._counts), strict=True):
            yield "_bucket", f'le="{edge}"', float(count)
        yield "_count", "", float(sum(self._counts))
        yield "_sum", "", self._sum


class Metric(Protocol):
    """One of the above."""

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """Yield suffix, last label and value of each sample."""


M = TypeVar("M", bound=Metric)


class Family(Generic[M]):
    """The metrics of one name, by the values of their labels."""

    def __init__(
        self, name: str, description: str, kind: str, labels: Sequence[str], new: Callable[[], M]
    ) -> None:
        self._name = name
        self._head = f"# HELP {name} {description}\n# TYPE {name} {kind}\n"
        self._order = sorted(range(len(labels)), key=labels.__getitem__)
        self._labels = labels
        self._new = new
        self._metrics: dict[tuple[str, ...], tuple[str, M]] = {}

    def labels(self, *values: str) -> M:
        """Return the metric with these labels; from now on it exists."""
        found = self._metrics.get(values)
        if found is None:
            assert len(values) == len(self._labels), values
            text = ",".join(
                f'{self._labels[at]}="{values[at].translate(_ESCAPES)}"' for at in self._order
            )
            found = self._metrics[values] = text, self._new()
        return found[1]

    def remove(self, *values: str) -> None:
        """Forget the metric with these labels."""
        del self._metrics[values]

    def render(self) -> str:
        """Return the family in the text format."""
        lines = [self._head]
        for text, metric in self._metrics.values():
            for suffix, last, value in metric.samples():
                labels = f"{text},{last}" if last else text
                lines.append(f"{self._name}{suffix}{{{labels}}} {value!r}\n")
        return "".join(lines)


class Registry:
    """All families of the process, in the order in which they were made."""

    def __init__(self) -> None:
        self._families: list[Family[Counter] | Family[Gauge] | Family[Histogram]] = []

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Family[Counter]:
        """Return a new family of counters; its name ends in ``_total``."""
        assert name.endswith("_total"), name
        return self._add(Family(name, description, "counter", labels, Counter))

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Family[Gauge]:
        """Return a new family of gauges."""
        return self._add(Family(name, description, "gauge", labels, Gauge))

    def histogram(
        self, name: str, description: str, labels: Sequence[str], *, edges: Sequence[float]
    ) -> Family[Histogram]:
        """Return a new family of histograms with ``edges``, in ascending order."""
        return self._add(Family(name, description, "histogram", labels, lambda: Histogram(edges)))

    def render(self) -> bytes:
        """Return all of it in the text format."""
        return "".join(family.render() for family in self._families).encode()

    def _add(self, family: Family[M]) -> Family[M]:
        self._families.append(family)  # type: ignore[arg-type]  # M is one of the three
        return family
