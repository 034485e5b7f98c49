"""The tables and pictures of a run: ``## Decisions`` in ``bench/README.md``, and three SVG files.

- Only that section is written; the others belong to other benchmarks.
- A figure stands beside how often it was tried; what was not measured is a dash.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import mean

from bench.decisions import pictures
from bench.decisions.measure import CLEARED, OURS, Outcome
from bench.decisions.rivals import RIVALS
from bench.decisions.scenarios import Scenario, Table, all_scenarios

JUDGES = (OURS, *RIVALS)
HEADING = "## Decisions"

INTRODUCTION = """{heading}

How often is a good model taken back, and how soon a bad one? `make bench-decisions` asks the
project's own judge and six others, all on the same simulated fleets, where the right answer is
known. The judge is run as the operator runs it: a look each minute, alpha 1 %, `detect` x3 or 1
point, 24 windows of history. A node handles 20 requests a minute and fails 1 % of them where
nothing else is said; a step lasts two hours. *rho* is how much nodes differ for good (intra-class
correlation), *drift* how much a node changes from window to window (sd of a log-normal factor),
*burst* how much failures come together.

The rivals have no history, which is how they are used: fixed lines, the 1.5 x rule, Kayenta's
Mann-Whitney, a z-test that is looked at each minute, and the e-process on requests of Lindon and
Malek. All are written in `bench/decisions`. `python -m bench.decisions --gate` is the small size
with fixed seeds, a test of every build: no scenario whose false rollback is surely (99 %) above
1.5 %, or 2.5 % for an uneven shock on 10 nodes, and nothing found later than 1.25 times the
medians of the research.

All of it is simulated: on a real fleet, watch the placebo rate.
"""


def write(kept: Mapping[str, Outcome], folder: Path) -> None:
    """Write the section and the pictures below ``folder``."""
    images = folder / "decisions"
    for name, picture in _pictures(kept).items():
        (images / name).write_text(picture, encoding="utf-8")
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    path.write_text(_with_section(text, section(kept)), encoding="utf-8")


def line(scenario: Scenario, outcome: Outcome) -> str:
    """Return the outcome of a scenario in a line, for those who wait."""
    if scenario.table == "clear":
        return f"{scenario.key}: {_cleared(outcome)}"
    cell = _found if scenario.table in {"bad", "part"} else _share
    known = (
        f"{judge} {cell(outcome.alarms[judge])}" for judge in JUDGES if judge in outcome.alarms
    )
    return f"{scenario.key} ({outcome.repetitions}): {'; '.join(known)}"


def section(kept: Mapping[str, Outcome]) -> str:
    """Return the section of the README."""
    every = all_scenarios()

    def of(table: Table, part: str = "") -> list[Scenario]:
        return [each for each in every if each.table == table and part in each.key]

    def table(scenarios: Sequence[Scenario], cell: Callable[[list[float | None]], str]) -> str:
        return _judges_table(scenarios, kept, cell)

    clear = of("clear")
    parts = [
        INTRODUCTION.format(heading=HEADING),
        "### A good model is taken back\n\nPercent of good models.\n",
        "![False rollback by judge and scenario](decisions/false-rollback.svg)\n",
        "40 nodes, 4 of them candidates:\n",
        table(of("good", "-40-"), _share),
        "10 nodes, 1 candidate:\n",
        table(of("good", "-10-"), _share),
        "Fleets on which nothing was tuned (40 nodes):\n",
        table(of("robust"), _share),
        "### A bad model is found\n\nPercent found in two hours / minutes for half of them / for "
        "four fifths. A dash: not so many were found.\n",
        "![Share of bad models found by minute](decisions/time-to-detect.svg)\n",
        "40 nodes, 4 of them candidates:\n",
        table(of("bad", "-40-"), _found),
        "10 nodes, 1 candidate:\n",
        table(of("bad", "-10-"), _found),
        "40 nodes, 4 candidates, the history of each node withheld (honesty costs this much):\n",
        table(of("bad", "-withheld-"), _found),
        "Bad on one kind of node of four, 12 candidates, rho .02 and drift .3:\n",
        table(of("part"), _found),
        "### A good model is cleared\n\nMinutes until a rise by that factor is excluded for half "
        "of the good models; a dash: not in two hours.\n",
        _table(
            ["", *(f"x {factor:g}" for factor in CLEARED)],
            [
                [f"{each.fleet.nodes} nodes, {each.title}", *_cleared_cells(kept.get(each.key))]
                for each in clear
            ],
        ),
        "### Whole rollouts\n\n40 nodes in steps of 1, 4, 10, 20 and 36, 30 minutes each, alpha "
        "shared by the steps, rho .02 and drift .2. Percent taken back / mean percent of the "
        "nodes that had the candidate by then (100 where it was never taken back).\n",
        "![Nodes exposed to a bad model](decisions/nodes-exposed.svg)\n",
        table(of("rollout"), _exposed),
        _repetitions(kept, every),
    ]
    return "\n".join(parts)


def _with_section(text: str, new: str) -> str:
    found = re.search(rf"^{HEADING}$.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{text.rstrip()}\n\n{new}"
    rest = text[found.end() :]
    return f"{text[: found.start()]}{new}{chr(10) if rest else ''}{rest}"


def _judges_table(
    scenarios: Sequence[Scenario],
    kept: Mapping[str, Outcome],
    cell: Callable[[list[float | None]], str],
) -> str:
    rows = []
    for judge in JUDGES:
        values = [
            cell(kept[each.key].alarms[judge])
            if each.key in kept and judge in kept[each.key].alarms
            else "-"
            for each in scenarios
        ]
        if set(values) != {"-"} or judge == OURS:
            mark = "**" if judge == OURS else ""
            rows.append([f"{mark}{judge}{mark}", *(f"{mark}{value}{mark}" for value in values)])
    return _table(["", *(each.title for each in scenarios)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _share(alarms: Sequence[float | None]) -> str:
    return f"{_percent(alarms):.1f}"


def _found(alarms: Sequence[float | None]) -> str:
    times = [inf if alarm is None else alarm for alarm in alarms]
    half, most = _quantile(times, 50), _quantile(times, 80)
    shown = "/".join("-" if value == inf else f"{value:.0f}" for value in (half, most))
    return f"{_percent(alarms):.0f}/{shown}"


def _exposed(alarms: Sequence[float | None]) -> str:
    return f"{_percent(alarms):.1f} / {_exposure(alarms):.0f}"


def _exposure(alarms: Sequence[float | None]) -> float:
    return 100.0 * mean(1.0 if alarm is None else alarm for alarm in alarms)


def _percent(alarms: Sequence[float | None]) -> float:
    return 100.0 * mean(alarm is not None for alarm in alarms)


def _quantile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent are not above; infinite values are allowed."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _cleared_cells(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["-"] * len(CLEARED)
    medians = [
        _quantile([inf if m is None else m for m in outcome.cleared[f"{factor:g}"]], 50)
        for factor in CLEARED
    ]
    return ["-" if value == inf else f"{value:.0f}" for value in medians]


def _cleared(outcome: Outcome) -> str:
    cells = zip(CLEARED, _cleared_cells(outcome), strict=True)
    return ", ".join(f"x{factor:g} after {cell}" for factor, cell in cells)


def _repetitions(kept: Mapping[str, Outcome], every: Sequence[Scenario]) -> str:
    counts = [kept[each.key].repetitions for each in every if each.key in kept]
    good = [
        kept[each.key].repetitions for each in every if each.key in kept and each.table == "good"
    ]
    if not counts:
        return "Nothing has been measured yet.\n"
    asked = sum(kept[each.key].asked for each in every if each.key in kept)
    few = min(good, default=0)
    return (
        f"{len(counts)} of {len(every)} scenarios, {sum(counts)} fleets, {min(counts)} to "
        f"{max(counts)} of each. In the first tables none of {few} taken back means below "
        f"{300 / max(1, few):.1f} % (95 %). In {asked} of them the evidence rested on one node, "
        "and a person would have been asked.\n"
    )


def _pictures(kept: Mapping[str, Outcome]) -> dict[str, str]:
    every = all_scenarios()
    made: dict[str, str] = {}
    good = [each for each in every if each.table in {"good", "robust"} and each.key in kept]
    if good:
        names = [f"{each.title} ({each.fleet.nodes})" for each in good]
        values = {
            judge: [_percent(kept[each.key].alarms[judge]) for each in good] for judge in JUDGES
        }
        title = "Good models taken back, % (nodes); the dashed line is the promise"
        made["false-rollback.svg"] = pictures.dots(title, names, values, limit=1.0)
    if "bad-40-1to2" in kept:
        made["time-to-detect.svg"] = pictures.curves(
            "Bad models found: 1 to 2 % on 4 of 40 nodes that differ (rho .02)",
            kept["bad-40-1to2"].alarms,
            minutes=120,
        )
    bad = [each for each in every if each.table == "rollout" and not each.good]
    bad = [each for each in bad if each.key in kept]
    if bad:
        made["nodes-exposed.svg"] = pictures.bars(
            "Nodes that had a bad model before it was taken back, mean % of 40",
            [each.title for each in bad],
            {judge: [_exposure(kept[each.key].alarms[judge]) for each in bad] for judge in JUDGES},
        )
    return made
