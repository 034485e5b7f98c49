"""Picks the way to the cluster: our own connection where the kubeconfig allows it, else kubectl."""

import argparse

from linnet_cli.errors import UsageError
from linnet_cli.kube import Kube
from linnet_cli.kube.kubeconfig import find_access
from linnet_cli.settings import Environment

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def connect(args: argparse.Namespace, environment: Environment) -> Kube:
    """Return the cluster that the flags in ``args`` name; asks nobody yet."""
    access = find_access(environment, kubeconfig=args.kubeconfig or "", context=args.context or "")
    timeout_s = read_seconds(args.request_timeout)
    if access.needs_kubectl:
        from linnet_cli.kube.through_kubectl import KubectlKube  # noqa: PLC0415 - start-up

        flags = [f"--request-timeout={timeout_s:g}s"]
        flags += [f"--kubeconfig={args.kubeconfig}"] if args.kubeconfig else []
        flags += [f"--context={args.context}"] if args.context else []
        return KubectlKube(flags, namespace=access.namespace, where=access.where)
    from linnet_cli.kube.direct import DirectKube  # noqa: PLC0415 - start-up

    return DirectKube(access, timeout_s=timeout_s)


def read_seconds(text: str) -> float:
    """Return the seconds of ``30``, ``30s``, ``5m`` or ``1h30m``.

    Raises:
        UsageError: The text is none of these.
    """
    total, number = 0.0, ""
    rest = text.strip()
    if rest.replace(".", "", 1).isdigit():
        return float(rest)
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        unit = next((u for u in ("ms", "s", "m", "h") if rest.startswith(u)), "")
        if not unit or not number.replace(".", "", 1).isdigit():
            raise UsageError(f"{text!r} is not a duration: write for example 30s, 10m or 1h30m")
        total += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    if not number:
        raise UsageError("an empty duration: write for example 30s, 10m or 1h30m")
    return total
