import hashlib
import os
import stat
from pathlib import Path

import pytest

from linnet_agent.errors import ContentRefusedError
from linnet_agent.verify.directory import hash_directory, hash_file, verify_directory
from linnet_agent.verify.oms import parse_statement


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "model.onnx").write_bytes(b"weights")
    (root / "sub" / "empty").write_bytes(b"")
    for path in (root / "model.onnx", root / "sub" / "empty"):
        path.chmod(0o444)
    return root


@pytest.fixture
def statement(workshop, model):
    return parse_statement(workshop.statement(hash_directory(model)))


def test_a_directory_that_is_what_was_signed_passes(model, statement):
    verify_directory(model, statement)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda m: (m / "extra").write_bytes(b""), id="an extra file"),
        pytest.param(
            lambda m: [(m / ".git").mkdir(), (m / ".git" / "x").write_bytes(b"")],
            id="an extra file below .git",
        ),
        pytest.param(lambda m: (m / "sub" / "empty").unlink(), id="a missing file"),
        pytest.param(
            lambda m: [(m / "model.onnx").chmod(0o644), (m / "model.onnx").write_bytes(b"evil")],
            id="changed bytes",
        ),
        pytest.param(
            lambda m: [(m / "model.onnx").unlink(), (m / "model.onnx").symlink_to("/etc/hosts")],
            id="a link instead of a file",
        ),
        pytest.param(lambda m: (m / "link").symlink_to(m / "sub"), id="a link to a directory"),
        pytest.param(lambda m: os.link(m / "model.onnx", m.parent / "other"), id="a hard link"),
        pytest.param(lambda m: (m / "model.onnx").chmod(0o4755), id="setuid"),
        pytest.param(lambda m: (m / "model.onnx").chmod(0o466), id="others may write"),
        pytest.param(lambda m: os.mkfifo(m / "pipe"), id="a FIFO"),
        pytest.param(lambda m: os.mknod(m / "socket", stat.S_IFSOCK | 0o600), id="a socket"),
        pytest.param(lambda m: (m / "Model.ONNX").write_bytes(b""), id="equal but for case"),
        pytest.param(lambda m: (m / "extra").mkdir(), id="an extra directory"),
        pytest.param(lambda m: (m / "sub").chmod(0o777), id="a directory that others may write"),
    ],
)
def test_a_directory_that_is_not_what_was_signed_is_refused(model, statement, attack):
    attack(model)

    with pytest.raises(ContentRefusedError):
        verify_directory(model, statement)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_in_a_model_is_refused_and_never_opened(model, statement, kind):
    try:
        os.mknod(model / "device", kind | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this root can make no devices")

    with pytest.raises(ContentRefusedError, match="not a plain file"):
        verify_directory(model, statement)


def test_the_root_itself_may_not_be_a_link(model, tmp_path):
    (tmp_path / "link").symlink_to(model)

    with pytest.raises(OSError, match="link"):
        hash_directory(tmp_path / "link")


def test_nesting_is_bounded(tmp_path):
    deep = tmp_path
    for _ in range(70):
        deep = deep / "d"
    deep.mkdir(parents=True)

    with pytest.raises(ContentRefusedError, match="deeper"):
        hash_directory(tmp_path)


def test_a_publishers_umask_does_not_matter_but_a_nodes_does(model):
    (model / "model.onnx").chmod(0o664)

    assert hash_directory(model, private=False)
    with pytest.raises(ContentRefusedError, match="mode"):
        hash_directory(model)


def test_one_file_has_the_same_digest_alone_and_in_a_directory(model):
    assert hash_file(model / "model.onnx") == hash_directory(model)["model.onnx"]


@pytest.fixture
def after_first_read(monkeypatch):
    """Do something as soon as the first bytes of a file have been read."""
    read = os.readv

    def arm(name, act):
        armed = [act]

        def readv(file, buffers):
            count = read(file, buffers)
            if armed and Path(f"/proc/self/fd/{file}").readlink().name == name:
                armed.pop()()
            return count

        monkeypatch.setattr(os, "readv", readv)

    return arm


def _swap(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.chmod(0o444)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda m: _swap(m / "a"), id="a hashed file swapped while another is read"),
        pytest.param(lambda m: _swap(m / "model.onnx"), id="the file that is being read swapped"),
        pytest.param(lambda m: (m / "late").write_bytes(b""), id="a file that comes late"),
        pytest.param(lambda m: (m / "a").unlink(), id="a file that goes"),
        pytest.param(
            lambda m: [(m / "model.onnx").chmod(0o644), (m / "model.onnx").write_bytes(b"x" * 7)],
            id="written to, size kept",
        ),
        pytest.param(lambda m: os.truncate(m / "a", 6), id="an earlier file grows"),
        pytest.param(lambda m: os.link(m / "a", m.parent / "other"), id="a new hard link"),
    ],
)
@pytest.mark.parametrize("private", [True, False])
def test_what_changes_while_it_is_hashed_is_noticed(model, after_first_read, attack, private):
    (model / "a").write_bytes(b"first")
    (model / "a").chmod(0o644)
    after_first_read("model.onnx", lambda: attack(model))

    with pytest.raises((ContentRefusedError, FileNotFoundError)):
        hash_directory(model, private=private)


def test_many_files_are_hashed_as_hashlib_hashes_them(tmp_path):
    contents = {f"d{index % 7}/f{index}": os.urandom(index * 997) for index in range(300)}
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    before = len(list(Path("/proc/self/fd").iterdir()))

    found = hash_directory(tmp_path)

    assert found == {
        name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    assert len(list(Path("/proc/self/fd").iterdir())) == before
