"""The words that the read path keeps for itself are those of the contract."""

import linnet_cli.contract as words
from linnet_api import names
from linnet_api.reasons import DeploymentReason, NodeState, RolloutPhase, Verdict, WaitReason
from linnet_cli import explaining, tree


def test_group_and_namespace_are_those_of_the_contract():
    assert names.GROUP == words.GROUP
    assert f"/apis/{names.API_VERSION}" == words.API_ROOT
    assert names.AGENTS_NAMESPACE == words.AGENTS_NAMESPACE
    assert names.CLI_FIELD_MANAGER == words.FIELD_MANAGER


def test_the_ends_of_a_rollout_are_those_of_the_contract():
    assert {str(phase) for phase in RolloutPhase if phase.ended} == words.ENDED_PHASES
    assert {str(phase) for phase in RolloutPhase if phase.ended} == set(explaining.ENDS)


def test_every_reason_to_wait_is_explained():
    assert {str(reason) for reason in WaitReason} == set(explaining.WAITS)
    assert all(meaning.text for meaning in explaining.WAITS.values())


def test_every_reason_of_a_deployment_is_explained():
    assert {str(reason) for reason in DeploymentReason} == set(explaining.STALLS)


def test_every_state_of_a_node_is_known():
    known = words.MOVING_STATES | words.TROUBLED_STATES | set(tree._STATES)

    assert known == {str(state) for state in NodeState}


def test_words_with_marks_of_their_own_exist():
    assert set(tree._PHASES) <= {str(phase) for phase in RolloutPhase}
    assert set(tree._VERDICTS) - {""} <= {str(verdict) for verdict in Verdict}
    assert {str(reason) for reason in WaitReason} >= words.WAITS_FOR_PERSON
