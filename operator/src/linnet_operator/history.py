"""The raw past of a deployment: counters at the edges of windows, and finer ones of late.

Rules:
- All times hang on one: the newest that every node was scraped for.
- What cannot be read is a sentence, for the first comparison that cannot.
- A past that the source itself calls partial is not learned from.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import Judge
from linnet_operator.judge.learned import Readiness
from linnet_operator.learning import History
from linnet_operator.presets import Subject
from linnet_operator.prometheus import MetricsSource, fixed_times
from linnet_operator.terms import signal_of

_RECENT_INTERVALS: Final = 30


async def read_histories(
    source: MetricsSource, subject: Subject, judge: Judge, *, end: datetime
) -> list[History]:
    """Return the past of every comparison of a policy, up to ``end``."""
    window, interval = parse_duration(judge.history.window), parse_duration(judge.interval)
    windows = fixed_times(start=end - judge.history.windows * window, end=end, step=window)
    recent = fixed_times(start=end - _RECENT_INTERVALS * interval, end=end, step=interval)
    histories = []
    for compare in judge.compare:
        signal = signal_of(compare)
        histories.append(
            History(
                name=compare.name,
                signal=compare.signal,
                windows=await source.counts(signal, subject, times=windows),
                recent=await source.counts(signal, subject, times=recent),
            )
        )
        if unreadable(histories):
            break
    return histories


def unreadable(histories: Sequence[History]) -> str:
    """Return why the past cannot be read; empty where it can."""
    for history in histories:
        problem = history.windows.no_data or history.recent.no_data
        if problem:
            return f"{history.name}: {problem}"
    return ""


def incomplete(histories: Sequence[History]) -> str:
    """Return what the source warns of; empty where the past is whole."""
    warnings = {
        text
        for history in histories
        for counts in (history.windows, history.recent)
        for text in counts.warnings
    }
    return f"the past is not whole: {'; '.join(sorted(warnings))}" if warnings else ""


def say_readiness(ready: Mapping[str, Readiness], *, nodes: int) -> tuple[str, str]:
    """Return how much past there is: a sentence, and a few words."""
    lacking = {name: each for name, each in ready.items() if each.lacking}
    shown = lacking or ready
    message = "; ".join(f"{name}: {each.sentence}" for name, each in shown.items())
    if not nodes:
        message = "no node serves the stable revision yet, so there is no history to learn from"
    if not lacking:
        return message, "history is there"
    least = min(lacking.values(), key=lambda each: each.fewest)
    return message, f"{least.fewest} of {least.required} windows"
