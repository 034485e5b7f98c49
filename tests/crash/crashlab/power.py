"""Power cuts, in memory: what may be left of a recording, checked, and gone on from.

- Every state is checked twice: as it lies there, and by the agent's own start on it.
- From some of them the whole agent goes on; it must end where its order wants it. That run is a
  recording again, and the power may be cut in it again.
"""

import functools
import random  # noqa: TID251 - only ever with a seed
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crashlab.check import Expected, materialise, violations
from crashlab.disk import crash_states
from crashlab.scenarios import record_scenario


def dice(seed):
    """Return what draws; the same seed, the same states."""
    return random.Random(seed)  # noqa: S311 - no secret


@dataclass
class Cuts:
    """What came of the power cuts in one scenario."""

    states: set[int] = field(default_factory=set)
    """Of each tree that was tried: a number that stands for it."""
    recovered: int = 0
    """From so many of them the whole agent went on, to the end."""
    wrong: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where each sentence in ``wrong`` was true first."""


def cut(recording, *, boot, rng, per_point, cuts=None, choose=None):
    """Try what a power cut may leave of a recording; return the ``Cuts``, and the trees that held.

    Args:
        recording: What an agent did.
        boot: Starts the agent on a tree.
        rng: Draws where there is more than can be tried.
        per_point: So many states after one step at most.
        cuts: Where to go on counting.
        choose: Tells by its number whether to cut after a step; None: after all.
    """
    cuts = Cuts() if cuts is None else cuts
    expected, held = Expected(recording.log), []
    states = crash_states(recording.log, rng=rng, per_point=per_point, choose=choose)
    for state in states:
        wrong = violations(state.tree, expected.seen[state.after], recording)
        key = hash(frozenset(state.tree.items()))
        if key not in cuts.states:
            cuts.states.add(key)
            wrong += boot.check(state.tree)
            held.append(state.tree)
        for sentence in wrong:
            cuts.wrong[sentence] += 1
            call = recording.log.calls[state.after - 1].name
            cuts.first.setdefault(sentence, f"after step {state.after} ({call}), {state.model}")
    return cuts, held


def go_on(lab, recording, tree):
    """Let the whole agent go on from ``tree``; return the recording of that."""
    begin = functools.partial(materialise, tree)
    again = record_scenario(lab, recording.scenario, begin=begin)
    shutil.rmtree(Path(again.root).parent)
    return again
