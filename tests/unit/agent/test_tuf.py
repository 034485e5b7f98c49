"""A trusted root that rotates, from repositories made on the spot."""

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from linnet_agent.tuf import TufRepository

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ONE, TWO = b'{"root": 1}', b'{"root": 2}'

pytestmark = pytest.mark.slow


class Publisher:
    """Makes a TUF repository: two of three keys sign each root."""

    def __init__(self, path):
        self.path = path
        self.version = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0}
        self.root_keys = [CryptoSigner.generate_ecdsa() for _ in range(3)]
        self.online = CryptoSigner.generate_ecdsa()
        for part in ("metadata", "targets"):
            (path / part).mkdir(parents=True)

    def rotate(self, *, signers=None, now=NOON, days=365):
        """Publish a new root with new keys, signed by the old ones and by the new ones."""
        old = self.root_keys if self.version["root"] else []
        self.root_keys = [CryptoSigner.generate_ecdsa() for _ in range(3)]
        self.version["root"] += 1
        root = Root(version=self.version["root"], expires=now + days * DAY)
        for key in self.root_keys:
            root.add_key(key.public_key, "root")
        root.roles["root"].threshold = 2
        for role in ("timestamp", "snapshot", "targets"):
            root.add_key(self.online.public_key, role)
        signed = Metadata(root)
        for signer in [*old, *self.root_keys] if signers is None else signers:
            signed.sign(signer, append=True)
        self._write(signed, f"{root.version}.root")
        return self.file(f"{root.version}.root")

    def publish(self, trusted_root=ONE, *, now=NOON, days=30):
        for role in ("timestamp", "snapshot", "targets"):
            self.version[role] += 1
        expires = now + days * DAY
        targets = Targets(version=self.version["targets"], expires=expires)
        target = TargetFile.from_data("trusted_root.json", trusted_root, ["sha256"])
        targets.targets = {"trusted_root.json": target}
        digest = target.hashes["sha256"]
        (self.path / "targets" / f"{digest}.trusted_root.json").write_bytes(trusted_root)
        self._sign(targets, f"{targets.version}.targets")
        snapshot = Snapshot(version=self.version["snapshot"], expires=expires)
        snapshot.meta = {"targets.json": MetaFile(targets.version)}
        self._sign(snapshot, f"{snapshot.version}.snapshot")
        timestamp = Timestamp(version=self.version["timestamp"], expires=expires)
        timestamp.snapshot_meta = MetaFile(snapshot.version)
        self._sign(timestamp, "timestamp")
        return f"{digest}.trusted_root.json"

    def file(self, name):
        return self.path / "metadata" / f"{name}.json"

    def _sign(self, role, name):
        signed = Metadata(role)
        signed.sign(self.online)
        self._write(signed, name)

    def _write(self, signed, name):
        self.file(name).write_bytes(signed.to_bytes())


class Node:
    def __init__(self, tmp_path, publisher):
        self.cache = tmp_path / "node" / "trust" / "tuf.json"
        self.bootstrap = tmp_path / "root.json"
        self.publisher = publisher
        self.bootstrap.write_bytes(publisher.file("1.root").read_bytes())
        self.boot()

    def boot(self):
        self.tuf = TufRepository(
            self.publisher.path, cache=self.cache, bootstrap=self.bootstrap, timeout_s=120
        )
        return self.tuf.state

    def look(self, now=NOON):
        return self.tuf.refresh(now)


@pytest.fixture
def publisher(tmp_path):
    made = Publisher(tmp_path / "repository")
    made.rotate()
    made.publish()
    return made


@pytest.fixture
def node(tmp_path, publisher):
    return Node(tmp_path, publisher)


def test_the_root_is_read_and_kept(node):
    state = node.look()

    assert (state.root, state.version, state.fault) == (ONE, 1, "")
    assert state.expires == NOON + 30 * DAY
    assert node.boot() == state
    assert not state.is_stale(NOON + 29 * DAY)
    assert state.is_stale(NOON + 30 * DAY)


def test_a_new_root_replaces_the_old_one(node, publisher):
    node.look()
    publisher.publish(TWO)

    assert node.look().root == TWO
    assert node.boot().root == TWO


def test_a_node_that_has_missed_three_rotations_catches_up(node, publisher):
    node.look()
    for _ in range(3):
        publisher.rotate()
    publisher.publish(TWO)

    state = node.look()

    assert (state.root, state.version) == (TWO, 4)


def test_a_new_node_follows_from_the_root_that_it_was_born_with(tmp_path, publisher):
    for _ in range(3):
        publisher.rotate()
    publisher.publish(TWO)

    assert Node(tmp_path, publisher).look().version == 4


def test_a_rotation_that_is_missing_stops_it_where_it_is(node, publisher):
    node.look()
    publisher.rotate()
    gap = publisher.file("2.root").read_bytes()
    publisher.online = CryptoSigner.generate_ecdsa()
    publisher.rotate()
    publisher.publish(TWO)
    publisher.file("2.root").unlink()

    state = node.look()

    assert state.root == ONE
    assert state.fault
    publisher.file("2.root").write_bytes(gap)
    assert node.look().root == TWO


def test_a_root_that_too_few_have_signed_is_refused(node, publisher):
    node.look()
    old = publisher.root_keys
    publisher.rotate(signers=[old[0]])
    publisher.publish(TWO)

    state = node.look()

    assert (state.root, state.version) == (ONE, 1)
    assert "UnsignedMetadataError" in state.fault


def test_a_root_by_strangers_alone_is_refused(node, publisher):
    node.look()
    publisher.root_keys = []
    publisher.rotate()
    publisher.online = CryptoSigner.generate_ecdsa()
    publisher.publish(TWO)

    assert node.look().root == ONE


def test_older_metadata_is_refused_also_after_a_restart(node, publisher):
    before = {path.name: path.read_bytes() for path in (publisher.path / "metadata").iterdir()}
    publisher.publish(TWO)
    assert node.look().root == TWO
    for name, content in before.items():
        (publisher.path / "metadata" / name).write_bytes(content)
    node.boot()

    state = node.look()

    assert state.root == TWO
    assert "BadVersionNumberError" in state.fault


@pytest.mark.parametrize(
    "content",
    [pytest.param(b'{"a": "%s"}' % (b"x" * (1 << 20)), id="large"), b"[]", b'{"a": 1, "a": 1}'],
)
def test_a_target_that_is_no_root_is_refused_although_it_is_signed(node, publisher, content):
    node.look()
    publisher.publish(content)

    state = node.look()

    assert state.root == ONE
    assert state.fault
    assert node.boot().root == ONE


@pytest.mark.parametrize("content", [b'{"root": 9}', ONE + b" ", b""])
def test_a_target_that_was_tampered_with_is_refused(node, publisher, content):
    node.look()
    name = publisher.publish(TWO)
    (publisher.path / "targets" / name).write_bytes(content)

    state = node.look()

    assert state.root == ONE
    assert state.fault
    (publisher.path / "targets" / name).write_bytes(TWO)
    assert node.look().root == TWO


def test_what_has_expired_is_an_alarm_and_the_old_root_is_kept(node, publisher):
    node.look()
    late = NOON + 31 * DAY

    state = node.look(late)

    assert state.root == ONE
    assert state.is_stale(late)
    assert "ExpiredMetadataError" in state.fault
    publisher.publish(TWO, now=late)
    assert node.look(late).root == TWO
    assert not node.tuf.state.is_stale(late)


def test_expiry_is_judged_by_known_time_and_not_by_the_clock(node, publisher):
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    publisher.rotate(now=long_ago)
    publisher.publish(TWO, now=long_ago)

    assert node.look(long_ago + DAY).root == TWO
    assert node.look(NOON).fault


def test_a_root_that_was_rotated_on_the_way_to_a_failure_stays_rotated(node, publisher):
    node.look()
    stolen, before = publisher.online, publisher.file("timestamp").read_bytes()
    publisher.online = CryptoSigner.generate_ecdsa()
    publisher.rotate()
    assert "UnsignedMetadataError" in node.look().fault  # the timestamp is still by the old key
    publisher.file("2.root").unlink()
    publisher.file("timestamp").write_bytes(before)
    publisher.online = stolen
    publisher.publish(TWO)
    node.boot()

    state = node.look()

    assert state.root == ONE
    assert state.fault


@pytest.mark.parametrize("cut", [0, 100, 1 << 30])
def test_what_is_kept_and_torn_starts_from_the_root_that_the_node_was_born_with(node, cut):
    node.look()
    raw = node.cache.read_bytes()
    node.cache.write_bytes(raw[:cut] if cut < len(raw) else b"null")

    assert node.boot().root is None
    assert node.look().root == ONE


def test_no_repository_no_bootstrap_no_disk_is_a_fault_and_nothing_more(node, publisher, tmp_path):
    assert node.look().root == ONE
    publisher.path.rename(tmp_path / "unplugged")
    state = node.look()
    assert state.root == ONE
    assert state.fault
    node.bootstrap.unlink()
    assert "No such file" in node.look().fault


def test_links_and_pipes_in_the_repository_are_not_followed(node, publisher, tmp_path):
    node.look()
    timestamp = publisher.file("timestamp")
    publisher.publish(TWO)
    (tmp_path / "elsewhere").write_bytes(timestamp.read_bytes())
    timestamp.unlink()
    timestamp.symlink_to(tmp_path / "elsewhere")
    assert node.look().fault
    timestamp.unlink()
    os.mkfifo(timestamp)
    assert node.look().fault
    assert node.tuf.state.root == ONE


def test_a_repository_that_says_the_same_costs_no_write(node):
    node.look()
    before = node.cache.stat()
    node.look()

    assert node.cache.stat().st_mtime_ns == before.st_mtime_ns
    assert node.cache.stat().st_ino == before.st_ino


def test_a_disk_that_is_full_keeps_the_root_in_memory(node, publisher):
    node.look()
    node.cache.unlink()
    node.cache.mkdir()
    publisher.publish(TWO)

    assert node.look().root == TWO


def test_the_child_has_given_up_all_but_the_repository_before_it_looks_at_it(node, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "repository" / "metadata" / "timestamp.json").unlink()
    (tmp_path / "repository" / "metadata" / "timestamp.json").symlink_to(tmp_path / "secret")
    (tmp_path / "scratch" / "metadata" / "root_history").mkdir(parents=True)
    request = {
        "repository": str(tmp_path / "repository"),
        "bootstrap": base64.b64encode(node.bootstrap.read_bytes()).decode(),
        "now": NOON.isoformat(),
    }
    ended = subprocess.run(
        [sys.executable, "-I", "-B", "-m", "linnet_agent.tuf_child", str(os.getpid())],
        input=json.dumps(request).encode(),
        capture_output=True,
        cwd=tmp_path / "scratch",
        env={"TMPDIR": str(tmp_path / "scratch")},
        check=True,
    )
    answer = json.loads(ended.stdout)

    assert {"landlock", "seccomp"} <= set(answer["layers"])
    assert "timestamp" in answer["fault"]


def test_the_agent_itself_never_imports_tuf():
    code = "import sys, linnet_agent.app; print('tuf' in sys.modules, 'sigstore' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert ended.stdout.split() == [b"False", b"False"]
