"""The contract: the six kinds of Linnet, their conditions, reasons and names.

- This package knows no other of ours; everything else knows it.
- What stands in ``__all__`` is a promise; the rest may move.
- A name is imported when it is first asked for: who wants the reasons alone (the node's verifier,
  the command line) does not pay for pydantic.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "conditions": ("Condition",),
    "model_deployment": ("ModelDeploymentSpec", "ModelDeploymentStatus"),
    "model_host": ("ModelHostStatus",),
    "model_rollout": ("ModelRolloutSpec", "ModelRolloutStatus"),
    "names": ("API_VERSION", "GROUP", "VERSION"),
    "node_model": ("NodeModelSpec", "NodeModelStatus"),
    "reasons": (
        "ActVerb",
        "DeploymentReason",
        "NodeReason",
        "NodeState",
        "RolloutPhase",
        "Verdict",
        "WaitReason",
    ),
    "revisions": ("revision_of",),
    "rollout_policy": ("RolloutPolicySpec", "RolloutPolicyStatus"),
    "trust_policy": ("TrustPolicySpec", "TrustPolicyStatus"),
}


def __getattr__(name: str) -> object:
    """Import what is promised, on first use (PEP 562)."""
    import importlib  # noqa: PLC0415 - start-up

    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
