"""Events: one for each decision, under a name that the decision determines."""

from datetime import UTC, datetime

from linnet_api.conditions import settled, stalled
from linnet_api.model_deployment import ModelDeploymentStatus
from linnet_api.model_rollout import Decision, ModelRolloutStatus
from linnet_api.reasons import RolloutPhase, Verdict
from linnet_operator.events import (
    about_deployment,
    about_rollout,
    deployment_decisions,
    event_body,
    rollout_decisions,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROLLOUT = about_rollout(namespace="factory", name="digits-1", uid="u")
DEPLOYMENT = about_deployment(namespace="factory", name="digits", uid="u")


def decision(n, action="Advance"):
    return Decision(n=n, at=NOON, step=1, verdict=Verdict.PASS, action=action, message="so it is")


def status(*decisions, phase=RolloutPhase.BAKING):
    return ModelRolloutStatus(decisions=decisions, phase=phase)


def test_only_new_decisions_are_told():
    told = rollout_decisions(ROLLOUT, status(decision(1)), status(decision(1), decision(2)))

    assert [each.key for each in told] == ["decision-2"]


def test_a_rollback_is_a_warning_and_its_end_is_told_once():
    before = status()
    after = status(decision(1, "Rollback"), phase=RolloutPhase.ROLLED_BACK)

    told = rollout_decisions(ROLLOUT, before, after)

    assert [(each.reason, each.kind) for each in told] == [
        ("Rollback", "Warning"),
        ("RolledBack", "Warning"),
    ]
    assert rollout_decisions(ROLLOUT, after, after) == []


def test_a_deployment_tells_when_it_comes_to_a_stop_and_not_while_it_stands():
    fine = ModelDeploymentStatus(conditions=settled(reason="Serving", message="", generation=1))
    stuck = ModelDeploymentStatus(
        conditions=stalled(reason="PolicyNotFound", message="no policy", generation=1)
    )

    assert [each.reason for each in deployment_decisions(DEPLOYMENT, fine, stuck)] == [
        "PolicyNotFound"
    ]
    assert deployment_decisions(DEPLOYMENT, stuck, stuck) == []
    assert deployment_decisions(DEPLOYMENT, stuck, fine) == []


def test_the_same_decision_has_the_same_name_in_every_process():
    told = rollout_decisions(ROLLOUT, status(), status(decision(1)))

    first = event_body(told[0], now=NOON, reporter="a")
    second = event_body(told[0], now=NOON.replace(hour=13), reporter="b")

    assert first["metadata"] == second["metadata"]
    assert first["regarding"]["kind"] == "ModelRollout"
