"""An artifact in a directory: the same for a stick and for a web server."""

import json

import pytest

from linnet_agent.errors import AgentError, DigestMismatchError, FetchError, WrongVariantError
from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.fetch.https import HttpsClient
from linnet_agent.fetch.oci import Retry
from linnet_agent.fetch.variants import Capabilities, VariantChoice
from linnet_agent.verify.directory import hash_directory

NODE = Capabilities(arch="amd64", runtimes=frozenset({"onnx"}))


def accepts(*wanted):
    return VariantChoice(wanted=wanted, capabilities=NODE)


class Place:
    def __init__(self, client, base, media, into):
        self.client, self.base, self.media, self.into = client, base, media, into

    def source(self, name):
        return f"{self.base}/{name}"

    async def artifact(self, name, *, digest=None, wanted=()):
        digest = digest or await self.client.resolve(self.source(name))
        return await self.client.fetch_artifact(self.source(name), digest, accepts=accepts(*wanted))

    async def fetch(self, name, **how):
        artifact = await self.artifact(name, **how)
        await self.client.fetch_layers(artifact, into=self.into)
        return artifact


@pytest.fixture(params=["file", "https"])
async def place(request, media, web, tls, tmp_path):
    impatient = Retry(attempts=4, first_s=0.001, cap_s=0.002, connect_s=2.0, read_s=2.0)
    if request.param == "file":
        client, base = DirectoryClient(roots=[media]), f"file://{media}"
    else:
        client = HttpsClient(mirrors={"models.testbed": web.url}, retry=impatient, tls=tls)
        base = "https://models.testbed"
    yield Place(client, base, media, tmp_path / "staging" / "x")
    await client.aclose()


async def test_a_directory_with_a_manifest_is_fetched_as_the_manifest_says(place, lay):
    manifest = lay.manifest(lay.FILES)
    junk = {"holiday.jpg": b"not of the model", "model.sig": b"one", "model.2.sig": b"two"}
    lay.put(place.media / "digits-1.0", {**lay.FILES, **junk, "manifest.json": manifest})

    artifact = await place.fetch("digits-1.0")

    assert artifact.digest == lay.digest(manifest)
    assert artifact.bundles == (b"one", b"two")
    assert hash_directory(place.into) == lay.digests(lay.FILES)
    modes = {path.stat().st_mode & 0o777 for path in place.into.rglob("*") if path.is_file()}
    assert modes == {0o444}


async def test_progress_is_told_to_the_last_byte(place, lay):
    lay.put(place.media / "m", {**lay.FILES, "manifest.json": lay.manifest(lay.FILES)})
    artifact = await place.artifact("m")
    seen = []

    await place.client.fetch_layers(
        artifact, into=place.into, on_progress=lambda *how: seen.append(how)
    )

    total = sum(map(len, lay.FILES.values()))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


async def test_what_model_signing_leaves_is_enough(place, lay):
    payload, bundle = lay.signed(lay.FILES)
    lay.put(place.media / "plain", {**lay.FILES, "model.sig": bundle})

    artifact = await place.fetch("plain")

    assert artifact.digest == lay.digest(payload)
    assert hash_directory(place.into) == lay.digests(lay.FILES)


async def test_a_model_with_a_file_called_manifest_json_lies_there_by_its_statement(place, lay):
    files = {**lay.FILES, "manifest.json": b"{}"}
    payload, bundle = lay.signed(files)
    lay.put(place.media / "plain", {**files, "model.sig": bundle})

    await place.fetch("plain", digest=lay.digest(payload))

    assert hash_directory(place.into) == lay.digests(files)


async def test_the_statement_that_was_asked_for_is_found_among_bundles(place, lay):
    (_, first), (payload, second) = lay.signed({"a.onnx": b"a"}), lay.signed(lay.FILES)
    bundles = {"model.sig": first, "model.2.sig": b"junk", "model.3.sig": second}
    lay.put(place.media / "two", {**lay.FILES, **bundles})

    artifact = await place.fetch("two", digest=lay.digest(payload))

    assert [layer.name for layer in artifact.layers] == sorted(lay.FILES)
    assert artifact.bundles == (first, b"junk", second)


async def test_a_bundle_that_is_too_large_is_left_out(place, lay):
    (payload, bundle) = lay.signed(lay.FILES)
    huge = b" " * (5 << 20)
    lay.put(place.media / "m", {**lay.FILES, "model.sig": huge, "model.2.sig": bundle})

    artifact = await place.artifact("m", digest=lay.digest(payload))

    assert artifact.bundles == (bundle,)


async def test_bundles_end_at_the_first_gap_and_after_sixteen(place, lay):
    many = {f"model.{position}.sig": b"%d" % position for position in range(2, 30)}
    files = {**lay.FILES, "manifest.json": lay.manifest(lay.FILES), "model.sig": b"1", **many}
    lay.put(place.media / "many", files)
    del many["model.3.sig"]
    lay.put(place.media / "gap", {name: files[name] for name in files if name != "model.3.sig"})

    assert len((await place.artifact("many")).bundles) == 16
    assert (await place.artifact("gap")).bundles == (b"1", b"2")


async def test_names_are_written_as_in_a_url(place, lay):
    files = {"model.onnx": b"1", "a b/ü?#%20&.txt": b"2"}
    lay.put(place.media / "my stick", {**files, "manifest.json": lay.manifest(files)})

    await place.fetch("my%20stick")

    assert hash_directory(place.into) == lay.digests(files)


# Variants


async def test_a_variant_comes_from_its_own_directory(place, lay):
    lay.put_variants(place.media / "v", ["onnx-int8", "onnx"])

    artifact = await place.fetch("v", wanted=("onnx",))

    assert artifact.digest == await place.client.resolve(place.source("v"))
    assert artifact.variant == "onnx"
    assert artifact.bundles == (b"below", b"above")
    assert (place.into / "model.onnx").read_bytes() == b"onnx"


async def test_no_variant_that_fits_is_said(place, lay):
    lay.put_variants(place.media / "v", ["onnx-int8", "onnx"])

    with pytest.raises(WrongVariantError, match="onnx-int4"):
        await place.artifact("v", wanted=("onnx-int4",))


async def test_a_single_model_is_a_variant_as_well(place, lay):
    lay.put(place.media / "m", {**lay.FILES, "manifest.json": lay.manifest(lay.FILES)})

    with pytest.raises(WrongVariantError, match="onnx-int8"):
        await place.artifact("m", wanted=("onnx-int8",))


async def test_a_variant_whose_manifest_was_changed_is_refused(place, lay):
    lay.put_variants(place.media / "v", ["onnx-int8", "onnx"])
    for path in place.media.glob("v/sha256-*/manifest.json"):
        path.write_bytes(lay.manifest(lay.FILES))

    with pytest.raises(DigestMismatchError):
        await place.artifact("v")


async def test_a_variant_that_does_not_lie_there_is_said(place, lay):
    lay.put_variants(place.media / "v", ["onnx"])
    for path in place.media.glob("v/sha256-*/manifest.json"):
        path.unlink()

    with pytest.raises(FetchError, match="variant onnx"):
        await place.artifact("v")


# Other bytes


@pytest.mark.parametrize("content", [b"weights" * 999, b"weights" * 1001, b"WEIGHTS" * 1000, b""])
@pytest.mark.parametrize("how", ["manifest", "statement"])
async def test_other_bytes_than_were_named_are_a_mismatch(place, lay, content, how):
    _, bundle = lay.signed(lay.FILES)
    lay.put(place.media / "m", {**lay.FILES, "model.sig": bundle})
    if how == "manifest":
        lay.put(place.media / "m", {"manifest.json": lay.manifest(lay.FILES)})
    artifact = await place.artifact("m")
    lay.put(place.media / "m", {"model.onnx": content})

    with pytest.raises(DigestMismatchError):
        await place.client.fetch_layers(artifact, into=place.into)

    lay.put(place.media / "m", lay.FILES)
    await place.client.fetch_layers(artifact, into=place.into)
    assert hash_directory(place.into) == lay.digests(lay.FILES)


async def test_another_artifact_than_was_named_is_a_mismatch(place, lay):
    _, bundle = lay.signed(lay.FILES)
    manifest = lay.manifest(lay.FILES)
    lay.put(place.media / "m", {"manifest.json": manifest, "model.sig": bundle})

    with pytest.raises(DigestMismatchError, match=lay.digest(manifest)):
        await place.artifact("m", digest="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"_type": "https://in-toto.io/Statement/v1"}',
        json.dumps({"_type": "x", "layers": []}).encode(),
    ],
)
async def test_a_manifest_that_is_none_is_refused(place, lay, content):
    lay.put(place.media / "m", {**lay.FILES, "manifest.json": content})

    with pytest.raises(AgentError):
        await place.artifact("m")


async def test_what_a_manifest_names_is_never_written_elsewhere(place, lay):
    manifest = lay.manifest({"../../model.onnx": b"x"})
    lay.put(place.media / "m", {"manifest.json": manifest})

    with pytest.raises(FetchError, match=r"\.\."):
        await place.fetch("m")
