"""One node without a hub: a real agent, a real server, a real registry; its orders are on its disk.

No API server: an agent must finish what it has begun without one, and that is what is killed here.
"""

import contextlib
import copy
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from linnet_agent.journal import Goal
from linnet_agent.store import ModelKey, Store
from linnet_agent.verify.directory import hash_directory
from linnet_api.reasons import NodeState
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model
from linnet_testbed import ports

KEY = ModelKey("factory", "digits")
HOST = "registry.testbed"
KILLED = 137
"""What an agent ends with that dies at a named step."""


def wait_until(condition, *, what, timeout_s=120.0):
    """Return the first true answer; a condition that never holds fails with its name."""
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what()}"
        pause.wait(0.02)
    return answer


def stop(process, number=signal.SIGKILL):
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(timeout=30)


def build_model(directory, factor, *, padding_bytes=0, odd_rows_fail=False):
    """Write a model that multiplies by ``factor``; it may fail on an odd number of rows."""
    directory.mkdir(parents=True)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.array(factor, "f4"), "factor")]
    if padding_bytes:
        noise = np.random.default_rng(int(factor)).random(padding_bytes // 8)
        constants.append(numpy_helper.from_array(noise, "padding"))
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y" if not odd_rows_fail else "z"])]
    if odd_rows_fail:
        constants.append(numpy_helper.from_array(np.array([2, -1], "i8"), "pairs"))
        nodes.append(helper.make_node("Reshape", ["z", "pairs"], ["y"]))
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    wanted = [2 * factor, 4 * factor]
    golden = {
        "inputs": {"x": {"datatype": "FP32", "shape": [2], "data": [2, 4]}},
        "outputs": {
            "y": {"datatype": "FP32", "shape": [2, 1] if odd_rows_fail else [2], "data": wanted}
        },
    }
    (directory / "golden.json").write_text(json.dumps(golden))
    (directory / "labels").mkdir()
    (directory / "labels" / "labels.txt").write_text(f"times {factor}\n")


class Publisher:
    """Builds, signs and pushes models."""

    def __init__(self, directory, registry):
        self._directory = directory
        self._private, public = generate_key()
        self.public = public.decode()
        self.mirror = f"{HOST}={registry}"
        self._mirrors = {HOST: registry}
        self._done = {}

    def build(self, directory, factor, **more):
        """Write a model that multiplies by ``factor``."""
        build_model(directory, factor, **more)

    def offline(self):
        """The same publisher, whose registry nobody reaches."""
        other = copy.copy(self)
        other.mirror = f"{HOST}=http://127.0.0.1:9"
        return other

    def publish(self, name, factor, *, counter=1, **more):
        if name not in self._done:
            directory = self._directory / name
            self.build(directory, factor, **more)
            bundle = sign_model(
                directory, model="factory/digits", counter=counter, private_key_pem=self._private
            )
            source = f"oci://{HOST}/models/digits:{name}"
            digest = push_model(directory, to=source, bundle=bundle, mirrors=self._mirrors)
            self._done[name] = (source, digest)
        return self._done[name]


class Node:
    """A node's directory, and the two processes that work on it."""

    def __init__(self, home, publisher, root=None, *, runtime="Linnet", socket=None):
        self.home = home
        self.runtime = runtime
        self.root = root or home / "root"
        self.publisher = publisher
        self.port = ports.any_free()
        self.socket = socket or home / "server.sock"
        self.server = self.agent = None
        self.log = home / "steps"
        home.mkdir(exist_ok=True)
        for name in ("trust", "desired"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.set_policy()

    def policy(self, **revoked):
        key = {"name": "release", "key": {"publicKeyPEM": self.publisher.public}}
        return {"authorities": [key], **({"revoked": revoked} if revoked else {})}

    def set_policy(self, **revoked):
        """Write the policies, as the agent itself keeps them."""
        found = {"release": self.policy(**revoked)}
        (self.root / "trust" / "policies.json").write_text(json.dumps(found))

    def revoke(self, *names, **more):
        """Let the policies revoke some models' artifacts."""
        self.set_policy(digests=[self.publisher.publish(*name)[1] for name in names], **more)

    def flip_a_bit(self, revision):
        """Let a revision's weights rot."""
        weights = self.directory.revision_path(revision) / "model" / "model.onnx"
        weights.chmod(0o644)
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        weights.chmod(0o444)

    def order(self, name, factor, *, sequence, baseline=None, goal=Goal.ACTIVE, soak_s=0, **more):
        """Write an order into desired/, as the agent itself keeps it, and return its revision."""
        source, digest = self.publisher.publish(name, factor, counter=sequence, **more)
        revision = revision_of(digest)
        spec = {
            "deployment": KEY.deployment,
            "node": {"name": "edge-1", "uid": "n1"},
            "sequence": sequence,
            "desired": {
                "state": str(goal),
                "revision": revision,
                "number": sequence,
                "source": source,
                "artifact": digest,
                "serving": {"name": "digits", "runtime": self.runtime},
            },
            "soak": {"seconds": soak_s},
        }
        if baseline is not None:
            digest = self.publisher.publish(*baseline)[1]
            spec["baseline"] = {"revision": revision_of(digest), "artifact": digest}
        item = {
            "metadata": {"namespace": KEY.namespace, "name": "digits-1", "generation": sequence},
            "spec": spec,
        }
        (self.root / "desired" / f"{KEY}.json").write_text(json.dumps(item))
        return revision

    def set_clock(self, told):
        """Let the agent's clock stand at a time, or be wrong by ``+SECONDS``."""
        (self.home / "clock").write_text(told)

    def start_server(self):
        self.server = self._start(
            "linnet_server", "--http", f"127.0.0.1:{self.port}", "--control", self.socket
        )

    def start_agent(self, *, crash_at=None, mutant=None, tracer=(), flags=()):
        """Start the agent, with more ``flags``; ``tracer`` is a command line that runs it."""
        log = self.home / "agent.log"
        self._log_from = log.stat().st_size if log.exists() else 0
        child = Path(__file__).parent.with_name("agent_child.py")
        self.agent = self._start(
            child,
            *("--node", "edge-1", "--api-server", "http://127.0.0.1:9"),
            *("--server-socket", self.socket, "--metrics", "127.0.0.1:0"),
            *("--registry-mirror", self.publisher.mirror, "--retry-max", "500ms"),
            *("--ceiling", self.home / "none", "--heartbeat", "5s"),
            *flags,
            tracer=tracer,
            LINNET_CRASH_AT=crash_at,
            LINNET_CRASH_MUTANT=mutant,
            LINNET_CRASH_TRACED="1" if tracer else None,
            LINNET_CRASH_CLOCK=self.home / "clock",
        )
        return self.agent

    def wait_started(self):
        """Return when the agent that was started last has read its journals."""

        def started():
            with (self.home / "agent.log").open() as log:
                log.seek(self._log_from)
                return "agent.model.resumed" in log.read()

        wait_until(started, what=self.tail)

    def _start(self, what, *flags, tracer=(), **environment):
        program = ["-m", what] if isinstance(what, str) else [what]
        environment |= {"LINNET_CRASH_LOG": self.log, "PATH": os.defpath}
        name = what if isinstance(what, str) else "agent"
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*tracer, sys.executable, *map(str, [*program, "--root", self.root, *flags])],
                stdout=log,
                stderr=log,
                env={key: str(value) for key, value in environment.items() if value is not None},
            )

    def stop(self):
        for process in (self.agent, self.server):
            if process is not None:
                stop(process)

    @property
    def directory(self):
        return Store(self.root).model(KEY)

    def journal(self):
        with contextlib.suppress(ValueError):
            return self.directory.read_journal()

    def state(self):
        journal = self.journal()
        return None if journal is None else journal.state

    def is_at(self, state, revision):
        """Tell whether the journal says that the node is where the order wants it."""
        journal = self.journal()
        return (
            journal is not None
            and journal.state is state
            and journal.order is not None
            and journal.order.revision == revision
        )

    def said(self, error):
        """Tell whether the agent has named an error of the system since it was made."""
        words = os.strerror(getattr(errno, error))
        return words in (self.home / "agent.log").read_text()

    def wait_state(self, state, revision, *, timeout_s=60.0, poke=lambda: None):
        def reached():
            assert self.agent.poll() is None, self.tail()
            poke()
            return self.is_at(state, revision)

        wait_until(
            reached, what=lambda: f"{state}: {self.journal()} {self.tail()}", timeout_s=timeout_s
        )

    def wait_reason(self, reason, revision):
        def told():
            journal = self.journal()
            return journal.reason is reason and journal.order.revision == revision

        wait_until(told, what=lambda: f"{reason}: {self.journal()} {self.tail()}")

    def wait_active(self, revision, **more):
        self.wait_state(NodeState.ACTIVE, revision, **more)

    def passed(self):
        return self.log.read_text().split() if self.log.exists() else []

    def wait_passed(self, step):
        wait_until(lambda: step in self.passed(), what=lambda: f"{step}: {self.tail()}")

    def answer(self, value=1.0):
        """Ask the server; return the answer's number, and the revision that gave it."""
        response = self.ask([value])
        assert response.status_code == 200, response.text
        body = response.json()
        return body["outputs"][0]["data"][0], body["parameters"]["revision"]

    def ask_if_served(self, values):
        """Ask; a server that is still starting is no matter."""
        with contextlib.suppress(httpx.HTTPError):
            self.ask(values)

    def ask(self, values):
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}
        return httpx.post(
            f"http://127.0.0.1:{self.port}/v2/models/digits/infer",
            json={"inputs": [tensor]},
            trust_env=False,
        )

    def is_whole(self):
        """Tell whether what is current is complete and verified, file by file, or nothing is."""
        current = self.directory.read_current()
        if current is None:
            return True
        record = self.directory.read_records()[current]
        files = hash_directory(Store(self.root).path_of(record.model_digest))
        evidence = self.directory.read_evidence(current)
        return files == {layer.name: layer.digest for layer in evidence.layers}

    def assert_rule_2(self, *, rotten=None):
        """What is current is whole; ``rotten`` may be current until the agent has seen it."""
        current = self.directory.read_current()
        assert (rotten is not None and current == rotten) or self.is_whole(), f"rule 2: {current}"

    def assert_rule_3(self, baseline):
        """The baseline is complete on the disk."""
        if baseline is not None:
            assert baseline in self.directory.read_records(), f"rule 3: {baseline} is gone"

    def litter(self, goes=()):
        """Return what no kill may leave for good, and what is left of the models that ``goes``."""
        left = [
            Path(directory, name)
            for directory, directories, files in os.walk(self.root)  # it goes on where one goes
            for name in (*directories, *files)
            if name.startswith((".linnet-tmp-", ".trash-"))
        ]
        gone = {revision_of(self.publisher.publish(*name)[1]) for name in goes}
        records = self.directory.read_records()
        store = {record.model_digest.removeprefix("sha256:") for record in records.values()}
        left += [path for path in (self.root / "store").glob("*") if path.name not in store]
        return [*left, *(self.root / "staging").glob("*"), *(gone & records.keys())]

    def wait_tidy(self):
        """Return when the agent, which evicts after it has settled, has left nothing behind."""
        wait_until(lambda: not self.litter(), what=lambda: f"{self.litter()} {self.tail()}")

    def tail(self):
        path = self.home / "agent.log"
        return "\n".join(path.read_text().splitlines()[-12:]) if path.exists() else ""


def revision_of(digest):
    return hashlib.sha256(digest.encode()).hexdigest()[:10]
