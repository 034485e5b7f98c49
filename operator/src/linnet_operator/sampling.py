"""The samples of a step's thresholds: at fixed times, so that anyone gets the same ones again.

Rules:
- The times are the step's begin, plus ``initialDelay``, plus whole intervals: they depend neither
  on when it is looked at, nor on a restart, after which the whole row is asked for again.
- The words of a query are those of the sample's own time: its nodes are those that served then.
- Times that share a query are one question; what is known is not asked again.
- What could not be had is asked again for five minutes: nothing is made of a fault of the moment.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import Threshold
from linnet_operator.judge.assess import ThresholdInputs
from linnet_operator.judge.thresholds import ThresholdSample
from linnet_operator.prometheus import MetricsSource
from linnet_operator.templates import fill_in, unaskable
from linnet_operator.terms import threshold_spec

MOST_SAMPLES: Final = 1000
# As long as Prometheus looks back for a sample; what has none by then gets none.
_FINAL_AFTER: Final = timedelta(minutes=5)

# What the words of a query stand for at a time; None while no node serves the candidate.
WordsAt = Callable[[datetime], Mapping[str, str] | None]


def sample_times(*, begin: datetime, until: datetime, interval: timedelta) -> tuple[datetime, ...]:
    """Return ``begin`` and the times after it at ``interval``, to ``until``; the newest 1000."""
    assert interval > timedelta(0), interval
    if until < begin:
        return ()
    newest = int((until - begin) / interval)
    return tuple(
        begin + index * interval for index in range(max(0, newest - MOST_SAMPLES + 1), newest + 1)
    )


class Sampler:
    """The samples of one step; what it remembers only saves questions."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, datetime], ThresholdSample]] = {}

    async def sample(
        self,
        threshold: Threshold,
        source: MetricsSource,
        *,
        begin: datetime,
        until: datetime,
        interval: timedelta,
        words_at: WordsAt,
    ) -> ThresholdInputs:
        """Return all samples of a threshold.

        Args:
            threshold: As the policy has it.
            source: Where to ask.
            begin: When the step began.
            until: The newest time that every node was scraped for.
            interval: The policy's, for a threshold without one of its own.
            words_at: What the query's words stand for.
        """
        times = sample_times(
            begin=begin + parse_duration(threshold.initial_delay),
            until=until,
            interval=parse_duration(threshold.interval) if threshold.interval else interval,
        )
        asked: dict[str, list[datetime]] = {}
        samples: list[ThresholdSample] = []
        for at in times:
            words = words_at(at)
            if words is None:
                continue
            problem = unaskable(threshold.query, words)
            if problem:
                samples.append(_missing(at, problem))
                continue
            asked.setdefault(fill_in(threshold.query, words), []).append(at)
        known = self._known.get(threshold.name, {})
        found: dict[tuple[str, datetime], ThresholdSample] = {}
        failure = ""
        for query, same in asked.items():
            unknown = next((n for n, at in enumerate(same) if (query, at) not in known), len(same))
            found |= {(query, at): known[query, at] for at in same[:unknown]}
            if failure or unknown == len(same):
                continue
            answer = await source.samples(query, same[unknown:])
            if answer.no_data:
                failure = answer.no_data
                continue
            found |= {
                (query, at): sample
                for at, sample in zip(same[unknown:], answer.samples, strict=True)
            }
        self._known[threshold.name] = {
            key: sample
            for key, sample in found.items()
            if (sample.value is not None and not sample.problem) or until - key[1] > _FINAL_AFTER
        }
        samples += found.values()
        if failure:
            samples.append(_missing(until, failure))
        return ThresholdInputs(spec=threshold_spec(threshold), samples=tuple(samples))


def _missing(at: datetime, problem: str) -> ThresholdSample:
    return ThresholdSample(at_s=at.timestamp(), value=None, series=0, problem=problem)
