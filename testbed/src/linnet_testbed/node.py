"""An edge node of a bed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from linnet_testbed import files
from linnet_testbed.processes import Process, python
from linnet_testbed.state import State

REGISTRY_HOST = "registry.testbed"


class Bed(Protocol):
    """What a node needs of its bed."""

    state: State
    directory: Path

    def network(
        self, op: str, node: str | None, links: Iterable[str] = (), **more: object
    ) -> list[dict[str, Any]]:
        """Give the network an order."""


class Node:
    """One edge node: agent, server, directory, identity, and a network that can be lost."""

    def __init__(self, bed: Bed, name: str) -> None:
        self._bed = bed
        self.name = name

    @property
    def home(self) -> Path:
        """Where everything of this node lies."""
        return self._bed.directory / "nodes" / self.name

    @property
    def root(self) -> Path:
        """The agent's root directory, /var/lib/linnet on a real node."""
        return self.home / "root"

    @property
    def etc(self) -> Path:
        """What was provisioned with the machine: token, ca.crt, trust.yaml."""
        return self.home / "etc"

    @property
    def media(self) -> Path:
        """Where sticks are mounted: what ``file://`` sources may lie below."""
        return self.home / "media"

    @property
    def token_file(self) -> Path:
        """The service account token that is bound to this Node."""
        return self.etc / "token"

    @property
    def server_url(self) -> str:
        """The server's address, for clients on the node's own site."""
        return f"http://127.0.0.1:{self._port('server')}"

    @property
    def agent_metrics_url(self) -> str:
        """The agent's metrics, past the network."""
        return f"http://127.0.0.1:{self._port('agent')}/metrics"

    @property
    def api_url(self) -> str:
        """The API server as this node reaches it."""
        return f"https://127.0.0.1:{self._port('api')}"

    @property
    def registry_url(self) -> str:
        """The registry as this node reaches it."""
        return f"http://127.0.0.1:{self._port('registry')}"

    @property
    def socket(self) -> Path:
        """The server's control socket (a short path: sockets have room for 107 characters)."""
        return self._bed.directory / "sock" / self.name

    @property
    def server(self) -> Process:
        """Its `linnet-server`."""
        argv = python("linnet_server", "--root", str(self.root))
        argv += ["--http", f"127.0.0.1:{self._port('server')}", "--control", str(self.socket)]
        return Process(
            f"{self.name}.server",
            self._bed.directory,
            argv,
            self._port("server"),
            {"OMP_NUM_THREADS": "1"},
        )

    @property
    def agent(self) -> Process:
        """Its `linnet-agent`."""
        argv = python("linnet_agent", "--root", str(self.root), "--node", self.name)
        argv += ["--api-server", self.api_url, "--token-file", str(self.token_file)]
        argv += ["--ca-file", str(self.etc / "ca.crt"), "--server-socket", str(self.socket)]
        argv += ["--metrics", f"127.0.0.1:{self._port('agent')}"]
        argv += ["--registry-mirror", f"{REGISTRY_HOST}={self.registry_url}"]
        mirrors = self.etc / "mirrors"  # host=url, one a line: what a test provisions besides
        for mirror in mirrors.read_text().split() if mirrors.exists() else ():
            argv += ["--registry-mirror", mirror]
        argv += ["--file-roots", str(self.media)]
        argv += ["--heartbeat", self._bed.state.heartbeat]
        ceiling = self.etc / "trust.yaml"
        if ceiling.exists():
            argv += ["--ceiling", str(ceiling)]
        return Process(f"{self.name}.agent", self._bed.directory, argv, self._port("agent"))

    def cut(self, *links: str, reset: bool = True) -> None:
        """Take the network away: open connections are reset (or stall), new ones hang."""
        self._bed.network("cut", self.name, links, reset=reset)

    def restore(self, *links: str) -> None:
        """Give the network back, and end every fault."""
        self._bed.network("restore", self.name, links)

    def delay(self, seconds: float, *links: str) -> None:
        """Hold every chunk for so long, in both directions."""
        self._bed.network("faults", self.name, links, faults={"delay": seconds})

    def drop(self, rate: float, *links: str) -> None:
        """Reset this share of new connections."""
        self._bed.network("faults", self.name, links, faults={"drop_rate": rate})

    def break_after(self, received: int, *links: str, times: int | None = None) -> None:
        """Reset connections when so many bytes have come from the other side."""
        faults = {"break_after": received, "break_times": times}
        self._bed.network("faults", self.name, links or ("registry",), faults=faults)

    def start(self) -> None:
        """Start its server and its agent, anew where they run with another command line."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.server.refresh()
        self.agent.refresh()

    def kill(self) -> None:
        """Kill both, as a power cut would."""
        self.agent.kill()
        self.server.kill()

    def provision(self, ceiling: str | None, authority: str) -> None:
        """Write what a machine is delivered with; an agent whose ceiling changes is stopped."""
        self.root.mkdir(parents=True, exist_ok=True)
        files.write(self.etc / "ca.crt", authority, mode=0o644)
        path = self.etc / "trust.yaml"
        if ceiling == (path.read_text() if path.exists() else None):
            return
        if ceiling is None:
            path.unlink()
        else:
            files.write(path, ceiling, mode=0o644)
        self.agent.stop()

    def _port(self, what: str) -> int:
        names = {"api": "proxy.api", "registry": "proxy.registry"}
        return self._bed.state.ports[f"{self.name}.{names.get(what, what)}"]
