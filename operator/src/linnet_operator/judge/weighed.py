"""All candidates under every assumption: the e-value of a look, by domain and without each node.

Rules:
- Half of the weight is on harm everywhere, half on harm in one domain alone.
- The named rise must be likelier than no rise on nodes that are as steady, too.
- Leaving a node out changes nothing but its own counts.

Source: ADR 0006, 5, 8 and 12.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from linnet_operator.judge.kernel import POINTS, integrate, less, log_mean, rounded, totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Every candidate under every assumption: what the figures of a look are read from.

    Attributes:
        nodes: The candidates.
        domains: Where each of them stands; empty: not known.
        null: The log probability of each, at every point of the shared error, if nothing is worse.
        steady: The same if it is steady as well: what the named rise must be likelier than, too.
        harms: The same for each kind of harm, the named rise last.
    """

    nodes: tuple[str, ...]
    domains: tuple[str, ...]
    null: list[list[float]]
    steady: list[list[float]]
    harms: list[list[list[float]]]

    @property
    def log_null(self) -> float:
        """Return the log probability of all counts if the candidate is as good as the past."""
        return integrate(totals(self.null))

    @property
    def log_e(self) -> float:
        """Return the log e-value: half of the weight on harm everywhere, half on the domains."""
        return self.log_e_and_by_domain()[0]

    def log_e_and_by_domain(self) -> tuple[float, list[tuple[str, float]]]:
        """Return the log e-value, and that of harm in each domain alone, all others being well."""
        log_null = self.log_null
        everywhere, *alone = [
            (group.name, _log_ratio(group.steady, group.harmed, log_null=log_null))
            for group in self._groups()
        ]
        log_e = _halves(everywhere[1], *(value for _, value in alone))
        return log_e, [(name, rounded(value)) for name, value in alone]

    def log_e_without_each(self) -> dict[str, float]:
        """Return the log e-value that is left when that candidate is left out, by node."""
        null = totals(self.null)
        groups = self._groups()
        remaining: dict[str, float] = {}
        for index, node in enumerate(self.nodes):
            log_null = integrate(less(null, self.null[index]))
            left = (self._without(index, group, log_null=log_null) for group in groups)
            remaining[node] = _halves(*left)
        return remaining

    def _without(self, index: int, group: "_Group", *, log_null: float) -> float:
        """Return the log e-value of harm in a group, of all counts but one row's."""
        inside = index in group.members
        rows = [harm[index] if inside else self.null[index] for harm in self.harms]
        steady = less(group.steady, self.steady[index] if inside else self.null[index])
        left = [less(total, row) for total, row in zip(group.harmed, rows, strict=True)]
        return _log_ratio(steady, left, log_null=log_null)

    def _groups(self) -> list["_Group"]:
        """Return who may be harmed together.

        Everybody, then each domain by name: those of two and more candidates, where there are
        others; one node is no domain.
        """
        found: dict[str, set[int]] = {}
        for index, domain in enumerate(self.domains):
            if domain:
                found.setdefault(domain, set()).add(index)
        everybody = frozenset(range(len(self.nodes)))
        domains = {
            name: frozenset(members)
            for name, members in sorted(found.items())
            if 2 <= len(members) < len(self.nodes)
        }
        # Each row is in one part, so each is added up once.
        parts = {**domains, "": everybody.difference(*domains.values())}

        def by_part(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
            return {name: _totals_of(members, rows) for name, members in parts.items()}

        null, steady = by_part(self.null), by_part(self.steady)
        harms = [by_part(harm) for harm in self.harms]

        def only(name: str, changed: dict[str, list[float]]) -> list[float]:
            return totals([changed[name], *(null[other] for other in parts if other != name)])

        return [
            _Group(
                "", everybody, totals([*steady.values()]), [totals([*h.values()]) for h in harms]
            ),
            *(
                _Group(name, members, only(name, steady), [only(name, harm) for harm in harms])
                for name, members in domains.items()
            ),
        ]


@dataclass(frozen=True, slots=True)
class _Group:
    """Candidates that may be harmed together, all others being well.

    Attributes:
        name: The domain; empty: everybody.
        members: Who they are.
        steady: The log probability of all counts if these are steady, and not worse.
        harmed: The same for each kind of harm to these.
    """

    name: str
    members: frozenset[int]
    steady: list[float]
    harmed: list[list[float]]


def _log_ratio(
    steady: Sequence[float], harmed: Sequence[Sequence[float]], *, log_null: float
) -> float:
    """Return the log of the mean of P(counts if harmed) / P(counts if not)."""
    *others, named = (integrate(total) for total in harmed)
    log_steady = max(log_null, integrate(steady))
    return log_mean([*(other - log_null for other in others), named - log_steady])


def _totals_of(members: frozenset[int], rows: Sequence[Sequence[float]]) -> list[float]:
    return totals([rows[index] for index in sorted(members)]) if members else [0.0] * len(POINTS)


def _halves(everywhere: float, *alone: float) -> float:
    return rounded(log_mean([everywhere, log_mean(alone)]) if alone else everywhere)
