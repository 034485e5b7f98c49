import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from linnet_agent.errors import NotOnnxError
from linnet_agent.journal import Condemned, Journal
from linnet_agent.store import ModelKey, ServingRecord, Store, find_runnable
from linnet_agent.verify.manifest import Artifact, parse_manifest

KEY = ModelKey("factory", "defects")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    return store


def an_artifact(text="weights"):

    blob = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": [
                {
                    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                    "digest": blob,
                    "size": len(text),
                    "annotations": {"org.cncf.model.filepath": "model.onnx"},
                }
            ],
        }
    ).encode()
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    return Artifact("oci://r/m:1", parse_manifest(raw, digest=digest), (b"bundle",))


def add(store, revision, *, model="1" * 64, key=KEY):
    artifact = an_artifact()
    staged = store.staging_directory(artifact.digest)
    staged.mkdir()
    (staged / "model.onnx").write_text("weights")
    store.admit(staged, f"sha256:{model}")
    record = ServingRecord(
        namespace=key.namespace,
        deployment=key.deployment,
        revision=revision,
        number=1,
        model_digest=f"sha256:{model}",
        artifact_digest=artifact.digest,
        serving_name="defects",
    )
    store.model(key).add_revision(record, artifact)
    return record


def test_a_revision_is_complete_once_its_model_is_in_the_store(store):
    record = add(store, "aaaaaaaa")
    model = store.model(KEY)

    assert model.read_records() == {"aaaaaaaa": record}
    weights = model.revision_path("aaaaaaaa") / "model" / "model.onnx"
    assert weights.resolve() == store.root / "store" / ("1" * 64) / "model.onnx"

    store.path_of(record.model_digest).rename(store.root / "gone")
    assert model.read_records() == {}


def test_serving_json_says_what_the_server_reads(store):
    add(store, "aaaaaaaa")
    text = (store.model(KEY).revision_path("aaaaaaaa") / "serving.json").read_text()

    assert json.loads(text) == {
        "namespace": "factory",
        "deployment": "defects",
        "revision": "aaaaaaaa",
        "number": 1,
        "modelDigest": "sha256:" + "1" * 64,
        "artifactDigest": an_artifact().digest,
        "servingName": "defects",
        "runtime": "Linnet",
        "threads": 1,
        "instances": 1,
        "variant": "onnx",
        "file": "model.onnx",
    }


def test_a_swap_moves_current_to_previous_and_twice_is_once(store):
    add(store, "aaaaaaaa")
    add(store, "bbbbbbbb", model="2" * 64)
    model = store.model(KEY)
    model.swap("aaaaaaaa")

    model.swap("bbbbbbbb")
    model.swap("bbbbbbbb")

    assert (model.read_current(), model.read_previous()) == ("bbbbbbbb", "aaaaaaaa")
    assert (model.path / "current").readlink().as_posix() == "revisions/bbbbbbbb"


def test_eviction_spares_what_is_kept_and_what_links_name(store):
    for number, revision in enumerate(["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"], 1):
        add(store, revision, model=str(number) * 64)
    model = store.model(KEY)
    model.swap("aaaaaaaa")
    model.swap("bbbbbbbb")

    gone = model.evict(frozenset({"cccccccc"}))
    store.evict_unused()

    assert gone == ["dddddddd"]
    assert sorted(model.read_records()) == ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
    assert sorted(p.name[0] for p in (store.root / "store").iterdir()) == ["1", "2", "3"]


def test_a_model_that_two_deployments_share_stays_for_the_other(store):
    other = ModelKey("factory", "other")
    add(store, "aaaaaaaa")
    add(store, "aaaaaaaa", key=other)

    store.model(KEY).evict(frozenset())
    store.evict_unused()

    assert "aaaaaaaa" in store.model(other).read_records()


def test_half_fetched_files_stay_only_while_somebody_wants_them(store):
    wanted, unwanted = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    for artifact in (wanted, unwanted):
        store.staging_directory(artifact).mkdir()

    store.evict_unused(staging=[wanted])

    assert store.staging_directory(wanted).exists()
    assert not store.staging_directory(unwanted).exists()


def test_the_evidence_of_a_revision_can_be_judged_again(store):
    add(store, "aaaaaaaa")

    assert store.model(KEY).read_evidence("aaaaaaaa") == an_artifact()


def test_a_journal_that_cannot_be_read_is_set_aside_and_told(store):
    model = store.model(KEY)
    assert model.read_journal() is None
    model.write_journal(Journal(observed_sequence=7))
    assert model.read_journal() == Journal(observed_sequence=7)

    (model.path / "journal.json").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match=r"."):
        model.read_journal()

    assert model.read_journal() is None
    assert (model.path / "journal.json.broken").exists()


@pytest.mark.parametrize(
    ("names", "runnable"),
    [
        pytest.param(["net.onnx", "golden.json"], "net.onnx", id="the only one at the top"),
        pytest.param(["model.onnx", "aux.onnx"], "model.onnx", id="model.onnx of several"),
        pytest.param(["net.onnx", "sub/other.onnx"], "net.onnx", id="below the top does not count"),
    ],
)
def test_the_file_that_is_run(names, runnable):
    assert find_runnable(names) == runnable


@pytest.mark.parametrize("names", [[], ["a.onnx", "b.onnx"], ["sub/model.onnx"], ["model.pt"]])
def test_an_artifact_without_a_file_to_run_is_said_to_be_none(names):
    with pytest.raises(NotOnnxError, match=r"model\.onnx"):
        find_runnable(names)


# --- faults of the disk


def failing(number, only=""):
    """Return a ``read_bytes`` that fails where the path ends so."""
    real = Path.read_bytes

    def read(path):
        if path.name.endswith(only):
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    return read


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_what_cannot_be_read_at_the_moment_is_not_taken_for_gone(store, monkeypatch, number):
    add(store, "aaaaaaaa")
    monkeypatch.setattr(Path, "read_bytes", failing(number, "serving.json"))

    with pytest.raises(OSError, match=os.strerror(number)):
        store.model(KEY).read_records()
    with pytest.raises(OSError, match=os.strerror(number)):
        store.evict_unused()
    assert store.has("sha256:" + "1" * 64)


def test_a_record_on_a_bad_block_is_no_revision_and_its_model_stays_for_the_link(
    store, monkeypatch
):
    add(store, "aaaaaaaa")
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO, "serving.json"))

    assert store.model(KEY).read_records() == {}
    store.evict_unused()

    assert store.has("sha256:" + "1" * 64)


def test_a_disk_that_says_eio_once_is_asked_again(store, monkeypatch):
    add(store, "aaaaaaaa")
    answers = iter([errno.EIO])
    real = Path.read_bytes

    def read(path):
        if (number := next(answers, None)) is not None:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)

    assert store.model(KEY).read_records().keys() == {"aaaaaaaa"}
    assert next(answers, None) is None


def test_a_full_disk_takes_neither_the_journal_nor_the_condemned(store, monkeypatch):
    model = store.model(KEY)
    model.write_journal(Journal(observed_sequence=1))
    entry = Condemned("sha256:bad", "d1", "u1", 1, "it failed")

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("linnet_agent.store.write_file", full)
        with pytest.raises(OSError, match="No space"):
            model.write_journal(Journal(observed_sequence=2, condemned=(entry,)))
    assert model.read_journal() == Journal(observed_sequence=1)

    model.write_journal(Journal(observed_sequence=2, condemned=(entry,)))
    assert store.model(KEY).read_journal().condemned == (entry,)


def test_a_list_of_the_condemned_that_has_rotted_is_an_empty_one(store):
    model = store.model(KEY)
    model.write_journal(Journal(condemned=(Condemned("sha256:bad", None, None, 0, "x"),)))
    (model.path / "condemned.json").write_bytes(b"\0\0")

    assert store.model(KEY).read_condemned() == ()


# --- room


def test_lots_are_pinned_by_links_orders_and_by_workers_that_have_not_said_yet(store):
    for number, revision in enumerate(["aaaaaaaa", "bbbbbbbb", "cccccccc"]):
        add(store, revision, model=str(number) * 64)
    other = ModelKey("factory", "unbooted")
    add(store, "dddddddd", model="3" * 64, key=other)
    store.model(KEY).swap("aaaaaaaa")
    half = store.staging_directory("sha256:half")
    half.mkdir()

    lots = store.list_lots({KEY: frozenset({"bbbbbbbb"})}, staging={"sha256:half"})

    assert {lot.name: lot.pinned for lot in lots} == {
        "store/" + "0" * 64: True,
        "store/" + "1" * 64: True,
        "store/" + "2" * 64: False,
        "store/" + "3" * 64: True,
        "staging/half": True,
    }
    assert all(lot.size_bytes > 0 for lot in lots)


def test_a_lot_that_goes_takes_its_revisions_along(store):
    add(store, "aaaaaaaa")
    add(store, "bbbbbbbb", model="2" * 64)
    lots = store.list_lots({KEY: frozenset()}, staging=())

    store.drop_lot(next(lot for lot in lots if lot.name.endswith("2" * 64)))

    assert set(store.model(KEY).read_all_records()) == {"aaaaaaaa"}
    assert not store.has("sha256:" + "2" * 64)
