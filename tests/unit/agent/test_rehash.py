"""Looking at the disk again: what is found, what is not held against it, and what it costs."""

import asyncio
import errno
import hashlib
import json
import os
from time import monotonic, thread_time

import pytest

from linnet_agent import rehash
from linnet_agent.metrics import Metrics
from linnet_agent.rehash import Rehash, find_fault
from linnet_agent.store import ModelKey, ServingRecord, Store
from linnet_agent.verify.manifest import Artifact, parse_manifest

FILES = {"model.onnx": b"weights" * 1000, "labels/en.txt": b"cat\n"}


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def fault_of(root, *, share=1.0):
    signed = {name: digest(content) for name, content in FILES.items()}
    return asyncio.run(find_fault(root, signed, share=share))


def test_what_is_as_it_was_has_no_fault(model):
    assert fault_of(model) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            lambda root: (root / "model.onnx").write_bytes(b"weighty" * 1000),
            "model.onnx has other bytes",
            id="bytes",
        ),
        pytest.param(
            lambda root: os.truncate(root / "model.onnx", 10),
            "model.onnx has other bytes",
            id="short",
        ),
        pytest.param(
            lambda root: (root / "labels" / "en.txt").unlink(), "labels/en.txt is gone", id="gone"
        ),
        pytest.param(
            lambda root: (root / "extra").write_bytes(b""), "extra is not signed", id="extra"
        ),
        pytest.param(lambda root: root.rename(root.with_name("x")), "cannot be read", id="all"),
        pytest.param(
            lambda root: (
                (root / "model.onnx").rename(root.parent / "m"),
                (root / "model.onnx").symlink_to(root.parent / "m"),
            ),
            "cannot be read",
            id="link",
        ),
    ],
)
def test_what_is_not_as_it_was_is_named(model, spoil, said):
    spoil(model)

    assert said in fault_of(model)


def test_a_bad_block_is_a_fault_and_no_free_descriptor_is_none(model, monkeypatch):
    def fail(number):
        def read(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(rehash, "_hash_piece", read)

    fail(errno.EIO)
    assert "cannot be read" in fault_of(model)

    fail(errno.EMFILE)
    with pytest.raises(OSError, match="open files"):
        fault_of(model)


@pytest.mark.slow
def test_it_takes_no_more_than_its_share_of_a_core(model):
    (model / "model.onnx").write_bytes(os.urandom(24 << 20))
    signed = {name: digest((model / name).read_bytes()) for name in ("model.onnx", "labels/en.txt")}
    worked_s = 0.0
    real = rehash._hash_piece

    def count(*more):
        nonlocal worked_s
        began = thread_time()
        try:
            return real(*more)
        finally:
            worked_s += thread_time() - began

    rehash._hash_piece, began = count, monotonic()
    try:
        assert asyncio.run(find_fault(model, signed, share=0.02)) is None
    finally:
        rehash._hash_piece = real

    assert worked_s / (monotonic() - began) <= 0.025


async def test_a_look_marks_what_is_corrupt_once_counts_it_and_says_so(tmp_path):
    store, metrics, told = Store(tmp_path), Metrics(), []
    store.prepare()
    record = add(store, "r1")
    look = Rehash(store, metrics, interval_s=3600, on_corrupt=lambda: told.append(1))
    await look.look()
    assert store.corrupt == {}

    (store.path_of(record.model_digest) / "model.onnx").write_bytes(b"weightS" * 1000)
    await look.look()
    await look.look()

    assert store.corrupt == {record.model_digest: "model.onnx has other bytes"}
    assert told == [1]
    assert metrics.registry.get_sample_value("linnet_agent_corruptions_total") == 1.0


async def test_it_looks_again_after_an_interval(tmp_path):
    store, told = Store(tmp_path), asyncio.Event()
    store.prepare()
    record = add(store, "r1")
    look = Rehash(store, Metrics(), interval_s=0.05, on_corrupt=told.set)
    task = asyncio.create_task(look.run())
    try:
        (store.path_of(record.model_digest) / "model.onnx").write_bytes(b"x")
        async with asyncio.timeout(30):
            await told.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def add(store, revision):
    content = FILES["model.onnx"]
    layer = {
        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
        "digest": digest(content),
        "size": len(content),
        "annotations": {"org.cncf.model.filepath": "model.onnx"},
    }
    model_type = "application/vnd.cncf.model.manifest.v1+json"
    document = {"schemaVersion": 2, "artifactType": model_type, "layers": [layer]}
    raw = json.dumps(document).encode()
    artifact = Artifact("oci://r/m:1", parse_manifest(raw, digest=digest(raw)), ())
    staged = store.staging_directory(artifact.digest)
    staged.mkdir()
    (staged / "model.onnx").write_bytes(content)
    record = ServingRecord(
        namespace="factory",
        deployment="digits",
        revision=revision,
        number=1,
        model_digest=digest(b"statement"),
        artifact_digest=artifact.digest,
        serving_name="digits",
    )
    store.admit(staged, record.model_digest)
    store.model(ModelKey("factory", "digits")).add_revision(record, artifact)
    return record
