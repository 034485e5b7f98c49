"""Names that every part of Linnet shares: group, labels, namespaces, object names.

- The group is one constant, so that it can move.
- A NodeModel's name is a function of node, namespace and deployment: two writers cannot make two.
- An object name never exceeds the 63 characters of a label value.
"""

import hashlib
from typing import Final

GROUP: Final = "linnet.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

AGENTS_NAMESPACE: Final = "linnet-agents"
"""Where agents run, and where each keeps its heartbeat Lease, named like its Node."""

SYSTEM_NAMESPACE: Final = "linnet-system"
"""Where the operator runs."""

AGENT_SERVICE_ACCOUNT: Final = "linnet-agent"
OPERATOR_SERVICE_ACCOUNT: Final = "linnet-operator"

OPERATOR_FIELD_MANAGER: Final = "linnet-operator"
AGENT_FIELD_MANAGER: Final = "linnet-agent"
CLI_FIELD_MANAGER: Final = "linnet-cli"

DEPLOYMENT_LABEL: Final = f"{GROUP}/deployment"
ROLLOUT_LABEL: Final = f"{GROUP}/rollout"
REVISION_LABEL: Final = f"{GROUP}/revision"
NODE_LABEL: Final = f"{GROUP}/node"
CANARY_LABEL: Final = f"{GROUP}/canary"
"""On a Node, value "preferred": people have chosen this node to go first (rule 13)."""

SERVED_ANNOTATION: Final = f"{GROUP}/served"
"""On a heartbeat Lease: JSON ``{"<ns>/<deployment>/<revision>": [requests, failures]}``.

Counts since the activation, over the node's own bound token (rule 16).
"""

UNLOAD_FINALIZER: Final = f"{GROUP}/unload"
"""On a ModelDeployment with ``removal: Unload``: its nodes unload before it goes."""

COUNTER_ANNOTATION: Final = f"{GROUP}/release-counter"
"""In the subject of a signed statement: the release counter, a decimal string."""

MODEL_ANNOTATION: Final = f"{GROUP}/model"
"""In what cosign has signed, or in the manifest's annotations: the model's name, ``ns/name``."""

_NAME_LIMIT: Final = 40


def node_model_name(*, node: str, namespace: str, deployment: str) -> str:
    """Return the name of the NodeModel that holds ``deployment`` on ``node``.

    Returns:
        ``<deployment, at most 40 characters>-<hash8>``; the hash covers node, namespace and
        deployment, so that long names that differ only at the end do not meet.
    """
    return f"{deployment[:_NAME_LIMIT].rstrip('-.')}-{_hash8(node, namespace, deployment)}"


def rollout_name(*, deployment: str, number: int) -> str:
    """Return the name of the ``number``-th ModelRollout of ``deployment`` (numbers start at 1)."""
    return f"{deployment[:_NAME_LIMIT].rstrip('-.')}-{number}"


def rollout_number(name: str) -> int:
    """Return the number in the name of a ModelRollout; 0 where there is none."""
    _, _, number = name.rpartition("-")
    return int(number) if number.isascii() and number.isdigit() else 0


def revision_object_name(*, deployment: str, revision: str) -> str:
    """Return the name of the ControllerRevision that records ``revision``."""
    return f"{deployment[:_NAME_LIMIT].rstrip('-.')}-{revision}"


def _hash8(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
