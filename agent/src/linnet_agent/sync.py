"""What the hub wants of this node: its NodeModels and all TrustPolicies, listed and watched.

- What was wanted last is in ``desired/``: an agent that starts without a network knows its orders.
- A listing replaces everything: what is no longer there has vanished. That is news, never an order
  (rule 7).
- A bookmark of a watch, about one a minute, says that all is as it was told: news as well.
- After any trouble it lists again; how long it waits grows, with jitter, up to a bound.
- When the heartbeat notices that the network is back, nobody waits any longer.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, NoReturn, Protocol

import pydantic

from linnet_agent.durable import remove_file, write_file
from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.hub import Hub, Object, WatchExpiredError
from linnet_agent.journal import Goal, Order
from linnet_agent.store import ModelKey
from linnet_agent.verify.strict_json import as_object
from linnet_api.durations import parse_duration
from linnet_api.names import API_VERSION, rollout_number
from linnet_api.node_model import NodeModelSpec
from linnet_api.quantities import parse_quantity

log = logging.getLogger(__name__)

NODE_MODELS: Final = f"/apis/{API_VERSION}/nodemodels"
TRUST_POLICIES: Final = f"/apis/{API_VERSION}/trustpolicies"

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

_KEPT: Final = ("namespace", "name", "generation", "uid", "ownerReferences")

_STEADY_S: Final = 5.0
"""After so long without trouble the next trouble is a new one."""

_SHORT_S: Final = 1.0

_UNHEARD_S: Final = 3600.0
"""After so long without a word all is listed again: not every server sends bookmarks."""

Jitter = Callable[[], float]
"""Returns a number from 0 to 1, another each time."""


class Sink(Protocol):
    """Who is told what is there."""

    def replace(self, items: Mapping[str, Object]) -> None:
        """Take ``items`` for all that there is."""

    def put(self, name: str, item: Object) -> None:
        """Take ``item`` as it is now."""

    def drop(self, name: str) -> None:
        """Take ``name`` for gone."""

    def confirm(self) -> None:
        """Take all that was told for true still: the hub has just said that nothing else is."""


class Link:
    """What is known about the way to the hub; the heartbeat is its probe."""

    def __init__(self, *, on_up: Callable[[], None] = lambda: None) -> None:
        self.up = False
        self._on_up = on_up
        self._restored = asyncio.Event()
        self._lost = asyncio.Event()

    def mark(self, *, up: bool) -> None:
        """Note whether the hub has just answered."""
        if up is self.up and (up or self._lost.is_set()):
            return
        self.up = up
        if not up:
            self._restored.clear()
            self._lost.set()
            log.warning("agent.disconnected")
            return
        self._lost.clear()
        self._restored.set()
        log.info("agent.connected")
        self._on_up()

    async def wait_restored(self, timeout_s: float) -> None:
        """Return when the hub answers again after it did not, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if self.up:
                    await asyncio.sleep(timeout_s)
                await self._restored.wait()

    async def wait_lost(self) -> None:
        """Return when the hub does not answer."""
        await self._lost.wait()


def object_key(item: Object) -> str:
    """Return ``namespace/name``, or the name of what has no namespace."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


async def follow(
    hub: Hub,
    path: str,
    params: Mapping[str, str],
    *,
    sink: Sink,
    link: Link,
    jitter: Jitter,
    max_wait_s: float,
) -> None:
    """List and watch for ever, and tell ``sink``."""
    tries = 0
    while True:
        began = monotonic()
        cause: Exception
        try:
            listing = await hub.list(path, params)
            link.mark(up=True)
            sink.replace({object_key(item): item for item in listing.items})
            await _watch(hub, path, params, version=listing.version, sink=sink, link=link)
        except (WatchExpiredError, HubUnavailableError, HubRefusedError) as error:
            cause = error
        if monotonic() - began >= _STEADY_S:
            tries = 0
        # Once an outage, not once a try: an agent may be alone for weeks.
        level = logging.ERROR if isinstance(cause, HubRefusedError) else logging.INFO
        log.log(
            logging.DEBUG if tries else level,
            "sync.broken",
            extra={"path": path, "cause": str(cause)},
        )
        # What expired is listed again at once, but a server that expires everything waits, too.
        expired = isinstance(cause, WatchExpiredError) and not tries
        wait_s = min(max_wait_s, 0.25 * 2 ** min(tries, 10)) * (0.5 + jitter() / 2)
        tries += 1
        if not expired:
            await link.wait_restored(wait_s)


async def _watch(
    hub: Hub, path: str, params: Mapping[str, str], *, version: str, sink: Sink, link: Link
) -> NoReturn:
    """Watch until the watch breaks or the link is lost: a cut network ends no connection."""
    lost = asyncio.ensure_future(link.wait_lost())
    watch = asyncio.ensure_future(_tell_changes(hub, path, params, version=version, sink=sink))
    try:
        await asyncio.wait((lost, watch), return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        raise HubUnavailableError("the heartbeat got no answer")
    finally:
        lost.cancel()
        watch.cancel()
        await asyncio.gather(lost, watch, return_exceptions=True)


async def _tell_changes(
    hub: Hub, path: str, params: Mapping[str, str], *, version: str, sink: Sink
) -> NoReturn:
    """Watch, and watch on where a watch ends by itself."""
    heard = monotonic()
    while True:
        began = monotonic()
        async for change in hub.watch(path, params, version=version):
            if _is_older(change.version, version):
                raise WatchExpiredError(f"version {change.version} came after {version}")
            version, heard = change.version, monotonic()
            sink.confirm()
            if change.kind == "BOOKMARK":
                continue
            name = object_key(change.object)
            if change.kind == "DELETED":
                sink.drop(name)
            else:
                sink.put(name, change.object)
        if monotonic() - began < _SHORT_S:
            raise HubUnavailableError("the watch ended as soon as it had begun")
        if monotonic() - heard >= _UNHEARD_S:
            raise WatchExpiredError("the watches said nothing for an hour")


def _is_older(version: str, than: str) -> bool:
    """Tell whether the server went back in time, as one does that was restored from a backup.

    Versions are numbers at every server that there is; what is none is not compared.
    """
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


# --- orders ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """A NodeModel as the agent takes it in."""

    key: ModelKey
    name: str
    generation: int
    node_uid: str
    order: Order | None
    """None: the spec cannot be read; ``fault`` says why."""
    fault: str
    status: Mapping[str, Any]
    """What the hub says that this node has reported; compared before anything is written."""
    document: Object
    """What is written down of it: all but its status."""


def read_wanted(item: Object) -> Wanted | None:
    """Return what a NodeModel says; None where it does not even say for which deployment.

    Namespace and deployment become directories: a hub that is compromised must not choose others.
    """
    metadata, spec = item["metadata"], as_object(item.get("spec")) or {}
    namespace, deployment = str(metadata.get("namespace")), str(spec.get("deployment", ""))
    if not (_NAMESPACE.fullmatch(namespace) and _NAME.fullmatch(deployment)):
        return None
    order, fault = None, ""
    try:
        order = order_of(NodeModelSpec.model_validate(spec), owner=_owner(metadata))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fault = f"spec.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    node, generation = as_object(spec.get("node")) or {}, metadata.get("generation", 0)
    return Wanted(
        key=ModelKey(namespace, deployment),
        name=str(metadata["name"]),
        generation=generation if isinstance(generation, int) else 0,
        node_uid=str(node.get("uid", "")),
        order=order,
        fault=fault,
        status=as_object(item.get("status")) or {},
        document={
            "metadata": {k: metadata.get(k) for k in _KEPT},
            "spec": item.get("spec"),
        },
    )


def order_of(spec: NodeModelSpec, *, owner: str | None = None) -> Order:
    """Return the order that a NodeModel's spec gives; ``owner`` is its deployment's uid."""
    desired, serving, resources = spec.desired, spec.desired.serving, spec.desired.resources
    return Order(
        sequence=spec.sequence,
        goal=Goal(desired.state),
        revision=desired.revision,
        number=desired.number,
        source=desired.source or "",
        artifact=desired.artifact or "",
        variants=desired.variants,
        serving_name=serving.name or spec.deployment,
        runtime=serving.runtime,
        threads=serving.threads,
        instances=serving.instances,
        baseline=None if spec.baseline is None else spec.baseline.revision,
        rollout=None if spec.rollout is None else spec.rollout.uid,
        rollout_number=0 if spec.rollout is None else rollout_number(spec.rollout.name),
        owner=owner,
        soak_s=spec.soak.seconds,
        memory_bytes=None if resources.memory is None else parse_quantity(resources.memory),
        latency_s=None
        if resources.latency is None
        else parse_duration(resources.latency).total_seconds(),
        replace=desired.swap == "Replace",
    )


class Desired:
    """The last desired state, in memory and in ``desired/``."""

    def __init__(
        self, directory: Path, *, on_change: Callable[[ModelKey], None], node: str | None = None
    ) -> None:
        """Follow the NodeModels of ``node``; None: of whatever node they say."""
        self._directory = directory
        self._on_change = on_change
        self._node = node
        self._items: dict[str, Wanted] = {}
        self._by_key: dict[ModelKey, Wanted] = {}
        self._unread: set[Path] = set()
        """What the disk has not told yet."""
        self.synced = False
        """True once the hub has listed: before that, what is not here has not vanished."""

    def load(self) -> None:
        """Read what was wanted last from the disk."""
        for path in sorted(self._directory.glob("*.json")):
            self._load_one(path)

    def reload(self) -> None:
        """Read again what the disk did not tell; what the hub has said meanwhile is newer."""
        for path in sorted(self._unread):
            wanted = None if self.synced else self._load_one(path)
            if wanted is not None:
                self._on_change(wanted.key)
        if self.synced:
            self._unread.clear()

    def _load_one(self, path: Path) -> Wanted | None:
        self._unread.discard(path)
        try:
            item = json.loads(path.read_bytes())
            wanted = self._read(item)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("desired.unreadable", extra={"file": path.name, "cause": repr(error)})
            if isinstance(error, OSError):
                self._unread.add(path)
            return None
        if wanted is not None:
            self._items[object_key(item)] = wanted
            self._by_key[wanted.key] = wanted
        return wanted

    def get(self, key: ModelKey) -> Wanted | None:
        """Return what is wanted of one model; None: nothing names it."""
        return self._by_key.get(key)

    def all(self) -> dict[ModelKey, Wanted]:
        """Return what is wanted, of every model."""
        return dict(self._by_key)

    def replace(self, items: Mapping[str, Object]) -> None:
        """Take a listing."""
        for name in [name for name in self._items if name not in items]:
            self._forget(name)
        self.synced = True
        for name, item in items.items():
            self.put(name, item)

    def put(self, name: str, item: Object) -> None:
        """Take one NodeModel; one that is another node's, or no NodeModel, is as none."""
        wanted = self._read(item)
        if wanted is None:
            self._forget(name)
            return
        if name in self._items and self._items[name].key != wanted.key:
            self._forget(name)
        before = self._by_key.get(wanted.key)
        self._items[name] = wanted
        chosen = self._choose(wanted.key)
        if before is None or _order_facts(before) != _order_facts(chosen):
            self._keep(chosen)
        self._on_change(wanted.key)

    def drop(self, name: str) -> None:
        """Take one NodeModel for gone."""
        self._forget(name)

    def confirm(self) -> None:
        """Do nothing: an order does not age."""

    def note_status(self, wanted: Wanted, status: Mapping[str, Any]) -> None:
        """Note what the hub holds after a report; a change that came in meanwhile is newer."""
        if self._by_key.get(wanted.key) is wanted:
            told = replace(wanted, status=status)
            self._by_key[wanted.key] = self._items[f"{wanted.key.namespace}/{wanted.name}"] = told

    def _read(self, item: Object) -> Wanted | None:
        """Return what ``item`` wants of this node; None where it is nothing to this node."""
        kind = item.get("kind", "NodeModel")
        spec = as_object(item.get("spec")) or {}
        node = (as_object(spec.get("node")) or {}).get("name")
        if kind != "NodeModel" or (self._node is not None and node != self._node):
            log.warning("desired.foreign", extra={"object": object_key(item), "kind": str(kind)})
            return None
        wanted = read_wanted(item)
        if wanted is None:
            log.warning(
                "desired.unreadable",
                extra={"file": object_key(item), "cause": "no name that can be one"},
            )
        return wanted

    def _choose(self, key: ModelKey) -> Wanted:
        """Take, of several that speak of one model, the newest order; of equals the first name."""
        claims = [wanted for wanted in self._items.values() if wanted.key == key]
        claims.sort(key=lambda wanted: wanted.name)
        chosen = max(claims, key=lambda w: -1 if w.order is None else w.order.sequence)
        self._by_key[key] = chosen
        return chosen

    def _keep(self, wanted: Wanted) -> None:
        """Write an order down, so that it is known after a start without a network."""
        try:
            write_file(self._path(wanted.key), json.dumps(wanted.document).encode(), mode=0o600)
        except OSError as error:  # a full disk: the order stands in memory, and in the hub
            log.warning("desired.unwritten", extra={"file": wanted.name, "cause": str(error)})

    def _forget(self, name: str) -> None:
        wanted = self._items.pop(name, None)
        if wanted is None:
            return
        if self._by_key.get(wanted.key) is wanted:
            if any(other.key == wanted.key for other in self._items.values()):
                self._keep(self._choose(wanted.key))
            else:
                self._erase(wanted.key)
        log.warning(
            "desired.vanished",
            extra={"namespace": wanted.key.namespace, "deployment": wanted.key.deployment},
        )
        self._on_change(wanted.key)

    def _erase(self, key: ModelKey) -> None:
        del self._by_key[key]
        try:
            remove_file(self._path(key))
        except OSError as error:  # it is read at the next start, and vanishes then
            log.warning("desired.unwritten", extra={"file": str(key), "cause": str(error)})

    def _path(self, key: ModelKey) -> Path:
        return self._directory / f"{key}.json"


def _owner(metadata: Mapping[str, Any]) -> str | None:
    """Return the uid of the ModelDeployment that owns a NodeModel; None: none does."""
    owners = metadata.get("ownerReferences")
    for owner in map(as_object, owners if isinstance(owners, list) else ()):
        if owner is not None and owner.get("kind") == "ModelDeployment":
            return str(owner.get("uid"))
    return None


def _order_facts(wanted: Wanted) -> object:
    """Return what is kept on disk of a NodeModel: all but its status."""
    return (wanted.name, wanted.order, wanted.fault, wanted.generation)
