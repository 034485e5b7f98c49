"""Models from a directory: whatever stands there, only what was hashed while copying is used."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from linnet_agent.errors import (
    ContentRefusedError,
    DigestMismatchError,
    FetchError,
    SourceNotFoundError,
    SourceUnavailableError,
    UnsupportedArtifactError,
    WrongVariantError,
)
from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.fetch.variants import Capabilities, VariantChoice
from linnet_agent.verify.directory import hash_directory
from linnet_cli.publish.statement import build_bundle, build_statement

FILES = {"model.onnx": b"weights" * 1000, "tokens/vocab.txt": b"a b c", "empty": b""}
ACCEPTS = VariantChoice(
    wanted=(), capabilities=Capabilities(arch="amd64", runtimes=frozenset({"onnx"}))
)


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest_of(files):
    layers = [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": digest_of(content),
            "size": len(content),
            "annotations": {"org.cncf.model.filepath": name},
        }
        for name, content in files.items()
    ]
    return json.dumps(
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": layers,
        }
    ).encode()


def signed(files):
    digests = {name: digest_of(content) for name, content in files.items()}
    payload = build_statement(digests, model="factory/digits", counter=1)
    return payload, build_bundle(payload, signature=b"not looked at here", key_id="0" * 64)


def put(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def media(tmp_path):
    path = tmp_path / "media"
    path.mkdir()
    return path


@pytest.fixture
def stick(media):
    path = media / "usb" / "digits-1.0"
    put(path, {**FILES, "manifest.json": manifest_of(FILES), "model.sig": b"one"})
    return path


@pytest.fixture
def client(media):
    return DirectoryClient(roots=[media])


@pytest.fixture
def into(tmp_path):
    return tmp_path / "staging" / "x"


def source_of(path):
    return f"file://{path}"


async def fetch(client, path, into, *, digest=None):
    source = source_of(path)
    digest = digest or await client.resolve(source)
    artifact = await client.fetch_artifact(source, digest, accepts=ACCEPTS)
    await client.fetch_layers(artifact, into=into)
    return artifact


async def test_a_directory_with_a_manifest_is_copied_as_the_manifest_says(client, stick, into):
    put(stick, {"holiday.jpg": b"not of the model", "model.2.sig": b"two"})

    artifact = await fetch(client, stick, into)

    assert artifact.digest == digest_of((stick / "manifest.json").read_bytes())
    assert artifact.bundles == (b"one", b"two")
    assert hash_directory(into) == {name: digest_of(content) for name, content in FILES.items()}
    assert {path.stat().st_mode & 0o777 for path in into.rglob("*") if path.is_file()} == {0o444}


async def test_what_model_signing_leaves_is_enough(client, media, into):
    payload, bundle = signed(FILES)
    put(media / "plain", {**FILES, "model.sig": bundle})

    artifact = await fetch(client, media / "plain", into)

    assert artifact.digest == digest_of(payload)
    assert hash_directory(into) == {name: digest_of(content) for name, content in FILES.items()}


async def test_a_model_with_a_file_called_manifest_json_lies_there_by_its_statement(
    client, media, into
):
    files = {**FILES, "manifest.json": b"{}"}
    payload, bundle = signed(files)
    put(media / "plain", {**files, "model.sig": bundle})

    await fetch(client, media / "plain", into, digest=digest_of(payload))

    assert hash_directory(into) == {name: digest_of(content) for name, content in files.items()}


async def test_the_statement_that_was_asked_for_is_found_among_bundles(client, media, into):
    (_, first), (payload, second) = signed({"a.onnx": b"a"}), signed(FILES)
    put(media / "two", {**FILES, "model.sig": first, "model.2.sig": b"junk", "model.3.sig": second})

    artifact = await fetch(client, media / "two", into, digest=digest_of(payload))

    assert [layer.name for layer in artifact.layers] == sorted(FILES)
    assert artifact.bundles == (first, b"junk", second)


# Variants


@pytest.fixture
def variants(media):
    path = media / "variants"
    entries = []
    for name in ("onnx-int8", "onnx"):
        manifest = manifest_of({"model.onnx": name.encode()})
        place = path / digest_of(manifest).replace(":", "-")
        put(place, {"model.onnx": name.encode(), "manifest.json": manifest, "model.sig": b"below"})
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest_of(manifest),
                "size": len(manifest),
                "annotations": {"linnet.dev/variant": name},
            }
        )
    index = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    put(path, {"manifest.json": json.dumps(index).encode(), "model.sig": b"above"})
    return path


async def test_a_variant_comes_from_its_own_directory(client, variants, into):
    source = source_of(variants)
    digest = await client.resolve(source)
    wanted = VariantChoice(wanted=("onnx",), capabilities=ACCEPTS.capabilities)

    artifact = await client.fetch_artifact(source, digest, accepts=wanted)
    await client.fetch_layers(artifact, into=into)

    assert artifact.digest == digest
    assert artifact.variant == "onnx"
    assert artifact.bundles == (b"below", b"above")
    assert (into / "model.onnx").read_bytes() == b"onnx"


async def test_no_variant_that_fits_is_said(client, variants):
    source = source_of(variants)
    wanted = VariantChoice(wanted=("onnx-int4",), capabilities=ACCEPTS.capabilities)

    with pytest.raises(WrongVariantError):
        await client.fetch_artifact(source, await client.resolve(source), accepts=wanted)


async def test_a_variant_whose_manifest_was_changed_is_refused(client, variants):
    source = source_of(variants)
    for path in variants.glob("sha256-*/manifest.json"):
        path.write_bytes(manifest_of(FILES))

    with pytest.raises(DigestMismatchError):
        await client.fetch_artifact(source, await client.resolve(source), accepts=ACCEPTS)


# What is not there, may come


@pytest.mark.parametrize("gone", ["media/usb", "media/usb/digits-1.0", "media"])
async def test_a_stick_that_is_not_in_is_waited_for(client, stick, tmp_path, gone, into):
    source = source_of(stick)
    digest = await client.resolve(source)
    (tmp_path / gone).rename(tmp_path / "away")

    with pytest.raises(SourceUnavailableError) as caught:
        await client.fetch_artifact(source, digest)

    assert caught.value.transient
    (tmp_path / "away").rename(tmp_path / gone)
    assert (await fetch(client, stick, into)).digest == digest


async def test_an_empty_mount_point_is_waited_for(client, stick):
    digest = await client.resolve(source_of(stick))
    shutil.rmtree(stick)
    stick.mkdir()

    with pytest.raises(SourceUnavailableError):
        await client.fetch_artifact(source_of(stick), digest)


async def test_a_stick_that_is_pulled_out_in_the_middle_goes_on_where_it_was(client, stick, into):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))
    seen = []
    taken = stick.with_name("taken")

    def pull(done, _total):
        seen.append(done)
        if stick.exists():
            stick.rename(taken)

    with pytest.raises(SourceUnavailableError):
        await client.fetch_layers(artifact, into=into, on_progress=pull)
    taken.rename(stick)
    again = []
    await client.fetch_layers(artifact, into=into, on_progress=lambda done, _: again.append(done))

    assert again[0] == len(FILES["model.onnx"])  # the first file was not copied again
    assert hash_directory(into) == {name: digest_of(content) for name, content in FILES.items()}


async def test_what_cannot_be_read_is_waited_for(client, stick, into, monkeypatch):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))
    real = os.pread

    def broken(*_args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(SourceUnavailableError, match="Input/output error"):
        await client.fetch_layers(artifact, into=into)
    monkeypatch.setattr(os, "pread", real)
    await client.fetch_layers(artifact, into=into)


async def test_a_cancelled_copy_goes_on_where_it_was(client, media, into):
    content = os.urandom(40 << 20)
    put(
        media / "big",
        {"model.onnx": content, "manifest.json": manifest_of({"model.onnx": content})},
    )
    source = source_of(media / "big")
    artifact = await client.fetch_artifact(source, await client.resolve(source))
    begun = asyncio.Event()

    def note(done, _total):
        if done:
            begun.set()

    copying = asyncio.ensure_future(client.fetch_layers(artifact, into=into, on_progress=note))
    await begun.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    had = (into / "model.onnx").stat().st_size
    seen = []
    await client.fetch_layers(artifact, into=into, on_progress=lambda done, _: seen.append(done))

    assert 0 < had < len(content)
    assert seen[0] == had
    assert (into / "model.onnx").read_bytes() == content


async def test_a_torn_prefix_is_copied_again(client, stick, into):
    into.mkdir(parents=True)
    (into / "model.onnx").write_bytes(b"\0" * 4096)

    await fetch(client, stick, into)

    assert (into / "model.onnx").read_bytes() == FILES["model.onnx"]


# What is not plain


def replace_by_link(path, tmp_path):
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")


def replace_by_hard_link(path, tmp_path):
    os.link(path, tmp_path / "elsewhere")


def replace_by_fifo(path, _tmp_path):
    path.unlink()
    os.mkfifo(path)


def replace_by_directory(path, _tmp_path):
    path.unlink()
    path.mkdir()


def make_setuid(path, _tmp_path):
    path.chmod(0o4755)


def replace_by_socket(path, _tmp_path):
    path.unlink()
    os.mknod(path, 0o140644)


STRANGE = [
    replace_by_link,
    replace_by_hard_link,
    replace_by_fifo,
    replace_by_directory,
    make_setuid,
    replace_by_socket,
]


@pytest.mark.parametrize("change", STRANGE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["model.onnx", "tokens/vocab.txt"])
async def test_what_is_no_plain_file_is_refused(client, stick, into, tmp_path, change, name):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))
    change(stick / name, tmp_path)

    with pytest.raises(ContentRefusedError):
        await client.fetch_layers(artifact, into=into)


@pytest.mark.parametrize("change", STRANGE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["manifest.json", "model.sig"])
async def test_a_manifest_that_is_no_plain_file_is_refused(client, stick, tmp_path, change, name):
    digest = digest_of((stick / "manifest.json").read_bytes())
    change(stick / name, tmp_path)

    with pytest.raises(ContentRefusedError):
        await client.fetch_artifact(source_of(stick), digest)


async def test_a_directory_that_is_a_link_is_refused(client, stick, into, tmp_path):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))
    (stick / "tokens").rename(tmp_path / "elsewhere")
    (stick / "tokens").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ContentRefusedError, match="link"):
        await client.fetch_layers(artifact, into=into)


async def test_a_link_on_the_way_to_the_source_is_refused(client, stick, media):
    (media / "short").symlink_to(stick.parent)

    with pytest.raises(ContentRefusedError, match="link"):
        await client.resolve(source_of(media / "short" / "digits-1.0"))


# What was swapped


async def test_a_file_that_is_swapped_while_another_is_copied_is_found(client, stick, into):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))

    def swap(_done, _total):
        (stick / "tokens" / "vocab.txt").write_bytes(b"c b a")

    with pytest.raises(DigestMismatchError, match="vocab"):
        await client.fetch_layers(artifact, into=into, on_progress=swap)


async def test_a_file_that_is_swapped_after_it_was_copied_changes_nothing(client, stick, into):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))

    def swap(done, _total):
        if done >= len(FILES["model.onnx"]):
            (stick / "model.onnx").write_bytes(b"evil")

    await client.fetch_layers(artifact, into=into, on_progress=swap)

    assert (into / "model.onnx").read_bytes() == FILES["model.onnx"]


@pytest.mark.parametrize("content", [b"weights" * 999, b"weights" * 1001, b"WEIGHTS" * 1000, b""])
async def test_other_bytes_than_the_manifest_says_are_a_mismatch(client, stick, into, content):
    artifact = await client.fetch_artifact(source_of(stick), await client.resolve(source_of(stick)))
    (stick / "model.onnx").write_bytes(content)

    with pytest.raises(DigestMismatchError):
        await client.fetch_layers(artifact, into=into)


async def test_another_manifest_is_a_mismatch(client, stick):
    with pytest.raises(DigestMismatchError, match=r"manifest\.json"):
        await client.fetch_artifact(source_of(stick), "sha256:" + "0" * 64)


async def test_a_manifest_of_gigabytes_is_not_read(client, stick):
    os.truncate(stick / "manifest.json", 1 << 33)

    with pytest.raises(FetchError, match="larger"):
        await client.resolve(source_of(stick))


# Where it may look


@pytest.mark.parametrize("source", ["file:///etc", "file:///etc/passwd", "file:///", "file:////x"])
async def test_only_what_lies_below_the_roots_is_looked_at(client, source):
    with pytest.raises((SourceNotFoundError, UnsupportedArtifactError)):
        await client.resolve(source)


@pytest.mark.parametrize("tail", ["/..", "/../../etc", "/a/./b", "/%2e%2e/x", "/a//b", "/a%2fb"])
async def test_no_path_leads_out_of_the_roots(client, media, tail):
    with pytest.raises(UnsupportedArtifactError):
        await client.resolve(f"file://{media}{tail}")


async def test_the_refusal_names_the_roots(media):
    client = DirectoryClient(roots=[media])

    with pytest.raises(SourceNotFoundError, match=str(media)):
        await client.resolve("file:///home/ana/model")


async def test_a_name_with_a_space_is_written_as_in_a_url(client, stick, into):
    stick.rename(stick.with_name("my stick"))

    await fetch(client, Path(f"{stick.parent}/my%20stick"), into)

    assert (into / "empty").read_bytes() == b""
