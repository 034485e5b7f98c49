"""What publishers and nodes rely on in a registry; the fake one and the real one both keep it.

Wants the fixtures ``registry_url`` and ``client``; each test has a repository of its own.
"""

import asyncio

import pytest

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.oms import parse_statement
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "model.onnx").write_bytes(bytes(range(256)) * 12_000)
    (root / "golden.json").write_bytes(b"{}")
    (root / "sub" / "empty").write_bytes(b"")
    return root


@pytest.fixture
def push(model, registry_url):
    def _push(to, *, bundle=None):
        mirrors = {"registry.testbed": registry_url}
        return asyncio.to_thread(push_model, model, to=to, bundle=bundle, mirrors=mirrors)

    return _push


def _sign(model, *, counter=1):
    private, _ = generate_key()
    return sign_model(model, model="factory/digits", counter=counter, private_key_pem=private)


async def test_what_was_pushed_is_what_is_fetched(model, push, client, tmp_path):
    source = "oci://registry.testbed/contract/round-trip:1.0"
    bundle = _sign(model)
    digest = await push(source, bundle=bundle)

    assert await client.resolve(source) == digest
    artifact = await client.fetch_artifact(source, digest)
    await client.fetch_layers(artifact, into=tmp_path / "staging")

    assert artifact.bundles == (bundle,)
    assert {layer.name: layer.digest for layer in artifact.layers} == dict(
        parse_statement(parse_bundle(bundle).payload).files
    )
    for name in ("model.onnx", "golden.json", "sub/empty"):
        fetched = tmp_path / "staging" / name
        assert fetched.read_bytes() == (model / name).read_bytes()
        assert fetched.stat().st_mode & 0o777 == 0o444


async def test_pushing_the_same_files_again_gives_the_same_artifact(model, push, client):
    first = await push("oci://registry.testbed/contract/again:1.0", bundle=_sign(model))
    second = await push("oci://registry.testbed/contract/again:1.1")

    assert first == second
    source = "oci://registry.testbed/contract/again"
    assert await client.resolve(f"{source}:1.1") == first
    assert await client.resolve(f"{source}@{first}") == first


async def test_several_bundles_can_be_attached(model, push, client):
    source = "oci://registry.testbed/contract/several:1.0"
    bundles = {_sign(model), _sign(model), _sign(model, counter=2)}
    for bundle in bundles:
        digest = await push(source, bundle=bundle)
    await push(source, bundle=bundle)  # the same one again changes nothing

    artifact = await client.fetch_artifact(source, digest)

    assert len(artifact.bundles) == 3
    assert set(artifact.bundles) == bundles


async def test_an_artifact_without_a_signature_has_no_bundle(push, client):
    source = "oci://registry.testbed/contract/unsigned:1.0"

    artifact = await client.fetch_artifact(source, await push(source))

    assert artifact.bundles == ()


async def test_what_was_broken_off_goes_on_with_a_range(model, push, client, tmp_path):
    source = "oci://registry.testbed/contract/resume:1.0"
    artifact = await client.fetch_artifact(source, await push(source))
    whole = (model / "model.onnx").read_bytes()
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "model.onnx").write_bytes(whole[:1_000_000])

    seen = []
    await client.fetch_layers(
        artifact,
        into=tmp_path / "staging",
        on_progress=lambda have, total: seen.append((have, total)),
    )

    assert (tmp_path / "staging" / "model.onnx").read_bytes() == whole
    total = artifact.manifest.total_bytes
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


async def test_a_tag_that_is_not_there_is_said_to_be_missing(push, client):
    await push("oci://registry.testbed/contract/missing:1.0")

    with pytest.raises(SourceNotFoundError):
        await client.resolve("oci://registry.testbed/contract/missing:9.9")


async def test_a_digest_that_is_not_there_is_said_to_be_missing(push, client):
    source = "oci://registry.testbed/contract/missing:1.0"
    await push(source)

    with pytest.raises(SourceNotFoundError):
        await client.fetch_artifact(source, "sha256:" + "0" * 64)


async def test_a_repository_that_is_not_there_is_said_to_be_missing(client):
    with pytest.raises(SourceNotFoundError):
        await client.resolve("oci://registry.testbed/contract/nobody:1.0")
