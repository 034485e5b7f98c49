"""The kill table: ``make crash``. Stories of a node, each cut short in every way that we know.

Rows are stories, columns are faults, cells are tries and violations:

- kill: SIGKILL before each system call that changes a file; another agent goes on.
- power cut: what is not synced is lost, torn or kept; then again in the run that goes on from it.
- ENOSPC, EIO, EROFS, EMFILE: a system call on the node's directory fails.

It ends with 1 where a rule was broken, or where fewer states were tried than were asked for.
"""

import argparse
import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

from crashlab import record
from crashlab.check import Boot
from crashlab.node import Publisher, start_registry, stop
from crashlab.power import cut, dice, go_on
from crashlab.scenarios import SCENARIOS, Lab, record_notes, record_scenario
from crashlab.sweep import ERRORS, KILL, can_fail, disturb, points

from linnet_testbed import TestbedUnavailableError

POWER = "power cut"
COLUMNS = (KILL, POWER, *ERRORS)
_SHOWN = 20
_SAY_S = 10.0


class Table:
    """What was tried, and what came of it."""

    def __init__(self):
        self.tried = defaultdict(Counter)
        self.wrong = defaultdict(Counter)
        self.sentences = Counter()
        self.states = set()
        self.recovered = 0

    def add(self, row, column, tried, sentences):
        self.tried[row][column] += tried
        self.wrong[row][column] += sum(sentences.values())
        for sentence, count in sentences.items():
            self.sentences[f"{row}: {column}: {sentence}"] += count

    def print(self):
        rows = [*self.tried, "all"]
        width = max(map(len, rows))
        print(f"\n{'tried/violations':{width}}", *(f"{column:>13}" for column in COLUMNS))
        for row in rows:
            of = [row] if row != "all" else list(self.tried)
            cells = (
                f"{sum(self.tried[r][c] for r in of)}/{sum(self.wrong[r][c] for r in of)}"
                for c in COLUMNS
            )
            print(f"{row:{width}}", *(f"{cell:>13}" for cell in cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1, help="draws what is tried")
    parser.add_argument("--states", type=int, default=10_000, help="crash states, at least")
    parser.add_argument("--per-point", type=int, default=400, help="crash states after one step")
    parser.add_argument("--deeper", type=int, default=16, help="second power cuts, a story")
    parser.add_argument(
        "--kill-seconds", type=float, default=180, help="bound on the kills; 0: all of them"
    )
    parser.add_argument(
        "--fault-seconds", type=float, default=180, help="bound on the errors; 0: all of them"
    )
    parser.add_argument("--only", default="", help="stories whose name has this in it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    logging.disable()  # what the agent says while it starts in this process
    if (reason := record.missing()) is not None:
        sys.exit(f"make crash: {reason}")
    home = Path(tempfile.mkdtemp(prefix="linnet-crash-", dir=_fast()))
    try:
        return _run(options, home)
    except TestbedUnavailableError as error:
        sys.exit(f"make crash: {error}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(options, home):
    began, table = time.monotonic(), Table()
    (home / "registry").mkdir()
    registry, url = start_registry(home / "registry")
    lab = None
    try:
        lab = Lab(home, Publisher(home / "models", url))
        recordings = {}
        for name, scenario in SCENARIOS.items():
            if options.only in name:
                recordings[name] = record_scenario(lab, scenario)
                _say(f"recorded: {name}: {len(recordings[name].log.steps)} steps", done=True)
        notes = record_notes(lab)
        _cut_power(options, lab, {**recordings, notes.scenario.name: notes}, table)
        for faults, seconds in (((KILL,), options.kill_seconds), (ERRORS, options.fault_seconds)):
            _sweep(lab, recordings, faults, table, seed=options.seed, seconds=seconds)
    finally:
        if lab is not None:
            lab.close()
        stop(registry)
    table.print()
    return _verdict(options, table, time.monotonic() - began)


def _verdict(options, table, took_s):
    violations = sum(table.sentences.values())
    for sentence, count in table.sentences.most_common(_SHOWN):
        print(f"VIOLATION, {count} times: {sentence[:2000]}")
    print(
        f"\n{len(table.states)} crash states, each of them another one; from {table.recovered} the "
        f"whole agent went on; violations: {violations}; seed {options.seed}; {took_s:.0f} s"
    )
    enough = len(table.states) >= options.states
    if not enough:
        print(f"fewer than the {options.states} states that were asked for")
    return 0 if enough and not violations else 1


# --- power cuts -----------------------------------------------------------------------------------

_shared = {}
"""What the processes that cut the power find when they are forked: nothing of it can be sent."""


def _cut_power(options, lab, recordings, table):
    _shared.update(options=options, lab=lab, recordings=recordings, held={})
    fork = multiprocessing.get_context("fork")
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        found = _note(pool, [(_cut_once, name) for name in recordings], table, "power cuts")
    again = [
        (_cut_again, name, number, tree)
        for name, trees in found
        if recordings[name].scenario.name in SCENARIOS
        for number, tree in enumerate(_draw_early(trees, options))
    ]
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        _note(pool, again, table, "second power cuts")


def _draw_early(trees, options):
    """Draw trees, rather early ones: more is still to come from them."""
    rng = dice(options.seed)
    return [trees[int(len(trees) * rng.random() ** 2)] for _ in range(options.deeper)]


def _note(pool, jobs, table, what):
    found, futures = [], [pool.submit(*job) for job in jobs]
    for number, future in enumerate(as_completed(futures), start=1):
        name, states, tried, wrong, trees = future.result()
        fresh = states - table.states
        table.states |= states
        table.recovered += "second" in what
        table.add(name, POWER, len(fresh) if tried else 0, wrong)
        found.append((name, trees))
        _say(f"{what}: {number} of {len(jobs)}, {len(table.states)} states")
    _say(f"{what}: {len(jobs)} runs, {len(table.states)} states", done=True)
    return found


def _cut_once(name):
    options, recording = _shared["options"], _shared["recordings"][name]
    return _cut(recording, options, options.seed)


def _cut_again(name, number, tree):
    options, recording = _shared["options"], _shared["recordings"][name]
    try:
        again = go_on(_shared["lab"], recording, tree)
    except AssertionError as error:
        return name, set(), 0, Counter({f"the agent does not go on: {error}": 1}), []
    return _cut(again, options, options.seed + number)


def _cut(recording, options, seed):
    home = Path(tempfile.mkdtemp(prefix="boot-", dir=_shared["lab"].home))
    boot, rng = Boot(home), dice(seed)
    cuts, held = cut(recording, boot=boot, rng=rng, per_point=options.per_point)
    wrong = Counter({f"{said} [{cuts.first[said]}]": n for said, n in cuts.wrong.items()})
    return recording.scenario.name, cuts.states, len(cuts.states), wrong, held


# --- kills and errors -----------------------------------------------------------------------------


def _sweep(lab, recordings, faults, table, *, seed, seconds):
    """Disturb one call after the other, each cell of the table in turn, while there is time."""
    title, flag = ("kills", "--kill-seconds") if KILL in faults else ("errors", "--fault-seconds")
    cells = [
        [
            (recording, point, fault)
            for point in points(recording)
            if (point.changes if fault == KILL else can_fail(point, fault))
        ]
        for recording in recordings.values()
        for fault in faults
    ]
    for cell in cells:
        dice(seed).shuffle(cell)
    jobs = [job for turn in itertools.zip_longest(*cells) for job in turn if job is not None]
    deadline = time.monotonic() + seconds if seconds else float("inf")
    missed = left = 0

    def work(job):
        return job, None if time.monotonic() > deadline else disturb(lab, *job)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for number, (job, outcome) in enumerate(pool.map(work, jobs), start=1):
            recording, point, fault = job
            if outcome is None:
                left += 1
                continue
            missed += not outcome.hit
            _say(f"{title}: {number} of {len(jobs)}")
            wrong = Counter(f"{point}: {sentence}" for sentence in outcome.wrong)
            table.add(recording.scenario.name, fault, outcome.hit, wrong)
    notes = [f"{len(jobs) - left - missed} of {len(jobs)} calls"]
    if left:
        notes.append(f"{left} not tried for lack of time ({flag} 0 tries all)")
    if missed:
        notes.append(f"{missed} did not come again")
    _say(f"{title}: {', '.join(notes)}", done=True)


def _fast():
    """Return a directory in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - in memory


class _Said:
    at = 0.0


def _say(text, *, done=False):
    """Print how far it is: over the same line on a terminal, else at intervals."""
    now = time.monotonic()
    terminal = sys.stdout.isatty()
    if done or terminal or now - _Said.at > _SAY_S:
        _Said.at = now
        print(f"{text:90}" if terminal else text, end="\r" if terminal and not done else "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
