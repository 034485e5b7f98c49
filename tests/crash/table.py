"""The kill table: ``make crash``. Stories of a node, each cut short in every way that we know.

Rows are the agent's named steps, and the stories; columns are faults, cells are tries and
violations. What happens between two named steps stands in the row of the second.

- kill at step: the agent ends without a word when it has done a step; another agent goes on.
- kill at call: SIGKILL before a system call that changes a file; another agent goes on.
- power cut: what is not synced is lost, torn or kept; then again in the run that goes on from it.
- ENOSPC, EIO, EROFS, EMFILE: a system call of the agent fails.

It ends with 1 where a rule was broken, where fewer states were tried than were asked for, or where
a column is empty.
"""

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

from crashlab import record
from crashlab.check import Boot
from crashlab.node import Publisher
from crashlab.points import AT_REST, ERRORS, KILL, STEP, can_meet, steps_of
from crashlab.power import Cuts, cut, dice, go_on
from crashlab.scenarios import SCENARIOS, Lab, find_more_points, record_notes, record_scenario
from crashlab.sweep import disturb

from linnet_testbed import TestbedUnavailableError
from linnet_testbed.registry import running_registry

POWER = "power cut"
COLUMNS = (STEP, KILL, POWER, *ERRORS)
_SHOWN = 20
_SAY_S = 10.0
_STUCK = "the agent does not go on"


class Table:
    """What was tried, and what came of it."""

    def __init__(self):
        self.tried = Counter()
        """By story, step and fault."""
        self.wrong = Counter()
        self.sentences = Counter()
        self.states = set()
        self.recovered = 0
        self._steps = []

    def learn_order(self, steps):
        """Take the order of the rows from a story: a new step comes after all that came before."""
        last = -1
        for step in steps:
            if step not in self._steps:
                self._steps.insert(last + 1, step)
            last = max(last, self._steps.index(step))

    def add(self, story, step, fault, *, tried, sentences=()):
        self.tried[story, step, fault] += tried
        self.wrong[story, step, fault] += len(sentences)
        self.sentences.update(f"{story}: {step}: {fault}: {sentence}" for sentence in sentences)

    def print(self):
        stories = list(dict.fromkeys(story for story, _, _ in self.tried))
        self._print("step", self._steps, lambda key: key[1])
        self._print("story", stories, lambda key: key[0])

    def _print(self, title, rows, row_of):
        width = max(map(len, rows))
        print(f"\n{title:{width}}", *(f"{column:>13}" for column in COLUMNS))
        for row in (*rows, "all"):
            cells = (
                _cell(
                    sum(n for key, n in counted.items() if row in (row_of(key), "all"))
                    for counted in (self._of(self.tried, c), self._of(self.wrong, c))
                )
                for c in COLUMNS
            )
            print(f"{row:{width}}", *(f"{cell:>13}" for cell in cells))

    def _of(self, counts, fault):
        return {key: n for key, n in counts.items() if key[2] == fault}

    def empty_columns(self):
        """Return the faults of which none was tried."""
        return [c for c in COLUMNS if not sum(self._of(self.tried, c).values())]


def _cell(counts):
    tried, wrong = counts
    return f"{tried}/{wrong}" if tried or wrong else "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1, help="draws what is tried")
    parser.add_argument("--states", type=int, default=10_000, help="crash states, at least")
    parser.add_argument("--per-point", type=int, default=400, help="crash states after one step")
    parser.add_argument("--deeper", type=int, default=16, help="second power cuts, a story")
    parser.add_argument(
        "--kill-seconds", type=float, default=60, help="bound on the kills; 0: all of them"
    )
    parser.add_argument(
        "--error-seconds", type=float, default=60, help="bound on the errors; 0: all of them"
    )
    parser.add_argument("--only", default="", help="stories whose name has this in it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    logging.disable()  # what the agent says while it starts in this process
    if (reason := record.missing()) is not None:
        sys.exit(f"make crash: {reason}")
    home = Path(tempfile.mkdtemp(prefix="linnet-crash-", dir=_fast()))
    try:
        with running_registry(home) as url:
            return _run(options, home, url)
    except TestbedUnavailableError as error:
        sys.exit(f"make crash: {error}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(options, home, registry_url):
    began, table = time.monotonic(), Table()
    with contextlib.closing(Lab(home, Publisher(home / "models", registry_url))) as lab:
        recordings, points = {}, {}
        for name, scenario in SCENARIOS.items():
            if options.only in name:
                recordings[name] = record_scenario(lab, scenario)
                points[name] = (*recordings[name].points, *find_more_points(lab, scenario))
                table.learn_order([*steps_of(recordings[name].log), AT_REST])
                _say(f"recorded: {name}: {len(points[name])} points", done=True)
        notes = record_notes(lab)
        table.learn_order(steps_of(notes.log))
        _cut_power(options, lab, {**recordings, notes.scenario.name: notes}, table)
        for faults, seconds in (
            ((STEP, KILL), options.kill_seconds),
            (ERRORS, options.error_seconds),
        ):
            _sweep(lab, recordings, points, faults, table, seed=options.seed, seconds=seconds)
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
    enough, empty = len(table.states) >= options.states, table.empty_columns()
    if not enough:
        print(f"fewer than the {options.states} states that were asked for")
    if empty:
        print(f"never tried: {', '.join(empty)}")
    return 0 if enough and not empty and not violations else 1


# --- power cuts -----------------------------------------------------------------------------------

_shared = {}
"""What the processes that cut the power find when they are forked: nothing of it can be sent."""


def _cut_power(options, lab, recordings, table):
    _shared.update(options=options, lab=lab, recordings=recordings)
    fork = multiprocessing.get_context("fork")
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        found = _note(pool, [(_cut_once, name) for name in recordings], table, "power cuts")
    again = [
        (_cut_again, name, number, tree)
        for name, cuts in found
        if name in SCENARIOS
        for number, tree in enumerate(_draw_early(cuts.held, options))
    ]
    _shared["seen"] = set(table.states)
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        second = _note(pool, again, table, "second power cuts")
    table.recovered = sum(_STUCK not in str(cuts.wrong) for _, cuts in second)


def _draw_early(trees, options):
    """Draw trees, rather early ones: more is still to come from them."""
    rng = dice(options.seed)
    return [trees[int(len(trees) * rng.random() ** 2)] for _ in range(options.deeper)]


def _note(pool, jobs, table, what):
    found, futures = [], [pool.submit(*job) for job in jobs]
    for number, future in enumerate(as_completed(futures), start=1):
        name, cuts = future.result()
        for step, count in Counter(
            step for key, step in cuts.states.items() if key not in table.states
        ).items():
            table.add(name, step, POWER, tried=count)
        for (step, sentence), count in cuts.wrong.items():
            table.add(name, step, POWER, tried=0, sentences=[sentence] * count)
        table.states |= cuts.states.keys()
        found.append((name, cuts))
        _say(f"{what}: {number} of {len(jobs)}, {len(table.states)} states")
    _say(f"{what}: {len(jobs)} runs, {len(table.states)} states", done=True)
    return found


def _cut_once(name):
    options = _shared["options"]
    return name, _cut(_shared["recordings"][name], options, options.seed)


def _cut_again(name, number, tree):
    options, recording = _shared["options"], _shared["recordings"][name]
    try:
        again = go_on(_shared["lab"], recording, tree)
    except AssertionError as error:
        return name, Cuts(wrong=Counter({(AT_REST, f"{_STUCK}: {error}"): 1}))
    cuts = _cut(again, options, options.seed + number)
    cuts.held.clear()  # nobody goes on from these, and they are large
    _shared["seen"] |= cuts.states.keys()
    return name, cuts


def _cut(recording, options, seed):
    boot = Boot(Path(tempfile.mkdtemp(prefix="boot-", dir=_shared["lab"].home)))
    seen, per_point = _shared.get("seen", frozenset()), options.per_point
    return cut(recording, boot=boot, rng=dice(seed), per_point=per_point, seen=seen)


# --- kills and errors -----------------------------------------------------------------------------


def _sweep(lab, recordings, points, faults, table, *, seed, seconds):
    """Disturb at one point after the other, each story and fault in turn, while there is time."""
    title = "errors" if set(faults) <= set(ERRORS) else "kills"
    cells = [
        [(name, point, fault) for point in points[name] if can_meet(point, fault)]
        for name in recordings
        for fault in faults
    ]
    for cell in cells:
        dice(seed).shuffle(cell)
    jobs = [job for turn in itertools.zip_longest(*cells) for job in turn if job is not None]
    deadline = time.monotonic() + seconds if seconds else float("inf")
    missed = left = 0

    def work(job):
        name, point, fault = job
        late = time.monotonic() > deadline
        return job, None if late else disturb(lab, recordings[name], point, fault)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for number, (job, outcome) in enumerate(pool.map(work, jobs), start=1):
            name, point, fault = job
            if outcome is None:
                left += 1
                continue
            missed += not outcome.hit
            wrong = [f"{point}: {sentence}" for sentence in outcome.wrong]
            table.add(name, point.step, fault, tried=outcome.hit, sentences=wrong)
            _say(f"{title}: {number} of {len(jobs)}")
    notes = [f"{len(jobs) - left - missed} of {len(jobs)} points"]
    if left:
        notes.append(f"{left} not tried for lack of time (--{title[:-1]}-seconds 0 tries all)")
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
