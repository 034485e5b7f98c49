"""What a revision was allowed on is kept, and rebuilt from bytes that are hashed again."""

import base64
import json
from dataclasses import replace

import pytest

from linnet_agent.errors import AgentError, DigestMismatchError
from linnet_agent.verify.evidence import decode_evidence, encode_evidence, join_artifact
from linnet_agent.verify.manifest import digest_of

SOURCE = "oci://registry.testbed/models/digits:1.0"


@pytest.fixture
def manifest(workshop):
    return workshop.manifest().raw


@pytest.fixture
def index(manifest):
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"linnet.dev/variant": "onnx-int8"},
    }
    document = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    return json.dumps(document).encode()


def test_a_manifest_comes_back_as_it_was(manifest):
    kept = join_artifact(SOURCE, digest=digest_of(manifest), manifest=manifest, bundles=(b"{}",))

    assert decode_evidence(encode_evidence(kept)) == kept
    assert kept.digests == (digest_of(manifest),)
    assert kept.variant == "onnx"


def test_the_keys_that_had_signed_it_come_back(manifest, workshop):
    found = join_artifact(SOURCE, digest=digest_of(manifest), manifest=manifest, bundles=(b"{}",))
    kept = replace(found, keys=(workshop.release.public,))

    assert decode_evidence(encode_evidence(kept)) == kept
    before = json.loads(encode_evidence(kept))  # as it was written before keys were kept
    del before["keys"]
    assert decode_evidence(json.dumps(before).encode()) == found


def test_a_variant_comes_back_with_its_index(manifest, index):
    kept = join_artifact(
        SOURCE, digest=digest_of(index), manifest=manifest, bundles=(), index=index
    )

    assert decode_evidence(encode_evidence(kept)) == kept
    assert kept.digest == digest_of(index)
    assert kept.digests == (digest_of(index), digest_of(manifest))
    assert kept.variant == "onnx-int8"


def test_a_statement_stands_in_for_a_manifest(workshop):
    payload = workshop.statement()
    kept = join_artifact(SOURCE, digest=digest_of(payload), manifest=payload, bundles=())

    assert decode_evidence(encode_evidence(kept)) == kept
    assert {one.name: one.digest for one in kept.layers} == workshop.files()


def test_a_manifest_that_the_index_does_not_name_is_a_mismatch(workshop, index):
    other = workshop.manifest(workshop.files(**{"model.onnx": b"other"})).raw

    with pytest.raises(DigestMismatchError):
        join_artifact(SOURCE, digest=digest_of(index), manifest=other, bundles=(), index=index)


@pytest.mark.parametrize("part", ["manifest", "index", "artifact"])
def test_a_changed_part_does_not_come_back(manifest, index, part):
    kept = join_artifact(
        SOURCE, digest=digest_of(index), manifest=manifest, bundles=(), index=index
    )
    document = json.loads(encode_evidence(kept))
    document[part] = base64.b64encode(b'{"layers": []}').decode()

    with pytest.raises(AgentError):
        decode_evidence(json.dumps(document).encode())


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"manifest": 7}', b"\xff"])
def test_what_is_no_evidence_is_a_value_error(raw):
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        decode_evidence(raw)
