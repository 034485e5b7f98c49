"""The objects that a bed makes in its cluster, all with its label."""

import json
from pathlib import Path
from typing import Any

import yaml

from linnet_testbed.errors import TestbedUnavailableError

LABEL = "linnet.dev/testbed"
AGENTS, SYSTEM = "linnet-agents", "linnet-system"
# CRDs last: while one goes, the controller that empties namespaces cannot list what there is.
OWNED = (
    "nodes,namespaces",
    "validatingadmissionpolicybindings,validatingadmissionpolicies"
    ",clusterrolebindings,clusterroles",
    "customresourcedefinitions",
)


def installation() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the CRDs of this checkout, and its namespaces, roles and fences."""
    checkout = Path(__file__).parents[3]
    sources = sorted((checkout / "crds").glob("*.yaml"))
    if not sources:
        raise TestbedUnavailableError(
            "The testbed needs a checkout of Linnet, with crds/ and charts/: pip install -e it."
        )
    sources += sorted((checkout / "charts" / "linnet" / "static").glob("*.yaml"))
    documents = [d for path in sources for d in yaml.safe_load_all(path.read_text()) if d]
    definitions = [d for d in documents if d["kind"] == "CustomResourceDefinition"]
    others = [d for d in documents if d["kind"] != "CustomResourceDefinition"]
    others.sort(key=lambda d: str(d["kind"]) != "Namespace")
    return definitions, others


def labelled(documents: list[dict[str, object]], bed: str) -> str:
    """Return the objects as one List in JSON, each with the label of its bed."""
    items = []
    for document in documents:
        metadata = dict(document.get("metadata") or {})  # type: ignore[call-overload]  # any JSON
        metadata["labels"] = {**(metadata.get("labels") or {}), LABEL: bed}
        items.append({**document, "metadata": metadata})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def node_object(name: str, number: int) -> dict[str, object]:
    """Return a Node that no kubelet serves; nothing is scheduled to it."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{'ab'[number % 2]}",
        "linnet.dev/fleet": "testbed",
    }
    taint = {"key": LABEL, "effect": "NoSchedule"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [taint]},
    }


def node_status(name: str) -> dict[str, object]:
    """Return a Node with the status of one that is well."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Testbed",
        "message": "a node of the testbed",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"conditions": [ready], "capacity": {"cpu": "1", "memory": "1Gi", "pods": "0"}},
    }


def unbound_lease() -> dict[str, object]:
    """Return a heartbeat that the fences must refuse."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "testbed-fence", "namespace": AGENTS},
    }
