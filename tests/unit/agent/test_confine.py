"""What a confined process cannot do, tried from inside one; each test starts its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from linnet_agent.confine import read_status

pytestmark = pytest.mark.slow

ATTEMPT = """
import json, os, sys
from pathlib import Path
{before}
from linnet_agent import confine
readable = [sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/proc/self", sys.argv[1]]
readable = [Path(path) for path in (*readable, *sys.path)]
layers = confine.confine(parent={parent}, readable=readable, cpu_s={cpu_s}{more})
import ctypes, resource, signal, socket, subprocess, threading
try:
    said = {attempt}
except OSError as error:
    said = error.strerror or str(error)
sys.stdout.write(json.dumps([layers, said]))
"""


def run(attempt, *, directory, before="", cpu_s=60, parent="os.getppid()", more=""):
    code = ATTEMPT.format(attempt=attempt, before=before, cpu_s=cpu_s, parent=parent, more=more)
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", code, str(directory)],
        capture_output=True,
        env=environment,
        check=False,
    )


def answer(attempt, **more):
    done = run(attempt, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "file").write_text("content")
    (tmp_path / "token").write_text("secret")
    return directory


FORBIDDEN = {
    "a socket": "str(socket.socket())",
    "a socket of the machine's own": "str(socket.socket(socket.AF_UNIX))",
    "a ring that makes sockets": "ctypes.CDLL(None).syscall(425, 1, None) == -1 or 'made'",
    "a fork": "os.fork()",
    "another program": "subprocess.run(['/usr/bin/true']).returncode",
    "a signal to its parent": "os.kill(os.getppid(), 0)",
    "its parent's limits": "str(resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9)))",
    "its parent's environment": "Path(f'/proc/{os.getppid()}/environ').read_text()",
    "its parent's memory": "str(open(f'/proc/{os.getppid()}/mem', 'rb'))",
    "a file beside the model": "(Path(sys.argv[1]).parent / 'token').read_text()",
    "a new file": "str((Path(sys.argv[1]) / 'new').write_text('x'))",
    "the model's file, to write": "str(open(Path(sys.argv[1]) / 'file', 'r+'))",
    "the model's file, to remove": "os.unlink(Path(sys.argv[1]) / 'file')",
    "the model's file, to rename": "os.rename(Path(sys.argv[1]) / 'file', Path(sys.argv[1]) / 'b')",
    "the model's file, to cut": "os.truncate(Path(sys.argv[1]) / 'file', 0)",
    "the model's file, to change its mode": "os.chmod(Path(sys.argv[1]) / 'file', 0o777)",
    "a link": "os.symlink('/etc/passwd', Path(sys.argv[1]) / 'link')",
    "a namespace": "ctypes.CDLL(None).unshare(0x10000000) == -1 or 'made'",
}
REFUSALS = {"Operation not permitted", "Permission denied", True}


@pytest.mark.parametrize("attempt", [pytest.param(v, id=k) for k, v in FORBIDDEN.items()])
def test_what_a_confined_process_cannot_have(model, attempt):
    layers, said = answer(attempt, directory=model)

    assert {"landlock", "seccomp"} <= set(layers)
    assert said in REFUSALS
    assert (model / "file").read_text() == "content"
    assert sorted(path.name for path in model.iterdir()) == ["file"]


ALLOWED = {
    "the model's file, to read": "(Path(sys.argv[1]) / 'file').read_text() == 'content'",
    "a thread": "[t.start() or t.join() for t in [threading.Thread(target=lambda: 0)]] == [None]",
    "a signal to itself": "signal.raise_signal(signal.SIGCONT) is None",
    "memory": "len(bytes(64 << 20)) == 64 << 20",
    "a module that was not imported yet": "bool(__import__('decimal'))",
}


@pytest.mark.parametrize("attempt", [pytest.param(v, id=k) for k, v in ALLOWED.items()])
def test_what_a_confined_process_still_has(model, attempt):
    assert answer(attempt, directory=model)[1] is True


SCRATCH = ", scratch=Path(sys.argv[1]), file_bytes=1000"
IN_SCRATCH = {
    "a file made, changed, moved, cut and removed": (
        "[(d := Path(sys.argv[1])), (d / 'sub').mkdir(), (d / 'a').write_text('x' * 1000), "
        "(d / 'a').rename(d / 'sub' / 'b'), os.truncate(d / 'sub' / 'b', 1), "
        "(d / 'link').symlink_to('sub/b'), (d / 'sub' / 'b').unlink()] and True"
    ),
    "a file beside it": "(Path(sys.argv[1]).parent / 'new').write_text('x')",
    "a file moved out of it": "(Path(sys.argv[1]) / 'file').rename(Path(sys.argv[1]).parent / 'b')",
    "another's file": "(Path(sys.argv[1]).parent / 'token').read_text()",
    "a file that is too large": "(Path(sys.argv[1]) / 'a').write_text('x' * 1001)",
    "a file for everybody": "(Path(sys.argv[1]) / 'file').chmod(0o777)",
}


@pytest.mark.parametrize("attempt", [pytest.param(v, id=k) for k, v in IN_SCRATCH.items()])
def test_a_scratch_directory_is_all_that_can_be_written(model, attempt):
    layers, said = answer(attempt, directory=model, more=SCRATCH)

    assert {"landlock", "seccomp"} <= set(layers)
    good = attempt == next(iter(IN_SCRATCH.values()))
    assert said is True if good else said in REFUSALS | {"File too large"}
    assert sorted(path.name for path in model.parent.iterdir()) == ["model", "token"]


def test_root_is_nobody_inside(model):
    layers, said = answer("os.stat('/proc/self').st_uid", directory=model)

    assert said == 65534 or "user namespace" not in layers


def test_no_interface_is_up(model):
    layers, said = answer("Path('/proc/self/net/dev').read_text()", directory=model)

    interfaces = [line.split(":")[0].strip() for line in said.splitlines()[2:]]
    assert interfaces in ([], ["lo"]) or "network namespace" not in layers


def test_where_no_layer_can_be_had_python_refuses_sockets(model):
    before = (
        "import linnet_agent.confine as c; c._leave_namespaces = lambda **_: (); "
        "c._filter_calls = lambda: False"
    )
    layers, said = answer("str(socket.socket())", directory=model, before=before)

    assert layers == ["landlock", "audit hook"]
    assert said == "this process has no network"


def test_a_process_whose_parent_is_gone_ends(model):
    done = run("1", directory=model, parent="os.getppid() + 1")

    assert done.returncode == 1
    assert done.stdout == b""


def test_cpu_time_is_bounded(model):
    done = run("[0 for _ in iter(int, 1)]", directory=model, cpu_s=1)

    assert done.returncode == -24  # SIGXCPU


def test_private_memory_is_bounded_and_addresses_are_not(model):
    attempt = (
        "(confine.limit_data(64 << 20), __import__('mmap').mmap(-1, 4 << 30, prot=0), "
        "[0 for _ in [0] if bytes(1)]) and 'reserved'"
    )
    assert answer(attempt, directory=model)[1] == "reserved"

    done = run("confine.limit_data(64 << 20) or len(bytearray(256 << 20))", directory=model)
    assert b"MemoryError" in done.stderr


def test_what_it_reads_of_itself_is_what_the_kernel_says():
    assert 1 << 20 < read_status("VmRSS") <= read_status("VmHWM")
    with pytest.raises(KeyError):
        read_status("VmNone")
    assert Path("/proc/self/status").exists()
