"""The words of the contract that the read path needs, without importing the models.

``linnet_api`` costs 160 ms of pydantic; a test holds these against it.
"""

GROUP = "linnet.dev"
API_ROOT = f"/apis/{GROUP}/v1alpha1"
AGENTS_NAMESPACE = "linnet-agents"
FIELD_MANAGER = "linnet-cli"

DEPLOYMENTS = "modeldeployments"
ROLLOUTS = "modelrollouts"
NODE_MODELS = "nodemodels"

ENDED_PHASES = frozenset(
    {"Completed", "RolledBack", "Refused", "Superseded", "Aborted", "Abandoned"}
)
WAITS_FOR_PERSON = frozenset({"Approval", "Decision", "Paused"})
MOVING_STATES = frozenset(
    {"Pending", "Verifying", "Fetching", "SelfTesting", "Activating", "Soaking"}
)
TROUBLED_STATES = frozenset({"Failed", "Reverted", "Refused"})


def collection_path(plural: str, *, namespace: str | None) -> str:
    """Return the path of a collection; ``namespace`` None means all of them."""
    if namespace is None:
        return f"{API_ROOT}/{plural}"
    return f"{API_ROOT}/namespaces/{namespace}/{plural}"


def object_path(plural: str, *, namespace: str, name: str) -> str:
    """Return the path of one object."""
    return f"{collection_path(plural, namespace=namespace)}/{name}"
