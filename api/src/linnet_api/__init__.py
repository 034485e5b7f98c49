"""The contract: the six kinds of Linnet, their conditions, reasons and names.

- This package knows no other of ours; everything else knows it.
- What stands in ``__all__`` is a promise; the rest may move.
"""

from linnet_api.conditions import Condition
from linnet_api.model_deployment import ModelDeploymentSpec, ModelDeploymentStatus
from linnet_api.model_host import ModelHostStatus
from linnet_api.model_rollout import ModelRolloutSpec, ModelRolloutStatus
from linnet_api.names import API_VERSION, GROUP, VERSION
from linnet_api.node_model import NodeModelSpec, NodeModelStatus
from linnet_api.reasons import (
    ActVerb,
    DeploymentReason,
    NodeReason,
    NodeState,
    RolloutPhase,
    Verdict,
    WaitReason,
)
from linnet_api.revisions import revision_of
from linnet_api.rollout_policy import RolloutPolicySpec, RolloutPolicyStatus
from linnet_api.trust_policy import TrustPolicySpec, TrustPolicyStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "ActVerb",
    "Condition",
    "DeploymentReason",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "ModelHostStatus",
    "ModelRolloutSpec",
    "ModelRolloutStatus",
    "NodeModelSpec",
    "NodeModelStatus",
    "NodeReason",
    "NodeState",
    "RolloutPhase",
    "RolloutPolicySpec",
    "RolloutPolicyStatus",
    "TrustPolicySpec",
    "TrustPolicyStatus",
    "Verdict",
    "WaitReason",
    "revision_of",
]
