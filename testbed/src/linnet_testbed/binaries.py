"""Where the real parts come from, once per machine: PATH, a Debian package, or Go modules."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path

from linnet_testbed.errors import TestbedError, TestbedUnavailableError
from linnet_testbed.files import locked
from linnet_testbed.progress import Say, clock

KUBERNETES = "v1.34.4"
KINE = "github.com/k3s-io/kine@v0.16.4"
REGISTRY = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
_VERSION = "k8s.io/component-base/version"
# Without these, kubectl cannot parse the server's version.
_KUBE_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES} -X {_VERSION}.gitMajor=1 "
    f"-X {_VERSION}.gitMinor={KUBERNETES.split('.')[1]}"
)
_SOURCES = ("go.mod", "go.sum", "main.go")


@dataclass(frozen=True, slots=True)
class Binaries:
    """Finds or makes the programs that a bed runs, in a cache outside the checkout."""

    cache: Path
    say: Say

    def kubectl(self) -> str:
        """Return kubectl on PATH."""
        found = shutil.which("kubectl")
        if not found:
            raise TestbedUnavailableError(
                "The testbed needs kubectl: install it (Debian: apt install kubernetes-client)."
            )
        return found

    def kube(self) -> Path:
        """Return the directory that holds kube-apiserver and kube-controller-manager."""
        source = resources("linnet_testbed") / "gobuild" / "kube"
        contents = {name: (source / name).read_bytes() for name in _SOURCES}
        key = hashlib.sha256(b"\0".join([*contents.values(), _KUBE_LDFLAGS.encode()]))

        def build(target: Path) -> None:
            go = self._go("a Kubernetes control plane")
            module = target / "src"
            module.mkdir()
            for name, content in contents.items():
                (module / name).write_bytes(content)
            self._run(
                [go, "build", "-mod=readonly", "-ldflags", _KUBE_LDFLAGS, "-o", "../kube", "."],
                module,
                {"CGO_ENABLED": "0", "GOWORK": "off"},
                f"building kube-apiserver {KUBERNETES} from Go modules",
                "5 min",
            )
            shutil.rmtree(module)
            for name in ("kube-apiserver", "kube-controller-manager"):
                (target / name).symlink_to("kube")

        return self._cached(f"kube-{key.hexdigest()[:12]}", build)

    def kine(self) -> Path:
        """Return kine, which keeps the API server's objects in SQLite."""

        def build(target: Path) -> None:
            go = self._go("kine")
            if not shutil.which("gcc") and not shutil.which("cc"):
                raise TestbedUnavailableError(
                    "The testbed builds kine with SQLite and needs a C compiler: install gcc."
                )
            self._go_install(go, KINE, target, "kine", {"CGO_ENABLED": "1"}, "2 min")

        return self._cached(_key(KINE), build) / "kine"

    def prometheus(self) -> Path:
        """Return Prometheus: on PATH, else Debian's, unpacked but not installed."""
        if found := shutil.which("prometheus"):
            return Path(found)
        return (
            self._cached("prometheus-debian", lambda t: self._deb("prometheus", t)) / "prometheus"
        )

    def registry(self) -> Path:
        """Return an OCI registry: on PATH, else Debian's, else from Go modules."""
        if found := shutil.which("docker-registry"):
            return Path(found)

        def obtain(target: Path) -> None:
            try:
                self._deb("docker-registry", target)
            except TestbedUnavailableError as error:
                self.say(str(error))
                go = self._go("an OCI registry")
                self._go_install(go, REGISTRY, target, "registry", {"CGO_ENABLED": "0"}, "2 min")
                (target / "registry").rename(target / "docker-registry")

        return self._cached(_key(f"registry {REGISTRY}"), obtain) / "docker-registry"

    def _cached(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the cache's directory `name`; fill it first, under a lock, where it is absent."""
        target = self.cache / "bin" / name
        if target.is_dir():
            return target
        lock = self.cache / "bin" / f".lock-{name}"
        with locked(lock, f"making {name}", timeout=3600, say=self.say):
            if not target.is_dir():
                aside = target.with_name(f".new-{name}")
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
                make(aside)
                aside.rename(target)
        return target

    def _go(self, what: str) -> str:
        found = shutil.which("go")
        if not found:
            raise TestbedUnavailableError(
                f"The testbed builds {what} from Go modules: install Go 1.24 or newer, or offer a "
                "cluster with LINNET_KUBECONFIG and LINNET_ALLOW_CONTEXT."
            )
        return found

    def _go_install(
        self, go: str, package: str, target: Path, name: str, extra: dict[str, str], usual: str
    ) -> None:
        self._run(
            [go, "install", "-ldflags", "-s -w", package],
            target,
            {"GOBIN": str(target), "GOWORK": "off", **extra},
            f"building {name} from Go modules",
            usual,
        )

    def _deb(self, package: str, target: Path) -> None:
        """Unpack the Debian package: nothing is installed, no service starts, no root is needed."""
        instead = f"The testbed needs {package}: install it so that it is on PATH"
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise TestbedUnavailableError(f"{instead} (there is no apt-get to fetch it with).")
        lists = self.cache / "apt"
        (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        own = ["-o", f"Dir::State::lists={lists / 'lists'}", "-o", f"Dir::Cache={lists}"]
        own += ["-o", "APT::Sandbox::User="]
        self.say(f"fetching Debian's {package}, once per machine")
        fetched = False
        for options, first in (([], None), (own, "update")):
            if first:
                self._quietly(["apt-get", "-qq", *options, first], target)
            fetched = self._quietly(["apt-get", "-qq", *options, "download", package], target)
            if fetched:
                break
        archives = list(target.glob("*.deb"))
        if not fetched or not archives:
            raise TestbedUnavailableError(f"{instead} (apt-get could not download it).")
        self._quietly(["dpkg", "-x", str(archives[0]), "deb"], target)
        (target / "deb" / "usr" / "bin" / package).rename(target / package)
        shutil.rmtree(target / "deb")
        archives[0].unlink()
        if not self._quietly([str(target / package), "--version"], target):
            raise TestbedUnavailableError(f"{instead} (Debian's does not run on this machine).")

    @staticmethod
    def _quietly(argv: list[str], directory: Path) -> bool:
        done = subprocess.run(argv, cwd=directory, capture_output=True, check=False)
        return done.returncode == 0

    def _run(
        self, argv: list[str], directory: Path, extra: dict[str, str], what: str, usual: str
    ) -> None:
        """Run a long command and tell every ten seconds that it still runs."""
        log = directory / "build.log"
        start = time.monotonic()
        self.say(f"{what} (usually {usual}, once per machine)")
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=directory,
                env={**os.environ, **extra},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=10)
                    except subprocess.TimeoutExpired:
                        elapsed = clock(time.monotonic() - start)
                        self.say(f"{what}: {elapsed}, usually {usual}, once per machine")
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise TestbedError(f"{what} failed:\n{tail}")
        log.unlink()


def _key(package: str) -> str:
    name = package.split("@", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]
    return f"{name}-{hashlib.sha256(package.encode()).hexdigest()[:12]}"
