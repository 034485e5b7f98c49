"""What this node can run and hold, as its ModelHost says it.

- Free space is told in steps of 5 % of the total, so that an idle node writes nothing.
- The object is owned by the Node: it goes when the Node does.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from linnet_agent.errors import HubRefusedError
from linnet_agent.hub import Hub, Object
from linnet_agent.report import merge_patch
from linnet_api import conditions
from linnet_api.model_host import Accelerator, Capacity, ModelHostStatus, Runtime, Trust
from linnet_api.names import API_VERSION, VERSION

_PATH: Final = f"/apis/{API_VERSION}/modelhosts"
_STEPS: Final = 20
_NOT_FOUND, _CONFLICT = 404, 409


def host_status(
    *,
    root: Path,
    node_uid: str | None,
    trust: Trust,
    orphans: Iterable[str],
    gpu: str,
    before: ModelHostStatus,
    now: datetime,
) -> ModelHostStatus:
    """Return what there is to say about this node."""
    ready = conditions.settled(reason="Working", message="the agent is at work", generation=0)
    return ModelHostStatus(
        observed_generation=0,
        node_uid=node_uid,
        agent_version=importlib.metadata.version("linnet"),
        api_versions=(VERSION,),
        runtimes=_runtimes(),
        accelerators=(Accelerator(name="gpu0", product=gpu),) if gpu else (),
        memory=_memory(before.memory),
        disk=_disk(root, before.disk),
        trust=trust,
        orphans=tuple(sorted(orphans))[:64],
        conditions=conditions.stamp(ready, before=before.conditions, now=now),
    )


def _runtimes() -> tuple[Runtime, ...]:
    try:
        version = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return (Runtime(name="Files"),)
    linnet = Runtime(name="Linnet", version=version, providers=("CPUExecutionProvider",))
    return (Runtime(name="Files"), linnet)


def _memory(before: Capacity) -> Capacity:
    page = os.sysconf("SC_PAGE_SIZE")
    free = _available_bytes() or page * os.sysconf("SC_AVPHYS_PAGES")
    return in_steps(total=page * os.sysconf("SC_PHYS_PAGES"), free=free, before=before)


def _available_bytes() -> int:
    """Return the kernel's own estimate of what can be had; 0 where it gives none."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 0


def _disk(root: Path, before: Capacity) -> Capacity:
    usage = shutil.disk_usage(root)
    return in_steps(total=usage.total, free=usage.free, before=before)


def in_steps(*, total: int, free: int, before: Capacity) -> Capacity:
    """Return the capacity in steps; a move by less than a step is not told."""
    step = max(1, total // _STEPS)
    if before.total_bytes == total and -step < free - before.free_bytes < 2 * step:
        return before
    return Capacity(total_bytes=total, free_bytes=min(free // step, _STEPS) * step)


class HostReporter:
    """Keeps the node's ModelHost."""

    def __init__(
        self, hub: Hub, *, node: str, status: Callable[[ModelHostStatus], ModelHostStatus]
    ) -> None:
        self._hub = hub
        self._node = node
        self._status = status
        self._held: dict[str, Any] | None = None

    def forget(self) -> None:
        """Read again, at the next report, what the hub holds."""
        self._held = None

    async def report(self, *, node_uid: str | None) -> None:
        """Write the status where it differs; make the object where there is none.

        Raises:
            HubUnavailableError: No answer, or not now.
            HubRefusedError: The server says no.
        """
        if self._held is None:
            self._held = await self._read_or_create(node_uid)
        wanted = self._status(ModelHostStatus.model_validate(self._held)).to_dict()
        patch = merge_patch(wanted, self._held)
        if not patch:
            return
        try:
            answer = await self._hub.merge(f"{_PATH}/{self._node}/status", {"status": patch})
        except HubRefusedError as error:
            self._held = None
            if error.status != _NOT_FOUND:
                raise
            return
        self._held = answer.get("status") or {}

    async def _read_or_create(self, node_uid: str | None) -> dict[str, Any]:
        try:
            found = await self._hub.get(f"{_PATH}/{self._node}")
        except HubRefusedError as error:
            if error.status != _NOT_FOUND:
                raise
            found = await self._hub.create(_PATH, self._object(node_uid))
        return found.get("status") or {}

    def _object(self, node_uid: str | None) -> Object:
        metadata: Object = {"name": self._node}
        if node_uid is not None:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node_uid}
            metadata["ownerReferences"] = [owner]
        return {"apiVersion": API_VERSION, "kind": "ModelHost", "metadata": metadata}
