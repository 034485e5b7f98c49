"""The stage of the demo: the testbed, the publisher, and eyes that wait and say what moved.

- ``wait_until`` is the only way to wait: it has a limit, and its error says what was last seen.
- What people would type is typed here: ``kubectl apply``, ``linnet sign``, ``linnet push``.
"""

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from linnet_cli.publish.push import push_model
from linnet_cli.publish.sign import sign_model
from linnet_testbed import Testbed
from linnet_testbed.demo import digits

NAMESPACE: Final = "factory"
MODEL: Final = "digits"
SIGNED_NAME: Final = f"{NAMESPACE}/{MODEL}"
_REPOSITORY: Final = f"oci://registry.testbed/models/{MODEL}"
_LOOK_EVERY_S: Final = 0.5

T = TypeVar("T")


class ActFailedError(Exception):
    """What the act expected was not seen; the message says what was."""


@dataclass
class Stage:
    """Everything that an act plays with."""

    bed: Testbed
    workdir: Path
    data: digits.Digits
    key: tuple[bytes, bytes]
    """The publisher's key pair, PEM: private, public."""
    rogue_key: tuple[bytes, bytes]
    """A key pair that nobody trusts."""
    counts_file: Path
    """Where the clients write what they count."""
    accuracy: dict[str, float] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    """Revision hash -> version, as they were seen."""
    counter: int = 0
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"  {time.monotonic() - self.started:6.1f}s  {text}", flush=True)

    # -- the publisher ---------------------------------------------------------------------

    def publish(
        self,
        version: str,
        *,
        model: str = SIGNED_NAME,
        signed: bool = True,
        trusted: bool = True,
        tamper: bool = False,
    ) -> str:
        """Train, sign and push ``version``; return its artifact digest.

        Args:
            version: One of the versions that ``digits.build`` knows.
            model: The name that is signed.
            signed: False leaves the signature out.
            trusted: False signs with the rogue key.
            tamper: True changes the model after it was signed.
        """
        directory = self.workdir / version
        self.accuracy[version] = digits.build(version, directory, digits=self.data)
        self.counter += 1
        key = self.key if trusted else self.rogue_key
        bundle = (
            sign_model(directory, model=model, counter=self.counter, private_key_pem=key[0])
            if signed
            else None
        )
        if tamper:
            path = directory / "model.onnx"
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
        return push_model(
            directory,
            to=f"{_REPOSITORY}:{version}",
            bundle=bundle,
            mirrors={"registry.testbed": self.bed.registry_url},
        )

    # -- the person ------------------------------------------------------------------------

    def trust(self, *public_keys: bytes) -> None:
        """Apply the cluster's TrustPolicy: these keys may sign factory models."""
        self.bed.apply(trust_policy(*public_keys))

    def deploy(self, version: str, *, policy: str = "canary") -> None:
        """Apply the ModelDeployment with ``version`` as its source, as Git would."""
        self.bed.apply(
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": MODEL, "namespace": NAMESPACE},
                "spec": {
                    "source": f"{_REPOSITORY}:{version}",
                    "nodes": {"matchLabels": {"linnet.dev/fleet": "testbed"}},
                    "policyRef": {"name": policy},
                },
            }
        )

    # -- the eyes --------------------------------------------------------------------------

    def deployment(self) -> dict[str, Any]:
        """Return the ModelDeployment as it is."""
        return self._get("modeldeployment", MODEL)

    def rollout_of(self, digest: str) -> dict[str, Any] | None:
        """Return the newest ModelRollout to ``digest``, or None while there is none."""
        found = [
            item for item in self._list("modelrollouts") if item["spec"]["to"]["digest"] == digest
        ]
        return max(
            found, key=lambda item: int(item["metadata"]["name"].rpartition("-")[2]), default=None
        )

    def node_models(self) -> dict[str, dict[str, Any]]:
        """Return the NodeModels by node name."""
        return {item["spec"]["node"]["name"]: item for item in self._list("nodemodels")}

    def serving(self) -> dict[str, str]:
        """Return, by node, the artifact digest that the node itself says it serves."""
        return {
            node: item.get("status", {}).get("current", {}).get("artifact", "")
            for node, item in self.node_models().items()
        }

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return what the clients have counted so far, by node."""
        found: dict[str, dict[str, Any]] = json.loads(self.counts_file.read_text(encoding="utf-8"))
        return found

    def fetched_bytes(self) -> int:
        """Return how many bytes of models all agents have fetched since they started."""
        return sum(_fetched_bytes(node.agent_metrics_url) for node in self.bed.nodes)

    def watch_rollout(
        self,
        digest: str,
        *,
        version: str,
        until: Callable[[dict[str, Any]], bool],
        limit_s: float,
    ) -> dict[str, Any]:
        """Print how the rollout to ``digest`` moves, until ``until`` holds for it; return it.

        Raises:
            ActFailedError: It did not come to that within ``limit_s``.
        """
        last = ""

        def look() -> dict[str, Any] | None:
            nonlocal last
            item = self.rollout_of(digest)
            if item is None:
                line = self._deployment_line()
            else:
                self.revisions[item["spec"]["to"]["revision"]] = version
                line = _rollout_line(item)
            if _news(line) != _news(last):
                self.say(line)
            last = line
            return item if item is not None and until(item.get("status", {})) else None

        return self.wait_until(
            look, limit_s=limit_s, what=f"the rollout of {MODEL} {version}", seen=lambda: last
        )

    def wait_until(
        self, look: Callable[[], T | None], *, limit_s: float, what: str, seen: Callable[[], str]
    ) -> T:
        """Return what ``look`` returns as soon as it is something.

        Raises:
            ActFailedError: It was nothing for ``limit_s``; the message carries ``seen()``.
        """
        deadline = time.monotonic() + limit_s
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise ActFailedError(f"waited {limit_s:.0f} s for {what}; last seen: {seen()}")
            time.sleep(_LOOK_EVERY_S)
        return found

    def _deployment_line(self) -> str:
        status = self.deployment().get("status", {})
        conditions: list[dict[str, str]] = status.get("conditions", [])
        ready = next((c for c in conditions if c["type"] == "Ready"), {})
        return f"{ready.get('reason', 'not seen yet')}: {ready.get('message', '')}".strip(": ")

    def _get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.bed.kubectl("-n", NAMESPACE, "get", kind, name, "-o", "json")
        )
        return found

    def _list(self, plural: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(
            self.bed.kubectl("-n", NAMESPACE, "get", plural, "-o", "json")
        )["items"]
        return items


def trust_policy(*public_keys: bytes) -> dict[str, Any]:
    """Return the TrustPolicy that lets these keys sign everything under ``factory/``."""
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "TrustPolicy",
        "metadata": {"name": "factory-release"},
        "spec": {
            "match": {"models": [f"{NAMESPACE}/*"]},
            "authorities": [
                {"name": f"release-{number}", "key": {"publicKeyPEM": key.decode()}}
                for number, key in enumerate(public_keys, start=1)
            ],
        },
    }


def _rollout_line(item: dict[str, Any]) -> str:
    status = item.get("status", {})
    waiting = status.get("waitingFor") or {}
    parts = [
        item["metadata"]["name"],
        status.get("phase") or "new",
        f"step {status['stepShort']}" if status.get("stepShort") else "",
        _nodes_of(status),
        f"waits: {waiting['reason']} {waiting.get('short', '')}" if waiting else "",
    ]
    if status.get("endedAt"):
        parts.append(status.get("message") or "")
    return "  ".join(part for part in parts if part)


def _news(line: str) -> str:
    """Return what makes a line worth printing: a bake that counts on is none."""
    return line.partition("waits: Baking")[0] if "waits: Baking" in line else line


def _nodes_of(status: dict[str, Any]) -> str:
    steps = status.get("steps") or []
    # Behind the last step the controls come as well, which no step has counted.
    if not steps or status.get("phase") in {"Finishing", "Completed"}:
        return ""
    return f"nodes {steps[-1].get('nodes', 0)}/{steps[-1].get('quota', 0)}"


def _fetched_bytes(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the agent's own address
        text = answer.read().decode()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in text.splitlines()
        if line.startswith("linnet_agent_fetch_bytes_total")
    )
