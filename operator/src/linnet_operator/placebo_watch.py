"""The placebo beside the looks of a deployment: it counts, and tells when the judge goes wrong."""

import logging
from collections.abc import Sequence
from datetime import datetime

from linnet_operator.judge.assess import StepInputs
from linnet_operator.learning import Workers
from linnet_operator.metrics import PLACEBO, PLACEBO_ALARM, PLACEBO_ALLOWED
from linnet_operator.placebo import PlaceboTally, groups_by_lot, judge_placebo

log = logging.getLogger(__name__)


class PlaceboWatch:
    """What the placebo groups of one deployment did since ``since``."""

    def __init__(self, workers: Workers, *, since: datetime) -> None:
        self._workers = workers
        self._since = since
        self._tally = PlaceboTally(alpha=0.01)

    async def look(
        self,
        inputs: StepInputs,
        *,
        of: tuple[str, str],
        rollout_uid: str,
        step: int,
        step_began: datetime,
        stable: Sequence[str],
        size: int,
    ) -> None:
        """Judge stable nodes as if they had changed, and tell when that goes wrong too often.

        Not in a step that began before this process did: its groups have been counted, and what
        counts twice after each restart is no rate.

        Args:
            inputs: What the real look was given.
            of: Namespace and name of the deployment.
            rollout_uid: The rollout.
            step: Its step.
            step_began: When that began.
            stable: The nodes that have not changed.
            size: How many nodes have the candidate.
        """
        if step_began < self._since:
            return
        groups = groups_by_lot(stable, size=size, lot=f"{rollout_uid}/{step}")
        if not groups or not any(metric.learned for metric in inputs.metrics):
            return
        verdicts = await self._workers.run(judge_placebo, inputs, groups)
        tally = self._tally
        tally.alpha = inputs.alpha
        was_ringing = tally.alarm
        judged, taken_back = tally.count(rollout_uid, step, verdicts)
        PLACEBO.labels(*of, "Judged").inc(judged)
        PLACEBO.labels(*of, "TakenBack").inc(taken_back)
        PLACEBO_ALLOWED.labels(*of).inc(judged * inputs.alpha)
        PLACEBO_ALARM.labels(*of).set(tally.alarm)
        if tally.alarm and not was_ringing:
            log.warning(
                "judge.placebo.alarm",
                extra={
                    "namespace": of[0],
                    "deployment": of[1],
                    "reason": f"{tally.taken_back} of {tally.judged} groups of stable "
                    "nodes would have been taken back although nothing changed",
                },
            )
