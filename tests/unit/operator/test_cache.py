"""The cache: the newer version wins, the deleted stays away, only real changes wake."""

import json

import pytest

from linnet_operator.cache import (
    SOURCES_ANNOTATION,
    DeploymentFacts,
    FleetCache,
    Invalid,
    NodeFacts,
    RevisionFacts,
    facts_of,
)
from linnet_operator.kube import (
    CONTROLLER_REVISIONS,
    MODEL_DEPLOYMENTS,
    MODEL_HOSTS,
    NODE_MODELS,
    NODES,
)

DIGEST = f"sha256:{'a' * 64}"


def node(name="edge-1", version="5", labels=None, uid=None):
    metadata = {"name": name, "uid": uid or f"uid-{name}", "resourceVersion": version}
    return {"metadata": {**metadata, "labels": labels or {"fleet": "a"}}}


def node_model(name="digits-1", node_name="edge-1", version="7", deployment="digits"):
    return {
        "metadata": {
            "name": name,
            "namespace": "factory",
            "uid": f"uid-{name}",
            "resourceVersion": version,
            "generation": 1,
        },
        "spec": {
            "deployment": deployment,
            "node": {"name": node_name, "uid": "n"},
            "sequence": 1,
            "desired": {"state": "Absent"},
        },
    }


@pytest.fixture
def changes():
    return []


@pytest.fixture
def cache(changes):
    return FleetCache(
        lambda resource, before, after: changes.append((resource.kind, before, after))
    )


def labels_of(cache, name="edge-1"):
    return dict(facts_of(cache.get(NODES, name=name), NodeFacts).labels)


def test_an_older_version_does_not_replace_a_newer_one(cache):
    cache.put(NODES, node(version="10", labels={"fleet": "new"}))

    cache.put(NODES, node(version="9", labels={"fleet": "old"}))

    assert labels_of(cache) == {"fleet": "new"}


def test_versions_are_compared_as_numbers_not_as_text(cache):
    cache.put(NODES, node(version="9", labels={"fleet": "old"}))

    cache.put(NODES, node(version="10", labels={"fleet": "new"}))

    assert labels_of(cache) == {"fleet": "new"}


def test_a_new_version_without_a_change_wakes_nobody_but_is_kept(cache, changes):
    cache.put(NODES, node(version="5"))
    changes.clear()

    cache.put(NODES, node(version="6"))

    assert changes == []
    assert cache.get(NODES, name="edge-1").resource_version == "6"


def test_a_late_answer_does_not_bring_back_what_was_deleted(cache):
    cache.put(NODES, node(version="5"))
    cache.drop(NODES, node(version="8"))

    cache.put(NODES, node(version="7"))

    assert cache.get(NODES, name="edge-1") is None


def test_a_created_anew_object_is_another_one(cache):
    cache.put(NODES, node(version="5", uid="first"))
    cache.put(NODES, node(version="9", uid="second"))

    cache.drop(NODES, node(version="8", uid="first"))

    assert cache.get(NODES, name="edge-1").uid == "second"


def test_a_list_removes_what_it_lacks_but_nothing_that_came_since(cache):
    cache.put(NODES, node("gone"))
    known = cache.uids(NODES)
    cache.put(NODES, node("came-since"))

    cache.forget_missing(NODES, set(), known_before=known)

    assert [entry.name for entry in cache.all(NODES)] == ["came-since"]


def test_orders_are_found_by_their_deployment(cache):
    cache.put(NODE_MODELS, node_model("a", "edge-1"))
    cache.put(NODE_MODELS, node_model("b", "edge-2"))
    cache.put(NODE_MODELS, node_model("c", "edge-1", deployment="other"))
    cache.drop(NODE_MODELS, node_model("b", "edge-2", version="9"))

    found = cache.of_deployment(NODE_MODELS, namespace="factory", deployment="digits")

    assert [entry.name for entry in found] == ["a"]


def test_a_spec_that_cannot_be_read_is_kept_as_a_sentence(cache):
    metadata = {"name": "digits", "namespace": "factory", "uid": "u", "resourceVersion": "1"}

    cache.put(MODEL_DEPLOYMENTS, {"metadata": metadata, "spec": {"source": "ftp://nowhere/x"}})

    spec = facts_of(
        cache.get(MODEL_DEPLOYMENTS, namespace="factory", name="digits"), DeploymentFacts
    ).spec
    assert isinstance(spec, Invalid)
    assert "spec.source" in spec.message
    assert "spec.nodes" in spec.message


@pytest.mark.parametrize(
    ("source", "digest"),
    [
        pytest.param("oci://r.io/a@sha256:12", None, id="a short digest"),
        pytest.param("oci://r.io/a", None, id="no tag"),
        pytest.param(f"oci://r.io/a@{DIGEST}", f"sha256:{'b' * 64}", id="two digests"),
        pytest.param("https://r.io/a", None, id="a web server without a digest"),
        pytest.param("https://r.io/a?token=x", DIGEST, id="a web server with a query"),
    ],
)
def test_a_source_that_is_none_makes_the_spec_invalid(cache, source, digest):
    metadata = {"name": "digits", "namespace": "factory", "uid": "u", "resourceVersion": "1"}
    spec = {"source": source, "digest": digest, "nodes": {"matchLabels": {"a": "b"}}}

    cache.put(MODEL_DEPLOYMENTS, {"metadata": metadata, "spec": spec})

    read = facts_of(cache.all(MODEL_DEPLOYMENTS)[0], DeploymentFacts).spec
    assert isinstance(read, Invalid)
    assert read.message.startswith("spec.source: ")


def test_a_source_that_is_none_does_not_hold_up_a_deletion(cache):
    metadata = {
        "name": "digits",
        "namespace": "factory",
        "uid": "u",
        "resourceVersion": "1",
        "deletionTimestamp": "2026-11-21T12:00:00Z",
        "finalizers": ["linnet.dev/unload"],
    }
    spec = {"source": "oci://r.io/a", "nodes": {"matchLabels": {"a": "b"}}}

    cache.put(MODEL_DEPLOYMENTS, {"metadata": metadata, "spec": spec})

    read = facts_of(cache.all(MODEL_DEPLOYMENTS)[0], DeploymentFacts)
    assert read.deleting
    assert read.finalizers == ("linnet.dev/unload",)
    assert not isinstance(read.spec, Invalid)


def test_an_object_that_cannot_be_read_at_all_is_left_out(cache, caplog):
    cache.put(NODE_MODELS, {**node_model(), "spec": {"sequence": 0}})

    assert cache.all(NODE_MODELS) == []
    assert "cache.object.unreadable" in caplog.text


def test_controller_revisions_of_others_are_left_out(cache):
    metadata = {"name": "web", "namespace": "factory", "uid": "u", "resourceVersion": "1"}

    cache.put(CONTROLLER_REVISIONS, {"metadata": metadata, "revision": 1, "data": {"spec": {}}})

    assert cache.all(CONTROLLER_REVISIONS) == []


def test_a_revision_keeps_every_source_that_was_resolved_to_it(cache):
    metadata = {
        "name": "digits-a3a72313dc",
        "namespace": "factory",
        "uid": "u",
        "resourceVersion": "1",
        "labels": {"linnet.dev/deployment": "digits"},
        "annotations": {SOURCES_ANNOTATION: json.dumps(["oci://r/a:1", "oci://r/a:2"])},
        "ownerReferences": [{"uid": "owner"}],
    }
    data = {
        "deployment": "digits",
        "revision": "a3a72313dc",
        "artifact": DIGEST,
        "source": "oci://r/a:1",
        "variants": [],
        "serving": {"name": "digits"},
    }

    cache.put(CONTROLLER_REVISIONS, {"metadata": metadata, "revision": 4, "data": data})

    facts = facts_of(cache.all(CONTROLLER_REVISIONS)[0], RevisionFacts)
    assert (facts.owner_uid, facts.view.number) == ("owner", 4)
    assert facts.view.sources == ("oci://r/a:1", "oci://r/a:2")


def test_counts_are_by_kind(cache):
    cache.put(NODES, node())
    cache.put(MODEL_HOSTS, node())

    assert cache.counts()["Node"] == 1
    assert cache.counts()["ModelHost"] == 1
