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
from crashlab.points import steps_of
from crashlab.scenarios import record_scenario


def dice(seed):
    """Return what draws; the same seed, the same states."""
    return random.Random(seed)  # noqa: S311 - no secret


@dataclass
class Cuts:
    """What came of the power cuts in one scenario."""

    states: dict[int, str] = field(default_factory=dict)
    """Of each tree that was tried: a number that stands for it, and the step it was found in."""
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Step and sentence; how often."""
    held: list[dict[str, str | bytes]] = field(default_factory=list)
    """The trees that were tried."""


def cut(recording, *, boot, rng, per_point, seen=frozenset()):
    """Try what a power cut may leave of a recording.

    Args:
        recording: What an agent did.
        boot: Starts the agent on a tree.
        rng: Draws where there is more than can be tried.
        per_point: So many states after one step at most.
        seen: States that the agent was started on before; it is not again.
    """
    cuts, expected = Cuts(), Expected(recording.log)
    steps, calls = steps_of(recording.log), recording.log.calls
    for state in crash_states(recording.log, rng=rng, per_point=per_point):
        wrong = violations(state.tree, expected.seen[state.after], recording)
        key, step = hash(frozenset(state.tree.items())), steps[state.after - 1]
        if key not in cuts.states and key not in seen:
            cuts.states[key] = step
            cuts.held.append(state.tree)
            wrong += boot.check(state.tree, leaves=recording.leaves)
        call = calls[state.after - 1].name
        cuts.wrong.update((step, f"{said} [after a {call}, {state.model}]") for said in wrong)
    return cuts


def go_on(lab, recording, tree):
    """Let the whole agent go on from ``tree``; return the recording of that."""
    begin = functools.partial(materialise, tree)
    again = record_scenario(lab, recording.scenario, begin=begin)
    shutil.rmtree(Path(again.root).parent)
    return again
