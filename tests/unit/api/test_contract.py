"""The contract as people and programs read it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnet_api
from linnet_api import conditions, crdgen
from linnet_api.fields import ApiModel
from linnet_api.model_deployment import Serving
from linnet_api.names import node_model_name, rollout_name
from linnet_api.revisions import revision_of

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in schema.get("properties", {}).items():
        yield f"{path}.{name}", value
        yield from fields(value, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{path}[]")


def schema_of(kind: crdgen.Kind) -> dict[str, Any]:
    return crdgen.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("kind", crdgen.KINDS, ids=lambda kind: kind.name)
def test_every_field_is_described(kind):
    bare = [
        path
        for path, s in fields(schema_of(kind))
        if path != ".metadata" and not s.get("description")
    ]

    assert bare == []


@pytest.mark.parametrize("kind", crdgen.KINDS, ids=lambda kind: kind.name)
def test_every_string_list_and_number_is_bounded(kind):
    loose = []
    for path, schema in fields(schema_of(kind)):
        if path in {".apiVersion", ".kind"}:
            continue
        bounded = {
            "string": {"maxLength", "enum", "format"},
            "array": {"maxItems"},
            "integer": {"maximum"},
        }.get(schema.get("type", ""), {"type"})
        if schema.get("type") and not bounded & schema.keys():
            loose.append(path)

    assert loose == []


@pytest.mark.parametrize("kind", crdgen.KINDS, ids=lambda kind: kind.name)
def test_status_is_seeded_so_that_an_object_nobody_saw_is_not_current(kind):
    status = schema_of(kind)["properties"]["status"]

    assert status["default"] == {"observedGeneration": -1}
    assert [p for p, s in fields(status) if "default" in s] == []


def test_a_model_host_has_no_spec():
    kind = next(k for k in crdgen.KINDS if k.name == "ModelHost")

    assert "spec" not in schema_of(kind)["properties"]


def test_the_crds_fit_an_annotation_and_together_stay_small():
    sizes = [len(crdgen.render(kind)) for kind in crdgen.KINDS]

    assert max(sizes) < 60_000
    assert sum(sizes) < 150_000


def test_a_union_of_objects_is_refused_by_the_generator():
    class One(ApiModel):
        a: int

    class Two(ApiModel):
        b: int

    class Either(ApiModel):
        which: One | Two

    with pytest.raises(crdgen.StructuralError, match=r"Either\.which"):
        crdgen.structural(Either)


def test_what_is_public_is_exported():
    assert all(hasattr(linnet_api, name) for name in linnet_api.__all__)


def test_the_same_content_is_the_same_revision_and_other_content_another():
    one = revision_of(artifact=DIGEST, variants=("onnx",), serving=Serving(name="digits"))

    assert one == revision_of(artifact=DIGEST, variants=("onnx",), serving=Serving(name="digits"))
    assert re.fullmatch("[0-9a-f]{10}", one)
    assert one != revision_of(artifact=DIGEST, variants=(), serving=Serving(name="digits"))
    assert one != revision_of(
        artifact=DIGEST, variants=("onnx",), serving=Serving(name="digits", threads=2)
    )


@pytest.mark.slow
@given(
    st.from_regex(r"[a-z]([a-z0-9-]{0,200}[a-z0-9])?", fullmatch=True), st.text("ab", min_size=1)
)
def test_a_node_models_name_is_always_a_valid_label(deployment, node):
    name = node_model_name(node=node, namespace="factory", deployment=deployment)

    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name)
    assert len(name) <= 63


def test_long_deployments_that_differ_at_the_end_do_not_meet():
    one, two = (
        node_model_name(node="edge-1", namespace="f", deployment="d" * 60 + end) for end in "ab"
    )

    assert one != two
    assert rollout_name(deployment="digits", number=3) == "digits-3"


@pytest.mark.parametrize("make", [conditions.settled, conditions.reconciling, conditions.stalled])
def test_ready_is_always_present_and_never_both_reconciling_and_stalled(make):
    found = make(reason="Serving", message="m", generation=3)

    kinds = {c.type for c in found}
    assert conditions.READY in kinds
    assert not {conditions.RECONCILING, conditions.STALLED} <= kinds
    ready = conditions.find(found, conditions.READY)
    assert ready is not None
    assert (ready.status == "False") == (conditions.STALLED in kinds)


def test_a_transition_time_moves_only_when_the_status_does():
    later = datetime(2026, 11, 21, 13, tzinfo=UTC)
    before = conditions.stamp(
        conditions.settled(reason="Serving", message="m", generation=1), before=(), now=NOON
    )

    same = conditions.stamp(
        conditions.settled(reason="Serving", message="other", generation=2),
        before=before,
        now=later,
    )
    moved = conditions.stamp(
        conditions.stalled(reason="RolledBack", message="m", generation=2), before=before, now=later
    )

    assert same[0].last_transition_time == NOON
    assert moved[0].last_transition_time == later


def test_every_promised_name_is_there_and_no_other():
    listed = {name for names in linnet_api._MODULES.values() for name in names}

    assert listed == set(linnet_api.__all__)
    assert all(hasattr(linnet_api, name) for name in linnet_api.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = linnet_api.nonsense
