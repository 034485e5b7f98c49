"""The raw past of a deployment: counters at the edges of windows, and finer ones of late.

Rules:
- All times hang on one: the newest that every node was scraped for.
- What cannot be read is a sentence, for the first comparison that cannot.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import Judge
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
