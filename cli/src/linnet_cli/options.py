"""The flags that every command on a cluster has, spelled as kubectl spells them."""

import argparse

from linnet_cli.errors import UsageError


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add ``-n --context --kubeconfig --request-timeout --ascii``."""
    group = parser.add_argument_group("cluster")
    group.add_argument("-n", "--namespace", metavar="NS", help="namespace (default: the context's)")
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig (default: KUBECONFIG, ~/.kube/config)"
    )
    group.add_argument(
        "--request-timeout", metavar="TIME", default="20s", help="patience with one request (20s)"
    )
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII only")


def split_name(text: str) -> str:
    """Return the deployment's name of ``NAME`` or ``modeldeployment/NAME``.

    Raises:
        UsageError: It names another kind.
    """
    kind, slash, name = text.rpartition("/")
    if slash and kind.lower().partition(".")[0] not in (
        "mdep",
        "modeldeployment",
        "modeldeployments",
    ):
        raise UsageError(f"{text!r} is not a ModelDeployment: give its name, such as digits")
    return name
