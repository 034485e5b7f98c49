"""Tokens bound to nodes, as a pod's projected token is, renewed before they expire."""

import base64
import json
import logging
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from linnet_testbed import files
from linnet_testbed.cluster import Connection, kubeconfig_text
from linnet_testbed.errors import TestbedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """One service account's token and where it is written."""

    namespace: str
    account: str
    path: str
    seconds: int
    node: str | None = None
    """The Node to which it is bound."""
    server: str | None = None
    """Write a kubeconfig for this server, instead of the bare token."""

    def is_due(self, wall: float) -> bool:
        """Tell whether a third of its life is over at this wall-clock time."""
        try:
            return wall - Path(self.path).stat().st_mtime > self.seconds / 3
        except OSError:
            return True


def claims(token: str) -> dict[str, object]:
    """Return what a token says, unchecked."""
    body = token.split(".")[1]
    value: dict[str, object] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return value


def request(kubectl: str, kubeconfig: Path, token: Token) -> str:
    """Ask the API server for a token."""
    argv = [kubectl, f"--kubeconfig={kubeconfig}", "create", "token", token.account]
    argv += [f"--namespace={token.namespace}", f"--duration={token.seconds}s"]
    if token.node:
        argv += ["--bound-object-kind=Node", f"--bound-object-name={token.node}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise TestbedError(f"No token for {token.account}: {done.stderr.strip()}")
    return done.stdout.strip()


def renew(kubectl: str, kubeconfig: Path, token: Token) -> None:
    """Write a new token."""
    text = request(kubectl, kubeconfig, token)
    if token.server:
        authority = Connection.of(kubeconfig).authority
        text = kubeconfig_text(token.server, authority, text, token.account)
    files.write(Path(token.path), text)


def renew_all(kubectl: str, kubeconfig: Path, tokens: Iterable[Token]) -> None:
    """Write new tokens, a few at once."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda token: renew(kubectl, kubeconfig, token), tokens))


def save(path: Path, kubectl: str, kubeconfig: Path, tokens: Iterable[Token]) -> None:
    """Write what this module's process reads."""
    value = {
        "kubectl": kubectl,
        "kubeconfig": str(kubeconfig),
        "tokens": [asdict(t) for t in tokens],
    }
    files.write_json(path, value)


def keep_fresh(path: Path) -> None:
    """Renew the tokens that a file describes, for ever."""
    settings = json.loads(path.read_text())
    tokens = [Token(**token) for token in settings["tokens"]]
    while True:
        for token in tokens:
            if token.is_due(time.time()):
                try:
                    renew(settings["kubectl"], Path(settings["kubeconfig"]), token)
                    _log.info("token.renewed", extra={"path": token.path})
                except (TestbedError, subprocess.TimeoutExpired, OSError) as error:
                    _log.warning("token.failed %s", error)
        time.sleep(2)
