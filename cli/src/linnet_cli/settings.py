"""The environment, read once: where the kubeconfig is, whether colours are wanted.

The only place of the CLI that reads environment variables.
"""

import os
from typing import NamedTuple

_SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"


class Environment(NamedTuple):
    """What the environment says.

    Attributes:
        kubeconfigs: Files to merge, the first wins.
        kubeconfig_named: True where KUBECONFIG names the files.
        no_color: True with a non-empty NO_COLOR, or on a dumb terminal.
        cluster_host: ``host:port`` of the API server inside a pod, else an empty string.
        service_account_dir: Where a pod finds its token, CA and namespace.
        proxy: True where an HTTPS proxy is set: kubectl knows what to do with it.
    """

    kubeconfigs: tuple[str, ...] = ()
    kubeconfig_named: bool = False
    no_color: bool = False
    cluster_host: str = ""
    service_account_dir: str = _SERVICE_ACCOUNT_DIR
    proxy: bool = False


def read_environment() -> Environment:
    """Return what the environment of this process says."""
    env = os.environ
    named = tuple(path for path in env.get("KUBECONFIG", "").split(os.pathsep) if path)
    home = os.path.expanduser("~/.kube/config")  # noqa: PTH111 - pathlib costs 10 ms of start-up
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    if ":" in host:
        host = f"[{host}]"
    return Environment(
        kubeconfigs=named or (home,),
        kubeconfig_named=bool(named),
        no_color=bool(env.get("NO_COLOR")) or env.get("TERM") == "dumb",
        cluster_host=f"{host}:{port}" if host else "",
        proxy=bool(env.get("HTTPS_PROXY") or env.get("https_proxy")),
    )
