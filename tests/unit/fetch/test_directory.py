"""Models from a directory: whatever stands there, only what was hashed while copying is used."""

import asyncio
import errno
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
)
from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.verify.directory import hash_directory

FILES = {"model.onnx": b"weights" * 1000, "tokens/vocab.txt": b"a b c", "empty": b""}


@pytest.fixture
def stick(media, lay):
    path = media / "usb" / "digits-1.0"
    lay.put(path, {**FILES, "manifest.json": lay.manifest(FILES), "model.sig": b"one"})
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
    artifact = await client.fetch_artifact(source, digest)
    await client.fetch_layers(artifact, into=into)
    return artifact


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


async def test_a_stick_that_is_pulled_out_in_the_middle_goes_on_where_it_was(
    client, stick, into, lay
):
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
    assert hash_directory(into) == lay.digests(FILES)


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


async def test_a_cancelled_copy_goes_on_where_it_was(client, media, into, lay):
    content = os.urandom(40 << 20)
    files = {"model.onnx": content}
    lay.put(media / "big", {**files, "manifest.json": lay.manifest(files)})
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
async def test_a_manifest_that_is_no_plain_file_is_refused(
    client, stick, tmp_path, change, name, lay
):
    digest = lay.digest((stick / "manifest.json").read_bytes())
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
