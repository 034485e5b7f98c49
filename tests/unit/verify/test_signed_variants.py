"""Variants and their signatures: each manifest by itself, or all of them by the index above."""

import json

import pytest

from linnet_agent.verify.cosign import PREDICATE_TYPE
from linnet_agent.verify.envelope import STATEMENT_TYPE
from linnet_agent.verify.evidence import decode_evidence, encode_evidence, join_artifact
from linnet_agent.verify.manifest import digest_of
from linnet_api.reasons import NodeReason

SOURCE = "oci://registry.testbed/models/digits:1.0"
NAMES = ("onnx-int8", "onnx")


@pytest.fixture
def policy(workshop):
    def make(**more):
        return workshop.policy(signature={"formats": ["OMS", "Cosign"]}, **more)

    return make


@pytest.fixture
def manifests(workshop):
    return {
        name: workshop.manifest({"model.onnx": workshop.digest(name.encode())}).raw
        for name in NAMES
    }


@pytest.fixture
def index(manifests):
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest_of(raw),
            "size": len(raw),
            "annotations": {"linnet.dev/variant": name},
        }
        for name, raw in manifests.items()
    ]
    document = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    return json.dumps(document).encode()


@pytest.fixture
def variant(manifests, index):
    def make(name, *bundles):
        return join_artifact(
            SOURCE,
            digest=digest_of(index),
            manifest=manifests[name],
            bundles=bundles,
            index=index,
        )

    return make


def cosign(digest):
    annotations = {"linnet.dev/model": "factory/digits", "linnet.dev/release-counter": "17"}
    subject = {"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": annotations}
    return json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [subject],
            "predicateType": PREDICATE_TYPE,
            "predicate": {},
        }
    ).encode()


def test_cosign_over_the_index_signs_every_variant_and_keeps_them_apart(
    workshop, variant, index, policy
):
    bundle = workshop.release.bundle(cosign(digest_of(index)))

    judged = [workshop.judge(variant(name, bundle), policy()) for name in NAMES]

    assert all(one.decision.allowed for one in judged)
    assert judged[0].model_digest != judged[1].model_digest


def test_cosign_over_a_manifest_signs_that_variant_alone(workshop, variant, manifests, policy):
    bundle = workshop.release.bundle(cosign(digest_of(manifests["onnx"])))

    assert workshop.judge(variant("onnx", bundle), policy()).decision.allowed
    other = workshop.judge(variant("onnx-int8", bundle), policy()).decision
    assert other.reason is NodeReason.CONTENT_NOT_SIGNED


def test_oms_signs_each_variant_by_its_files(workshop, variant, policy):
    files = {"model.onnx": workshop.digest(b"onnx")}
    bundle = workshop.release.bundle(workshop.statement(files))

    assert workshop.judge(variant("onnx", bundle), policy()).decision.allowed
    other = workshop.judge(variant("onnx-int8", bundle), policy()).decision
    assert other.reason is NodeReason.CONTENT_NOT_SIGNED


@pytest.mark.parametrize("level", ["index", "manifest"])
def test_a_variant_is_revoked_by_its_own_digest_and_by_that_of_the_index(
    workshop, variant, index, manifests, level, policy
):
    bundle = workshop.release.bundle(cosign(digest_of(index)))
    digest = digest_of(index if level == "index" else manifests["onnx"])
    rules = policy(revoked={"digests": [digest]})

    judged = workshop.judge(variant("onnx", bundle), rules).decision

    assert judged.reason is NodeReason.REVOKED


def test_what_is_kept_of_a_variant_is_judged_as_before(workshop, variant, index, policy):
    artifact = variant("onnx-int8", workshop.release.bundle(cosign(digest_of(index))))
    rules = policy()

    again = decode_evidence(encode_evidence(artifact))

    assert workshop.judge(again, rules) == workshop.judge(artifact, rules)
