"""Writes ``crds/`` from the models: structural schemas, CEL rules, printer columns, the status seed.

- The models are the truth; ``--check`` fails where a file in ``crds/`` differs from them.
- Every field has a description: ``kubectl explain`` reads like documentation.
- What a structural schema cannot say (unions, recursion, tuples) is refused here, not by the API server.

Run ``python -m linnet_api.crdgen`` to write, ``--check`` to compare.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, JsonValue

from linnet_api.model_deployment import ModelDeploymentSpec, ModelDeploymentStatus
from linnet_api.model_host import ModelHostStatus
from linnet_api.model_rollout import ModelRolloutSpec, ModelRolloutStatus
from linnet_api.names import GROUP, VERSION
from linnet_api.node_model import NodeModelSpec, NodeModelStatus
from linnet_api.rollout_policy import RolloutPolicySpec, RolloutPolicyStatus
from linnet_api.trust_policy import TrustPolicySpec, TrustPolicyStatus

_DROPPED: Final = ("title", "const", "discriminator", "uniqueItems", "$defs")
_FORMATS: Final = ("date-time", "int32", "int64")


class StructuralError(ValueError):
    """A model that no structural schema can express; the message names the field."""


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of ``kubectl get``; priority 1 shows with ``-o wide``."""

    name: str
    path: str
    kind: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the CRD says it."""

    name: str
    plural: str
    short: str
    scope: str
    doc: str
    spec: type[BaseModel] | None
    status: type[BaseModel]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()


def _ready() -> Column:
    return Column("Ready", '.status.conditions[?(@.type=="Ready")].status')


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")

KINDS: Final = (
    Kind(
        "ModelDeployment",
        "modeldeployments",
        "mdep",
        "Namespaced",
        "The wanted model, and for which nodes. People and Git write the spec; the operator writes the status and never "
        "patches the spec.",
        ModelDeploymentSpec,
        ModelDeploymentStatus,
        (
            _ready(),
            Column("Revision", ".status.stable.revision"),
            Column("Step", ".status.stepShort"),
            Column("Nodes", ".status.nodesShort"),
            Column("Reason", ".status.reason"),
            Column("Waiting", ".status.waitingFor.short"),
            Column("Candidate", ".status.candidate.revision", priority=1),
            Column("Deferred", ".status.nodes.deferred", "integer", 1),
            Column("Policy", ".spec.policyRef.name", priority=1),
            _AGE,
        ),
    ),
    Kind(
        "RolloutPolicy",
        "rolloutpolicies",
        "rp",
        "Namespaced",
        "How a candidate goes out, and what brings it back: steps, bake, judge, budget, windows.",
        RolloutPolicySpec,
        RolloutPolicyStatus,
        (_ready(), _AGE),
    ),
    Kind(
        "TrustPolicy",
        "trustpolicies",
        "tp",
        "Cluster",
        "Who may sign what. Every policy that matches a model must allow it; a model that none matches is refused.",
        TrustPolicySpec,
        TrustPolicyStatus,
        (_ready(), _AGE),
    ),
    Kind(
        "ModelRollout",
        "modelrollouts",
        "mro",
        "Namespaced",
        "One attempt to go from one revision to another: the audit record. The operator writes it; people only add acts.",
        ModelRolloutSpec,
        ModelRolloutStatus,
        (
            Column("From", ".spec.from.revision"),
            Column("To", ".spec.to.revision"),
            Column("Phase", ".status.phase"),
            Column("Step", ".status.stepShort"),
            Column("Verdict", ".status.verdict"),
            Column("Reason", ".status.reason"),
            Column("Waiting", ".status.waitingFor.short"),
            _AGE,
        ),
    ),
    Kind(
        "NodeModel",
        "nodemodels",
        "nm",
        "Namespaced",
        "One model on one node. The operator writes the order, that node's agent reports what became of it. Deleting one is "
        "not an order: the node serves on.",
        NodeModelSpec,
        NodeModelStatus,
        (
            Column("Node", ".spec.node.name"),
            Column("Want", ".spec.desired.revision"),
            Column("State", ".status.state"),
            Column("Serves", ".status.current.revision"),
            Column("Reason", ".status.reason"),
            Column("Deployment", ".spec.deployment", priority=1),
            _AGE,
        ),
        (".spec.node.name", ".status.state"),
    ),
    Kind(
        "ModelHost",
        "modelhosts",
        "mh",
        "Cluster",
        "What a node can run and hold, as its agent sees it. It has no spec.",
        None,
        ModelHostStatus,
        (
            _ready(),
            Column("Agent", ".status.agentVersion"),
            Column("Ceiling", ".status.trust.ceiling", "boolean"),
            _AGE,
        ),
    ),
)


def crd(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of ``kind``."""
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": "Version of the API, linnet.dev/v1alpha1."},
        "kind": {"type": "string", "description": f"The kind, {kind.name}."},
        "metadata": {"type": "object"},
    }
    if kind.spec is not None:
        properties["spec"] = structural(kind.spec)
    status = _without_defaults(structural(kind.status))
    status["default"] = {"observedGeneration": -1}
    properties["status"] = status
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": c.name, "type": c.kind, "jsonPath": c.path, "priority": c.priority}
            for c in kind.columns
        ],
        "subresources": {"status": {}},
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": kind.doc,
                "required": ["spec"] if kind.spec is not None else [],
                "properties": properties,
            }
        },
    }
    if not version["schema"]["openAPIV3Schema"]["required"]:
        del version["schema"]["openAPIV3Schema"]["required"]
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["linnet"],
            },
            "versions": [version],
        },
    }


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """Return the structural schema of ``model``.

    Raises:
        StructuralError: The model has a union of objects, a recursion, a tuple, or an untyped field.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(schema, schema.get("$defs", {}), model.__name__, ())


def _structural(
    schema: Mapping[str, Any], defs: Mapping[str, Any], path: str, seen: tuple[str, ...]
) -> dict[str, Any]:
    out = dict(schema)
    if "$ref" in out:
        name = str(out.pop("$ref")).removeprefix("#/$defs/")
        if name in seen:
            raise StructuralError(
                f"{path}: {name} holds itself; a structural schema cannot recurse"
            )
        return _structural({**defs[name], **out}, defs, path, (*seen, name))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in out:
            return _one_of(out, word, defs, path, seen)
    if "prefixItems" in out:
        raise StructuralError(f"{path}: a tuple of fixed types; write an object")
    if "const" in out:
        out["enum"] = [out["const"]]
    for word in _DROPPED:
        out.pop(word, None)
    if out.get("default", ...) is None:
        del out["default"]
    elif "default" in out:
        out["default"] = _without_nulls(out["default"])
    if out.get("format") not in _FORMATS:
        out.pop("format", None)
    if "type" not in out:
        raise StructuralError(f"{path}: no type")
    out.pop("additionalProperties", None) if "properties" in out else None
    if "properties" in out:
        out["properties"] = {
            name: _described(_structural(value, defs, f"{path}.{name}", seen), f"{path}.{name}")
            for name, value in out["properties"].items()
        }
    elif isinstance(out.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(
            out["additionalProperties"], defs, f"{path}.*", seen
        )
    if "items" in out:
        out["items"] = _structural(out["items"], defs, f"{path}[]", seen)
    return out


def _one_of(
    schema: dict[str, Any], word: str, defs: Mapping[str, Any], path: str, seen: tuple[str, ...]
) -> dict[str, Any]:
    alternatives = [a for a in schema.pop(word) if a.get("type") != "null"]
    if len(alternatives) == 1:
        if schema.get("default", ...) is None:
            del schema["default"]
        return _structural({**alternatives[0], **schema}, defs, path, seen)
    if {a.get("type") for a in alternatives} == {"integer", "string"}:
        bounds = {
            key: a[key]
            for a in alternatives
            for key in ("minimum", "maximum", "pattern", "maxLength")
            if key in a
        }
        kept = {key: value for key, value in schema.items() if key not in _DROPPED}
        return {**bounds, **kept, "x-kubernetes-int-or-string": True}
    raise StructuralError(
        f"{path}: {word} of {len(alternatives)} alternatives; write optional members and a CEL rule"
    )


def _without_nulls(value: JsonValue) -> JsonValue:
    """Return ``value`` without members that are null: the API server takes null for no type."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Return ``schema`` without defaults: a status says what was seen, never what was assumed."""
    out = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in out:
        out["properties"] = {
            name: _without_defaults(value) for name, value in out["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _without_defaults(out[key])
    return out


def _described(schema: dict[str, Any], path: str) -> dict[str, Any]:
    if not schema.get("description"):
        raise StructuralError(f"{path}: no description")
    return schema


def render(kind: Kind) -> str:
    """Return the YAML of the CRD of ``kind``, the same bytes every time."""
    head = "# Written by `make crds` from api/src/linnet_api; do not edit.\n"
    return head + yaml.dump(
        crd(kind), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True
    )


class _Dumper(yaml.SafeDumper):
    """Quotes ``y`` and ``n``: Go's YAML reads them as booleans, Python's does not."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    node = dumper.represent_str(text)
    if text.lower() in {"y", "n"}:
        node.style = "'"
    return node


_Dumper.add_representer(str, _write_text)


def main(arguments: list[str] | None = None) -> int:
    """Write the CRDs, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m linnet_api.crdgen", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare only; exit 1 where a file differs"
    )
    parser.add_argument("--directory", type=Path, default=Path("crds"), help="default: crds")
    options = parser.parse_args(arguments)
    stale: list[str] = []
    for kind in KINDS:
        path = options.directory / f"{kind.plural}.yaml"
        text = render(kind)
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(str(path))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"differs from the models: {', '.join(stale)}; run: make crds\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
