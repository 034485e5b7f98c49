"""A bed: a cluster, Prometheus, a registry, an operator, and N edge nodes on their network."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from linnet_testbed import files, network, ports, registry, tokens
from linnet_testbed.binaries import Binaries
from linnet_testbed.cluster import (
    Cluster,
    Connection,
    GoCluster,
    OfferedCluster,
    choose,
)
from linnet_testbed.errors import TestbedError, TestbedUnavailableError
from linnet_testbed.node import REGISTRY_HOST, Node
from linnet_testbed.objects import (
    AGENTS,
    LABEL,
    OWNED,
    SYSTEM,
    installation,
    labelled,
    node_object,
    node_status,
    unbound_lease,
)
from linnet_testbed.processes import Process, kill_marked, marked, python
from linnet_testbed.progress import Progress, Say
from linnet_testbed.settings import Settings
from linnet_testbed.state import State
from linnet_testbed.waiting import answers, until

_NODE_LINKS = ("api", "registry", "server-metrics", "agent-metrics")
_PORTS = ("prometheus", "registry", "operator", "operator.api", "operator.prometheus")
_CLUSTER_PORTS = ("kine", "api")


class Testbed:
    """A bed, by name. `up` makes or mends one, `attach` finds one, `down` leaves nothing."""

    __test__ = False  # the name is not a test class

    def __init__(self, state: State, settings: Settings, say: Say) -> None:
        self.state = state
        self.name = state.name
        self.directory = settings.directory(state.name)
        self._settings = settings
        self._say = say

    # -- life

    @classmethod
    def up(
        cls,
        name: str = "default",
        *,
        nodes: int | None = None,
        bare: bool | None = None,
        agents: bool | None = None,
        operator: bool | None = None,
        scrape_interval: str | None = None,
        heartbeat: str | None = None,
        ceiling: str | None = None,
        token_seconds: int | None = None,
        settings: Settings | None = None,
        say: Say | None = None,
    ) -> "Testbed":
        """Make the bed `name`, or mend it: what runs stays, what is missing is started.

        Args:
            name: Which bed; several live side by side.
            nodes: How many edge nodes; None keeps what there is.
            bare: Whether there is only a cluster, to be offered to another bed.
            agents: Whether the nodes' processes are started (their objects always are made).
            operator: Whether the operator is started.
            scrape_interval: Prometheus's scrape interval.
            heartbeat: The agents' heartbeat.
            ceiling: The text of each node's own trust.yaml; "" takes it away, None keeps it.
            token_seconds: The life of the nodes' tokens; they are renewed after a third of it.
            settings: Where things are kept, and which cluster is offered.
            say: Where progress goes.
        """
        settings = settings or Settings.from_environment()
        say = say or Progress()
        directory = settings.directory(name)
        with files.locked(directory, f"the testbed {name}", say=say):
            before = files.read_json(directory / "state.json")
            state = State.load(before) if before else State(name)
            if nodes is not None and nodes < state.nodes:
                raise TestbedError(
                    f"The testbed {name} has {state.nodes} nodes: take it down first to have fewer "
                    f"(linnet-testbed down --name {name})."
                )
            wanted = {
                "nodes": nodes,
                "bare": bare,
                "agents": agents,
                "operator": operator,
                "scrape_interval": scrape_interval,
                "heartbeat": heartbeat,
                "ceiling": ceiling,
                "token_seconds": token_seconds,
            }
            for key, value in wanted.items():
                if value is not None:
                    setattr(state, key, value)
            bed = cls(state, settings, say)
            try:
                bed._up()
            except TestbedError:
                if before is None and not marked(f"{directory}:"):
                    shutil.rmtree(directory)  # refused before anything began
                raise
        return bed

    @classmethod
    def attach(
        cls, name: str = "default", *, settings: Settings | None = None, say: Say | None = None
    ) -> "Testbed":
        """Return a bed that is up."""
        settings = settings or Settings.from_environment()
        before = files.read_json(settings.directory(name) / "state.json")
        if before is None:
            known = ", ".join(settings.names()) or "none"
            raise TestbedError(
                f"There is no testbed {name} (there are: {known}): linnet-testbed up --name {name}."
            )
        return cls(State.load(before), settings, say or Progress())

    @classmethod
    def remove(
        cls,
        name: str = "default",
        *,
        forget: bool = False,
        settings: Settings | None = None,
        say: Say | None = None,
    ) -> None:
        """Take a bed down, also one that never got far enough to be attached to."""
        settings, say = settings or Settings.from_environment(), say or Progress()
        directory = settings.directory(name)
        if files.read_json(directory / "state.json") is not None:
            cls.attach(name, settings=settings, say=say).down(forget=forget)
            return
        kill_marked(f"{directory}:")
        if directory.exists():
            shutil.rmtree(directory)
        say(f"there is no testbed {name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def down(self, *, forget: bool = False) -> None:
        """End all processes, remove what was made in an offered cluster, and the state directory.

        Args:
            forget: Leave an offered cluster as it is, where it does not answer any more.
        """
        if not self.directory.exists():
            return
        with files.locked(self.directory, f"the testbed {self.name}"):
            polite = [*(p for n in self.nodes for p in (n.agent, n.server)), self.operator]
            for process in polite:
                if process.pid is not None:
                    process.signal(signal.SIGCONT)
                    process.signal(signal.SIGTERM)
            if polite:
                self._wait_gone(polite, 3)
            if self.state.cluster == "offered" and not forget:
                self._clear_cluster()
            if not kill_marked(f"{self.directory}:"):
                raise TestbedError(f"Some processes of {self.name} do not die; see status.")
            shutil.rmtree(self.directory)
        self._say(f"the testbed {self.name} is down; nothing is left")

    # -- use

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def prometheus_url(self) -> str:
        """Prometheus, past the network."""
        return f"http://127.0.0.1:{self.state.ports['prometheus']}"

    @property
    def registry_url(self) -> str:
        """The registry, past the network."""
        return f"http://127.0.0.1:{self.state.ports['registry']}"

    @property
    def env(self) -> dict[str, str]:
        """What a command line on the host needs: the cluster, and where registry.testbed is."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "LINNET_REGISTRY_MIRRORS": f"{REGISTRY_HOST}={self.registry_url}",
        }

    @property
    def nodes(self) -> list[Node]:
        """All edge nodes."""
        return [Node(self, f"edge-{n}") for n in range(1, self.state.nodes + 1)]

    def node(self, name: str) -> Node:
        """Return one edge node."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise TestbedError(f"The testbed {self.name} has no node {name}.")

    @property
    def operator(self) -> Process:
        """The operator, with a token of its own service account, not an administrator's."""
        argv = python(
            "linnet_operator", "--kubeconfig", str(self.directory / "operator.kubeconfig")
        )
        argv += ["--prometheus", f"http://127.0.0.1:{self.state.ports['operator.prometheus']}"]
        argv += ["--metrics", f"127.0.0.1:{self.state.ports['operator']}"]
        argv += ["--lease-poll-s", "2", "--soak-s", "2"]  # a bed lives minutes, not months
        environment = {"LINNET_REGISTRY_MIRRORS": self.env["LINNET_REGISTRY_MIRRORS"]}
        port = self.state.ports["operator"]
        return Process("operator", self.directory, argv, port, environment, grace=10)

    @property
    def prometheus(self) -> Process:
        """The real Prometheus; it reaches the nodes through their network."""
        home = self.directory / "prometheus"
        argv = [
            self.state.programs["prometheus"],
            f"--config.file={home}/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            "--storage.tsdb.retention.time=7d",
            f"--web.listen-address=127.0.0.1:{self.state.ports['prometheus']}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]
        return Process("prometheus", self.directory, argv, self.state.ports["prometheus"])

    @property
    def registry(self) -> Process:
        """The real OCI registry."""
        argv = [self.state.programs["registry"], "serve", str(self.directory / "registry.yml")]
        return Process(
            "registry", self.directory, argv, self.state.ports["registry"], registry.ENVIRONMENT
        )

    @property
    def proxy(self) -> Process:
        """The network between nodes and everything else."""
        argv = python("linnet_testbed.daemon", "network", str(self.directory / "proxy.json"))
        return Process("proxy", self.directory, argv)

    @property
    def renewer(self) -> Process:
        """What renews tokens."""
        argv = python("linnet_testbed.daemon", "tokens", str(self.directory / "tokens.json"))
        return Process("tokens", self.directory, argv)

    @property
    def processes(self) -> list[Process]:
        """All processes that belong to this bed as it is configured."""
        found = self._cluster.processes
        if self.state.bare:
            return found
        found += [self.prometheus, self.registry, self.proxy, self.renewer]
        if self.state.operator:
            found.append(self.operator)
        if self.state.agents:
            found += [p for node in self.nodes for p in (node.server, node.agent)]
        return found

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl as the administrator and return what it says."""
        argv = [self._binaries.kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            said = f"no answer after {timeout:.0f} s"
        else:
            if not done.returncode:
                return done.stdout
            said = done.stderr.strip()
        raise TestbedError(f"kubectl {' '.join(arguments)}: {said}")

    def apply(self, objects: str | dict[str, Any] | Iterable[dict[str, Any]]) -> str:
        """Apply YAML or objects on the server; namespaces get the bed's label, for `down`."""
        if isinstance(objects, str):
            documents = [d for d in yaml.safe_load_all(objects) if d]
        else:
            documents = [objects] if isinstance(objects, dict) else list(objects)
        own = [d for d in documents if d["kind"] == "Namespace"]
        rest = [d for d in documents if d["kind"] != "Namespace"]
        said = self._apply(labelled(own, self.name)) if own else ""
        if rest:
            said += self._apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": rest}))
        return said

    def get(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON of any kind
        """Run `kubectl get ... -o json` and return the objects."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Ask Prometheus now, past the network."""
        data = urllib.parse.urlencode({"query": promql}).encode()
        request = urllib.request.Request(f"{self.prometheus_url}/api/v1/query", data)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return list(json.load(answer)["data"]["result"])

    def network(
        self, op: str, node: str | None, links: Iterable[str] = (), **more: object
    ) -> list[dict[str, Any]]:
        """Give the proxy an order: cut, restore, faults, reset or status, for a node's links.

        The operator's own links are those of the node `operator`: `api` and `prometheus`.
        """
        try:
            return network.order(
                self._proxy_socket, {"op": op, "node": node, "links": list(links), **more}
            )
        except (OSError, ValueError) as error:
            raise TestbedError(f"The network of {self.name} does not obey: {error}.") from None

    def status(self) -> list[dict[str, Any]]:
        """Return each process: name, pid, port, and whether it runs."""
        rows = []
        for process in self.processes:
            pid = process.pid
            state = "up" if pid else "down"
            rows.append({"name": process.name, "pid": pid, "port": process.port, "state": state})
        return rows

    # -- how

    @cached_property
    def _binaries(self) -> Binaries:
        return Binaries(self._settings.cache_home, self._say)

    @property
    def _proxy_socket(self) -> Path:
        return self.directory / "sock" / "proxy"

    @property
    def _cluster(self) -> Cluster:
        programs = self.state.programs

        def go() -> Cluster:
            return GoCluster(
                self.name,
                self.directory,
                self.state.ports,
                Path(programs.get("kube", "")),
                Path(programs.get("kine", "")),
            )

        def offered() -> Cluster:
            source, allowed = self._settings.kubeconfig, self._settings.allowed_contexts
            kubectl = self._binaries.kubectl()
            return OfferedCluster(self.name, self.directory, source, allowed, kubectl)

        return choose(self.state.cluster, self._settings, go, offered)

    def _up(self) -> None:
        say, state = self._say, self.state
        self._check_machine()
        self._take_programs()
        self._take_ports()
        cluster = self._cluster
        cluster.start(say)
        state.cluster = cluster.kind
        self._save()
        if state.bare:
            cluster.wait(say)
            say(f"the bare cluster {self.name} is up: export KUBECONFIG={self.kubeconfig}")
            return
        if cluster.kind == "offered":
            cluster.wait(say)
            self._check_offered()
        registry.write_configuration(
            self.directory / "registry.yml",
            root=self.directory / "registry",
            port=self.state.ports["registry"],
        )
        self._write_prometheus()
        for process in (self.registry, self.prometheus):
            process.refresh()
        self._start_proxy()
        if cluster.kind != "offered":
            cluster.wait(say)
        self._install()
        self._make_nodes()
        self._start_ours()
        self.registry.wait(lambda: answers(f"{self.registry_url}/v2/"), 20)
        self.prometheus.wait(lambda: answers(f"{self.prometheus_url}/-/ready"), 30)
        say(f"the testbed {self.name} is up: export KUBECONFIG={self.kubeconfig}")

    def _check_machine(self) -> None:
        if not Path("/proc/self/environ").exists() or not hasattr(os, "pidfd_open"):
            raise TestbedUnavailableError("The testbed runs on Linux 5.4 or newer only.")
        longest = self.directory / "sock" / "edge-1000"
        if len(str(longest)) > 107:
            raise TestbedUnavailableError(
                f"{self.directory} is too long for Unix sockets: set XDG_STATE_HOME shorter."
            )
        self._binaries.kubectl()

    def _take_programs(self) -> None:
        binaries, programs = self._binaries, self.state.programs
        if not self.state.bare:
            programs["prometheus"] = str(binaries.prometheus())
            programs["registry"] = str(binaries.registry())
        offered = self.state.cluster == "offered" or (
            self.state.cluster is None and self._settings.kubeconfig is not None
        )
        if not offered:
            programs["kine"] = str(binaries.kine())
            programs["kube"] = str(binaries.kube())

    def _take_ports(self) -> None:
        """Give every listener its port: the same as before, unless a stranger has it now."""
        names = [*_PORTS, *_CLUSTER_PORTS]
        owners = dict.fromkeys(("operator.api", "operator.prometheus"), "proxy")
        owners["api"] = "kube-apiserver"
        for node in self.nodes:
            for what in ("server", "agent"):
                names.append(f"{node.name}.{what}")
                owners[names[-1]] = names[-1]
            for link in _NODE_LINKS:
                names.append(f"{node.name}.proxy.{link}")
                owners[names[-1]] = "proxy"

        def keep(name: str) -> bool:
            return Process(owners.get(name, name), self.directory, []).pid is not None

        with files.locked(self._settings.state_home, "choosing ports"):
            avoid = ports.taken_by_others(self._settings.state_home, self.directory)
            self.state.ports = ports.assign(
                names, self.state.ports, keep, avoid, str(self.directory)
            )
            self._save()

    def _save(self) -> None:
        files.write_json(self.directory / "state.json", asdict(self.state))

    def _write_prometheus(self) -> None:
        home, given = self.directory / "prometheus", self.state.ports
        jobs: list[dict[str, Any]] = []
        for job in ("server", "agent"):
            targets = [
                {
                    "targets": [f"127.0.0.1:{given[f'{node.name}.proxy.{job}-metrics']}"],
                    "labels": {"node": node.name},
                }
                for node in self.nodes
            ]
            files.write_json(home / f"{job}.json", targets)
            jobs.append(
                {
                    "job_name": f"linnet-{job}",
                    "honor_labels": False,  # a server may not say which node it is
                    "file_sd_configs": [{"files": [str(home / f"{job}.json")]}],
                }
            )
        operator = {"targets": [f"127.0.0.1:{given['operator']}"]}
        jobs.append({"job_name": "linnet-operator", "static_configs": [operator]})
        every = self.state.scrape_interval
        configuration = {
            "global": {"scrape_interval": every, "scrape_timeout": every},
            "scrape_configs": jobs,
        }
        text = yaml.safe_dump(configuration)
        path = home / "prometheus.yml"
        if path.exists() and path.read_text() != text and self.prometheus.pid:
            self.prometheus.kill()
        files.write(path, text)

    def _start_proxy(self) -> None:
        connection = Connection.of(self.kubeconfig)
        given = self.state.ports
        targets: dict[str, tuple[str, int]] = {
            "api": (connection.host, connection.port),
            "registry": ("127.0.0.1", given["registry"]),
        }
        links = []
        for node in self.nodes:
            own = {
                f"{what}-metrics": ("127.0.0.1", given[f"{node.name}.{what}"])
                for what in ("server", "agent")
            }
            for link in _NODE_LINKS:
                listen = given[f"{node.name}.proxy.{link}"]
                target = (targets | own)[link]
                links.append({"node": node.name, "link": link, "listen": listen, "target": target})
        for link, target in (
            ("api", targets["api"]),
            ("prometheus", ("127.0.0.1", given["prometheus"])),
        ):
            listen = given[f"operator.{link}"]
            links.append({"node": "operator", "link": link, "listen": listen, "target": target})
        path = self.directory / "proxy.json"
        value = {"control": str(self._proxy_socket), "links": json.loads(json.dumps(links))}
        if files.read_json(path) != value:
            self.proxy.stop()  # new nodes; established connections are made again
            files.write_json(path, value)
        self._proxy_socket.parent.mkdir(parents=True, exist_ok=True)
        self.proxy.start()

    def _check_offered(self) -> None:
        """Refuse a cluster that holds a Linnet which is not this bed's."""
        listed = self.get("namespaces,nodes")["items"]
        names = {AGENTS, SYSTEM, *(node.name for node in self.nodes)}
        for item in listed:
            metadata = item["metadata"]
            owner = (metadata.get("labels") or {}).get(LABEL)
            if metadata["name"] in names and owner != self.name:
                whose = f"the testbed {owner}" if owner else "no testbed"
                raise TestbedError(
                    f"The offered cluster already has {item['kind']} {metadata['name']}, of "
                    f"{whose}: offer a cluster without Linnet."
                )

    def _install(self) -> None:
        """Apply CRDs, namespaces, roles and fences, each with the bed's label."""
        definitions, others = installation()
        self._apply(labelled(definitions, self.name))
        self._apply(labelled(others, self.name))
        names = [f"crd/{d['metadata']['name']}" for d in definitions]
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        paths = [f"/apis/linnet.dev/v1alpha1/{d['spec']['names']['plural']}" for d in definitions]
        until(lambda: all(self._lists(path) for path in paths), 60, "each kind can be listed")
        until(self._is_fenced, 60, "an agent's token that is bound to no node is refused")
        self._say("CRDs, roles and fences are in place")

    def _lists(self, path: str) -> bool:
        """Tell whether a kind's storage is there: for a second after Established it is not."""
        try:
            return bool(self.kubectl("get", "--raw", f"{path}?limit=1"))
        except TestbedError:
            return False

    def _is_fenced(self) -> bool:
        """Tell whether the admission policies have come into force, by trying."""
        agent = f"--as=system:serviceaccount:{AGENTS}:linnet-agent"
        lease = json.dumps(unbound_lease())
        try:
            self.kubectl("create", agent, "--dry-run=server", "-f", "-", stdin=lease)
        except TestbedError as error:
            return "ValidatingAdmissionPolicy" in str(error)
        return False

    def _make_nodes(self) -> None:
        """Make Node objects, directories and identities."""
        nodes = self.nodes
        authority = Connection.of(self.kubeconfig).authority
        wanted = []
        if nodes:
            objects = [node_object(node.name, number) for number, node in enumerate(nodes)]
            self._apply(labelled(objects, self.name))
            states = [node_status(node.name) for node in nodes]
            self._apply(labelled(states, self.name), "--subresource=status")
        for node in nodes:
            node.provision(self.state.ceiling or None, authority)
            path, life = str(node.token_file), self.state.token_seconds
            wanted.append(tokens.Token(AGENTS, "linnet-agent", path, life, node=node.name))
        path = str(self.directory / "operator.kubeconfig")
        server = f"https://127.0.0.1:{self.state.ports['operator.api']}"
        wanted.append(tokens.Token(SYSTEM, "linnet-operator", path, 86400, server=server))
        kubectl = self._binaries.kubectl()
        tokens.renew_all(kubectl, self.kubeconfig, wanted)
        before = files.read_json(self.directory / "tokens.json")
        tokens.save(self.directory / "tokens.json", kubectl, self.kubeconfig, wanted)
        if before != files.read_json(self.directory / "tokens.json"):
            self.renewer.stop()
        self.renewer.start()

    def _start_ours(self) -> None:
        """Start operator, servers and agents, and wait until each listens."""
        started = []
        if self.state.operator:
            self.operator.refresh()
            started.append(self.operator)
        if self.state.agents:
            for node in self.nodes:
                node.start()
                started += [node.server, node.agent]
        for process in started:
            process.wait(lambda port=process.port: ports.is_open(port or 0), 90)  # type: ignore[misc]  # mypy cannot type defaults of a lambda
        if started:
            self._say(f"{len(self.nodes) if self.state.agents else 0} nodes run")

    def _apply(self, text: str, *more: str) -> str:
        manager = ["--server-side", "--force-conflicts", "--field-manager=linnet-testbed"]
        return self.kubectl("apply", *manager, *more, "-f", "-", stdin=text)

    def _clear_cluster(self) -> None:
        """Remove everything with the bed's label from an offered cluster."""
        self._say("removing what this bed made in the offered cluster")
        try:
            self.kubectl(
                "delete",
                ",".join(OWNED),
                "-l",
                f"{LABEL}={self.name}",
                "--timeout=90s",
                timeout=120,
            )
        except TestbedError as error:
            raise TestbedError(
                f"{error}\nThe offered cluster still holds objects labelled {LABEL}={self.name}: "
                "run down again, or down --forget to leave them there."
            ) from None

    @staticmethod
    def _wait_gone(processes: list[Process], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(p.pid for p in processes):
            time.sleep(0.05)
