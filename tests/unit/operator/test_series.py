"""The operator's own metrics of a deployment: at zero from the start, and gone with it."""

import pytest

from linnet_api.model_deployment import ModelDeploymentStatus, NodeCounts
from linnet_api.model_rollout import ModelRolloutStatus
from linnet_api.reasons import RolloutPhase, WaitReason
from linnet_operator import metrics
from linnet_operator.planner.model import Look, Plan
from linnet_operator.planner.status import wait
from linnet_operator.series import DeploymentSeries


def shown(deployment):
    """Return all samples of a deployment in our metrics: (name, other labels) -> value."""
    return {
        (
            sample.name.removeprefix("linnet_"),
            *(sample.labels.get(name) for name in ("outcome", "phase", "where", "reason")),
        ): sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("deployment") == deployment and not sample.name.endswith("_created")
    }


def plan(phase, *, step=0, reason=None):
    waiting = wait(reason, "x", "y") if reason else None
    return Plan(
        writes=(),
        deployment_status=ModelDeploymentStatus(nodes=NodeCounts(eligible=4), waiting_for=waiting),
        rollout_status=ModelRolloutStatus(phase=phase, step=step) if phase else None,
        recheck_after=None,
        waiting_for=waiting,
        look=Look(),
    )


@pytest.fixture
def series():
    made = DeploymentSeries("factory", "series")
    yield made
    made.forget()


@pytest.mark.usefixtures("series")
def test_what_will_be_counted_is_there_at_zero():
    """What a counter begins with is lost to increase(): the first rollback would be."""
    found = shown("series")

    assert found["judge_placebo_total", "TakenBack", None, None, None] == 0
    assert found["judge_placebo_total", "Judged", None, None, None] == 0
    assert found["judge_placebo_allowed_total", None, None, None, None] == 0
    assert found["rollout_ended_total", None, "RolledBack", None, None] == 0
    assert len(found) == 3 + 6


def test_a_step_is_shown_while_a_rollout_runs(series):
    key = ("rollout_step", None, None, None, None)

    series.show(plan(None))
    assert key not in shown("series")
    series.show(plan(RolloutPhase.BAKING, step=2))
    assert shown("series")[key] == 2
    series.show(plan(RolloutPhase.COMPLETED, step=3))
    assert key not in shown("series")
    series.show(plan(RolloutPhase.COMPLETED, step=3))


def test_a_deployment_that_is_gone_leaves_no_series_and_no_alarm_behind(series):
    other = DeploymentSeries("factory", "series-2")
    for each in (series, other):
        each.show(plan(RolloutPhase.BAKING, step=2, reason=WaitReason.NO_DATA))
    metrics.PLACEBO_ALARM.labels("factory", "series").set(1)
    metrics.ROLLOUTS_ENDED.labels("factory", "series", "RolledBack").inc()
    kept = shown("series-2")

    series.forget()

    assert shown("series") == {}
    assert shown("series-2") == kept
    other.forget()
