"""Fetch, verify and stage: the agent's own code beside the least that anyone must do.

- The agent: resolve the tag, fetch manifest and bundles, verify, fetch all files, hash while
  writing, fsync files and directories, move the directory into the store.
- ``http``: GET the same blobs from the same registry one after the other over one connection, hash
  each chunk of 1 MiB, write it, fsync each file. No manifest, no signature, no resume.
- ``copy``: the same from files on this disk, without a registry.
- Each run is a process of its own; what is counted begins after its imports and ends when the last
  byte is durable. The registry's CPU is not counted.
"""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from bench.agent.measuring import Cost, Line, SkippedError, in_turns, write_model
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model
from linnet_testbed.registry import running_registry

HOST = "registry.testbed"
SOURCE = f"oci://{HOST}/models/bench:1"
TRACED = (
    "read,pread64,readv,preadv,preadv2,recvfrom,recvmsg,recvmmsg,"
    "splice,sendfile,copy_file_range,mmap"
)
_MAX_TRACED = 256 << 20


def measure(scratch, *, size, runs):
    with _published(scratch, size=size) as spec:
        names = ("agent", "http", "copy")
        costs = in_turns({name: lambda name=name: _run(name, spec) for name in names}, runs=runs)
    agent, http, copy = (costs[name] for name in names)
    return [
        *(
            Line(f"fetch: {what}", cost.seconds, "s", note=f"CPU {cost.cpu_s:.2f} s")
            for what, cost in (
                ("fetch, verify and stage", agent),
                ("hash while copying over HTTP, fsync", http),
                ("hash while copying a file, fsync", copy),
            )
        ),
        Line("fetch: time against copying over HTTP", agent.seconds / http.seconds, "x", 1.5),
        Line("fetch: CPU against copying over HTTP", agent.cpu_s / http.cpu_s, "x", 1.2),
        Line("fetch: time against copying a file", agent.seconds / copy.seconds, "x"),
        Line("fetch: peak memory of the process", agent.peak_mib, "MiB"),
    ]


def count_reads(scratch, *, size, runs):
    """Count with strace what is read from sockets and from the model's files."""
    del runs
    if shutil.which("strace") is None:
        raise SkippedError("there is no strace")
    size = min(size, _MAX_TRACED)
    trace = scratch / "trace"
    with _published(scratch, size=size) as spec:
        command = ["strace", "-f", "-yy", "-s", "0", "-o", trace, "-e", f"trace={TRACED}"]
        done = subprocess.run(
            [*command, *_child("agent", spec)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SkippedError(f"strace: {done.stderr.strip()[-200:]}")
        target = spec["target"]
    sockets, files, mapped = tally(trace.read_text().splitlines(), below=str(target))
    if sockets < size:
        raise RuntimeError(f"strace has seen {sockets} of {size} bytes: some calls are not counted")
    return [
        Line("reads: bytes of the model", size, "bytes"),
        Line("reads: from the registry's socket", sockets, "bytes", 1.01 * size),
        Line("reads: of the written files, again", files + mapped, "bytes", 0),
    ]


_CALL = re.compile(r"^\d+ +(\w+)\((.*)= (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


def tally(lines, *, below):
    """Return the bytes that were read from TCP sockets, from files below a path, and mapped."""
    sockets = files = mapped = 0
    begun = {}
    for line in lines:
        if found := _UNFINISHED.match(line):
            begun[found.group(1)] = f"{found.group(1)} {found.group(2)}({found.group(3)}"
            continue
        resumed = _RESUMED.match(line)
        whole = begun.pop(resumed.group(1), "") + resumed.group(3) if resumed else line
        found = _CALL.match(whole)
        if found is None or int(found.group(3)) <= 0:
            continue
        name, arguments, count = found.group(1), found.group(2), int(found.group(3))
        if name == "mmap":
            if f"<{below}" in arguments:
                mapped += int(arguments.split(", ")[1])
        elif re.match(r"\d+<TCP", arguments):
            sockets += count
        elif re.match(rf"\d+<{re.escape(below)}", arguments):
            files += count
    return sockets, files, mapped


@contextmanager
def _published(scratch, *, size):
    model = write_model(scratch / "model", size=size)
    private, public = generate_key()
    bundle = sign_model(model, model="bench/model", counter=1, private_key_pem=private)
    (scratch / "registry").mkdir()
    with running_registry(scratch / "registry") as url:
        digest = push_model(model, to=SOURCE, bundle=bundle, mirrors={HOST: url})
        target = (scratch / "target").resolve()
        yield {
            "source": SOURCE,
            "digest": digest,
            "mirrors": {HOST: url},
            "url": url,
            "key": public.decode(),
            "model": str(model),
            "target": str(target),
        }


def _run(name, spec):
    shutil.rmtree(spec["target"], ignore_errors=True)
    done = subprocess.run(_child(name, spec), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    return Cost(**json.loads(done.stdout))


def _child(name, spec):
    return [sys.executable, Path(__file__).with_name("fetch_child.py"), name, json.dumps(spec)]
