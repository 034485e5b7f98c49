"""Ways to a cluster, behind one interface: one that somebody offers, one from Go modules."""

import base64
import secrets
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import yaml

from linnet_testbed import certs, files
from linnet_testbed.errors import TestbedError, TestbedUnavailableError
from linnet_testbed.ports import is_open
from linnet_testbed.processes import Process
from linnet_testbed.progress import Say
from linnet_testbed.settings import Settings


class Cluster(Protocol):
    """A Kubernetes API server that the bed may use."""

    @property
    def kind(self) -> str:
        """Its way: `go` or `offered`."""

    @property
    def processes(self) -> list[Process]:
        """What of it runs as our own processes."""

    def start(self, say: Say) -> None:
        """Make it answer, and write the kubeconfig; no harm where it runs already."""

    def wait(self, say: Say) -> None:
        """Return when the API server is ready."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server, read from the bed's kubeconfig."""

    host: str
    port: int
    authority: str

    @classmethod
    def of(cls, kubeconfig: Path) -> "Connection":
        """Read server and certificate authority from a flattened, minified kubeconfig."""
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        url = urlsplit(cluster["server"])
        authority = cluster.get("certificate-authority-data")
        if url.scheme != "https" or not url.hostname or not authority:
            raise TestbedError(
                "The offered kubeconfig must name an https server and its certificate authority."
            )
        return cls(url.hostname, url.port or 443, base64.b64decode(authority).decode())

    def get(self, path: str, token: str = "", timeout: float = 2) -> int:
        """Return the HTTP status of a GET, 0 where nobody answers."""
        request = urllib.request.Request(f"https://{self.host}:{self.port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cadata=self.authority)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:  # noqa: S310 - https
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


def kubeconfig_text(server: str, authority: str, token: str, name: str) -> str:
    """Write a kubeconfig for one user with a token."""
    data = base64.b64encode(authority.encode()).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": name, "cluster": {"server": server, "certificate-authority-data": data}}
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
    )


@dataclass(slots=True)
class GoCluster:
    """kube-apiserver and kube-controller-manager over kine and SQLite, as K3s has them."""

    name: str
    directory: Path  # the bed's
    ports: dict[str, int]
    kube: Path
    kine: Path
    kind: str = "go"

    @property
    def _home(self) -> Path:
        return self.directory / "cluster"

    @property
    def _token(self) -> str:
        return (self._home / "admin.token").read_text()

    @property
    def processes(self) -> list[Process]:
        """Kine, kube-apiserver and kube-controller-manager."""
        home, ports = self._home, self.ports
        kine = [
            str(self.kine),
            f"--listen-address=tcp://127.0.0.1:{ports['kine']}",
            "--metrics-bind-address=0",  # or it takes :8080
            # A bed's data need to outlive kill -9, not a power cut: no fsync.
            f"--endpoint=sqlite://{home}/state.db?_journal=WAL&cache=shared&_busy_timeout=30000"
            "&_txlock=immediate&_synchronous=OFF",
        ]
        api = [
            str(self.kube / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{ports['kine']}",
            f"--secure-port={ports['api']}",
            "--bind-address=127.0.0.1",
            "--advertise-address=10.43.0.2",
            f"--tls-cert-file={home}/api.crt",
            f"--tls-private-key-file={home}/api.key",
            f"--token-auth-file={home}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.43.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={home}/sa.key",
            f"--service-account-signing-key-file={home}/sa.key",
            "--service-account-extend-token-expiration=false",
            "--profiling=false",
        ]
        # No kubelet runs here: the node controllers would call every node lost.
        off = [
            "node-lifecycle-controller",
            "node-ipam-controller",
            "cloud-node-lifecycle-controller",
        ]
        manager = [
            str(self.kube / "kube-controller-manager"),
            f"--kubeconfig={self.directory}/kubeconfig",
            f"--service-account-private-key-file={home}/sa.key",
            f"--root-ca-file={home}/ca.crt",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=300",  # or emptying a namespace takes ten seconds
            "--kube-api-burst=500",
            f"--controllers=*,{','.join('-' + c for c in off)}",
        ]
        return [
            Process("kine", self.directory, kine, ports["kine"], grace=0),
            Process("kube-apiserver", self.directory, api, ports["api"]),
            Process("kube-controller-manager", self.directory, manager),
        ]

    def start(self, say: Say) -> None:
        """Start kine and the API server."""
        home = self._home
        certs.make(home)
        if not (home / "admin.token").exists():
            files.write(home / "admin.token", secrets.token_urlsafe(32))
        files.write(home / "tokens.csv", f'{self._token},admin,admin,"system:masters"\n')
        text = kubeconfig_text(
            f"https://127.0.0.1:{self.ports['api']}",
            (home / "ca.crt").read_text(),
            self._token,
            f"linnet-testbed-{self.name}",
        )
        files.write(self.directory / "kubeconfig", text)
        kine, api, _ = self.processes
        if kine.pid is None or api.pid is None:
            say(f"starting kube-apiserver on 127.0.0.1:{api.port}")
        kine.start()
        kine.wait(lambda: is_open(self.ports["kine"]), 20)
        api.start()

    def wait(self, say: Say) -> None:
        """Wait for /readyz, then start the controller-manager."""
        _, api, manager = self.processes
        connection = Connection.of(self.directory / "kubeconfig")
        token = self._token
        api.wait(lambda: connection.get("/readyz", token) == 200, 60)
        manager.start()
        say("the API server is ready")


@dataclass(slots=True)
class OfferedCluster:
    """A cluster that somebody offers; it is used with care and never stopped."""

    name: str
    directory: Path
    source: Path | None
    allowed: frozenset[str]
    kubectl: str
    kind: str = "offered"

    @property
    def processes(self) -> list[Process]:
        """None of it is ours."""
        return []

    def start(self, say: Say) -> None:
        """Copy the current context of the offered kubeconfig, where it is allowed."""
        own = self.directory / "kubeconfig"
        if self.source is None:
            if own.exists():
                return
            raise TestbedError("This bed uses an offered cluster: set LINNET_KUBECONFIG again.")
        text = offered_context(self.source, self.allowed, self.kubectl)
        if own.exists() and Connection.of(own) != _connection(text, self.directory):
            raise TestbedError(
                f"The testbed {self.name} is in another cluster: take it down first "
                f"(linnet-testbed down --name {self.name})."
            )
        files.write(own, text)
        say(f"using the offered cluster of {self.source}")

    def wait(self, say: Say) -> None:
        """See that it answers, and that nodes can reach it through a proxy on loopback."""
        connection = Connection.of(self.directory / "kubeconfig")
        context = ssl.create_default_context(cadata=connection.authority)
        try:
            with (
                socket.create_connection((connection.host, connection.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1"),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            raise TestbedUnavailableError(
                "The testbed's nodes reach the API server through 127.0.0.1, and the offered "
                f"cluster's certificate does not hold that address ({error.verify_message})."
            ) from None
        except OSError as error:
            raise TestbedError(f"The offered cluster does not answer: {error}.") from None
        say("the API server is ready")


def _connection(text: str, directory: Path) -> Connection:
    aside = directory / "kubeconfig.offered"
    files.write(aside, text)
    try:
        return Connection.of(aside)
    finally:
        aside.unlink()


def offered_context(source: Path, allowed: frozenset[str], kubectl: str) -> str:
    """Return the current context of a kubeconfig by itself; refuse one that is not allowed."""
    argv = [kubectl, "config", "view", f"--kubeconfig={source}", "--raw", "--flatten", "--minify"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if not source.is_file() or done.returncode:
        why = done.stderr.strip() or "no such file"
        raise TestbedError(f"LINNET_KUBECONFIG={source} cannot be used: {why}.")
    context = yaml.safe_load(done.stdout)["current-context"]
    if context not in allowed:
        named = ", ".join(sorted(allowed)) or "nothing"
        raise TestbedError(
            f"LINNET_KUBECONFIG's current context is {context!r}, and LINNET_ALLOW_CONTEXT names "
            f"{named}: add it there if Linnet's test objects may be created in that cluster."
        )
    return done.stdout


def choose(
    kind: str | None,
    settings: Settings,
    make_go: Callable[[], Cluster],
    make_offered: Callable[[], Cluster],
) -> Cluster:
    """Return the way that a bed has taken, else the first one that there is."""
    if kind == "offered" or (kind is None and settings.kubeconfig is not None):
        return make_offered()
    return make_go()
