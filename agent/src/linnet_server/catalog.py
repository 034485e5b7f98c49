"""What this node serves: deployments, their active and staged revisions, and the swap between them.

- A swap loads beside, flips one reference, drains the old revision by counting its requests, and
  frees it. A request that has picked a revision keeps it to its end: none fails because of a swap,
  but those that take longer than the drain may.
- Where two do not fit into memory and the order or the settings allow it, the old one is taken out
  first: 503 until the new one is activated. If that cannot be loaded, or is given up, the old one
  comes back; if the agent falls silent meanwhile, so does what `current` says.
- Only the loop's thread touches the catalog. Between looking and flipping there is no await.
- A name belongs to who has it, active or staged; the other deployment is refused.
- A `current` that cannot be loaded is kept as a fact: it is reported, the server is not ready, the
  others serve.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from linnet_server.errors import (
    ControlError,
    NoMemoryError,
    NotFoundError,
    NotReadyError,
    NotStagedError,
    ServingNameTakenError,
)
from linnet_server.feedback import RecentAnswers
from linnet_server.loading import Loader
from linnet_server.metrics import Metrics, SwapPhase
from linnet_server.records import (
    CURRENT,
    DeploymentKey,
    RevisionFiles,
    ServingRecord,
    list_current,
    read_revision,
)
from linnet_server.revisions import Deployment, LoadedRevision
from linnet_server.stall import watch_loop

log = logging.getLogger(__name__)

_STOP_S: Final = 5.0
"""So long a run that was told to stop may take; then its session is left to it."""
AGENT_SILENCE_S: Final = 60.0
"""After so long without an order or a question the agent is gone: it asks at each heartbeat."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task in the process's TaskGroup."""


class Catalog:
    """All deployments of this node."""

    def __init__(
        self,
        metrics: Metrics,
        loader: Loader,
        *,
        spawn: Spawn,
        drain_s: float,
        replace: bool = False,
        silence_s: float = AGENT_SILENCE_S,
    ) -> None:
        self._metrics = metrics
        self._loader = loader
        self._spawn = spawn
        self._drain_s = drain_s
        self._replace = replace
        self._silence_s = silence_s
        self._heard_at = time.monotonic()
        self._root: Path | None = None
        self._deployments: dict[DeploymentKey, Deployment] = {}
        self._routes: dict[str, Deployment] = {}
        self._booting = True

    @property
    def ready(self) -> bool:
        """Whether all that this node should serve is served."""
        return not self._booting and all(
            deployment.active is not None or (deployment.record is None and not deployment.failure)
            for deployment in self._deployments.values()
        )

    def failures(self) -> tuple[str, ...]:
        """Return what cannot be served, each with a sentence that says why, and what to do."""
        return tuple(
            f"model '{key.deployment}': {str(failure).rstrip('.')}. {failure.remedy}"
            for key, deployment in sorted(self._deployments.items())
            if (failure := deployment.failure) is not None
        )

    def find(self, name: str) -> Deployment:
        """Return the deployment that clients call ``name``.

        Raises:
            NotFoundError: Nobody here has that name.
        """
        deployment = self._routes.get(name)
        if deployment is None:
            raise NotFoundError(f"no model '{name[:80]}' on this node")
        return deployment

    def pick(self, name: str, version: str | None = None) -> LoadedRevision:
        """Return the revision that answers for ``name`` now.

        Raises:
            NotFoundError: Nobody here has that name, or it is not at that version.
            NotReadyError: It is loading, or could not be loaded.
        """
        deployment = self.find(name)
        active = deployment.active
        if active is None:
            loading = "it is loading" if deployment.taken_out is None else "it is being replaced"
            why = deployment.failure or loading
            raise NotReadyError(f"model '{name}' is not ready: {why}")
        if version is not None and not active.has_version(version):
            raise NotFoundError(
                f"model '{name}' is at revision {active.record.revision}, not {version[:80]}"
            )
        return active

    def hear(self) -> None:
        """Note that the agent lives: it has asked for something."""
        self._heard_at = time.monotonic()

    async def boot(self, root: Path | None, extra: list[RevisionFiles]) -> None:
        """Load every `current` below ``root`` and the ``extra`` files, one after the other.

        A revision that cannot be loaded is remembered as failed. Deployments that the agent has
        changed meanwhile are left alone.
        """
        self._root = root
        waiting: list[tuple[Deployment, RevisionFiles]] = []
        for key, link in list_current(root) if root else ():
            deployment = self._deployments.setdefault(key, Deployment(key))
            try:
                files = read_revision(link.parents[3], key, link)
                if not files.record.is_served_here:
                    continue
                self._claim(deployment, files.record)
            except ControlError as exc:
                self._fail(deployment, exc)
            else:
                waiting.append((deployment, files))
        for files in extra:
            deployment = self._deployments.setdefault(
                files.record.key, Deployment(files.record.key)
            )
            try:
                self._claim(deployment, files.record)
            except ControlError as exc:
                self._fail(deployment, exc)
            else:
                waiting.append((deployment, files))
        for deployment, files in waiting:
            await self._boot_one(deployment, files)
        self._booting = False
        log.info("server.booted", extra={"models": len(self._deployments), "ready": self.ready})

    async def stage(
        self,
        key: DeploymentKey,
        root: Path,
        directory: Path,
        *,
        fresh: bool = False,
        replace: bool | None = None,
    ) -> LoadedRevision:
        """Load the revision in ``directory`` beside the active one; twice is once.

        Args:
            key: Whose revision it is.
            root: The node's directory.
            directory: The revision's, below it.
            fresh: Load it although it is loaded: its files were replaced by good ones.
            replace: Whether the active one may be taken out where both do not fit; None: as the
                settings say.

        Raises:
            ControlError: It cannot be loaded, or its name belongs to another deployment. Nothing
                has changed.
        """
        files = read_revision(root, key, directory)
        return await self.stage_files(files, fresh=fresh, replace=replace)

    async def stage_files(
        self, files: RevisionFiles, *, fresh: bool = False, replace: bool | None = None
    ) -> LoadedRevision:
        """Load a revision that was read already; all else is as `stage` has it."""
        key = files.record.key
        deployment = self._deployments.setdefault(key, Deployment(key))
        async with deployment.lock:
            for loaded in (deployment.active, deployment.staged):
                if loaded is not None and loaded.record == files.record and not fresh:
                    return loaded
            self._check_names(deployment, files.record)
            try:
                await self._make_room(
                    deployment, files, replace=self._replace if replace is None else replace
                )
                staged = await self._load(files)
                self._keep_or_retire(deployment, staged)
            except ControlError:
                await self._bring_back(deployment)
                raise
            except asyncio.CancelledError:  # who ordered it is gone
                self._spawn(self._mend(deployment))
                raise
            self.hear()  # it may have taken long
        log.info("server.staged", extra=_facts(staged.record) | {"load_s": staged.load_s})
        return staged

    async def activate(self, key: DeploymentKey, revision: str) -> LoadedRevision:
        """Let the staged ``revision`` serve; twice is once.

        Raises:
            NotStagedError: It is neither staged nor active.
        """
        deployment = self._deployments.get(key)
        if deployment is None:
            raise NotStagedError(f"nothing is staged for {key.namespace}/{key.deployment}")
        async with deployment.lock:
            active, staged = deployment.active, deployment.staged
            if staged is not None and staged.record.revision == revision:
                deployment.staged = None
                self._flip(deployment, staged)
                return staged
            if active is not None and active.record.revision == revision:
                return active
            there = staged.record.revision if staged else "nothing"
            raise NotStagedError(f"revision {revision[:80]} is not staged; {there} is")

    async def vacate(self, key: DeploymentKey) -> None:
        """Take the active revision out, so that its memory can be had: 503 from now on.

        Until another one is activated, or it is brought back by `unstage`; twice is once.
        """
        deployment = self._deployments.get(key)
        if deployment is None:
            return
        async with deployment.lock:
            staged, deployment.staged = deployment.staged, None
            await self._free(staged)
            if deployment.active is not None:
                await self._take_out(deployment, deployment.active)

    async def unstage(self, key: DeploymentKey) -> None:
        """Free the staged revision, where there is one; what was taken out for it comes back."""
        deployment = self._deployments.get(key)
        if deployment is None:
            return
        async with deployment.lock:
            staged, deployment.staged = deployment.staged, None
            if deployment.taken_out is None:
                self._retire(staged)
            else:
                await self._free(staged)
                await self._bring_back(deployment)

    async def remove(self, key: DeploymentKey) -> None:
        """Stop serving a deployment, and free it."""
        deployment = self._deployments.get(key)
        if deployment is None:
            return
        async with deployment.lock:
            self._drop_routes(deployment)
            for loaded in (deployment.active, deployment.staged):
                self._retire(loaded)
            if deployment.active is not None:
                self._metrics.mark_inactive(deployment.active.metrics)
            deployment.active = deployment.staged = deployment.record = deployment.failure = None
            deployment.taken_out = None
            deployment.answers = RecentAnswers()
        log.info("server.removed", extra=dataclasses.asdict(key))

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return what is loaded, as the control API says it."""
        deployments = [self._deployments[key] for key in sorted(self._deployments)]
        staged = (deployment.describe_staged() for deployment in deployments)
        return {
            "models": [one.describe() for one in deployments if one.is_known],
            "staged": [one for one in staged if one is not None],
        }

    async def close(self) -> None:
        """Free everything; the listeners are closed and no request is under way."""
        for key in list(self._deployments):
            await self.remove(key)

    async def _boot_one(self, deployment: Deployment, files: RevisionFiles) -> None:
        async with deployment.lock:
            if deployment.active or deployment.record != files.record:
                return
            try:
                loaded = await self._load(files)
            except ControlError as exc:
                self._fail(deployment, exc)
            else:
                self._flip(deployment, loaded)

    async def _make_room(
        self, deployment: Deployment, files: RevisionFiles, *, replace: bool
    ) -> None:
        """Take the active revision out where ``files`` do not fit beside it, and that may be.

        Raises:
            NoMemoryError: They do not fit.
        """
        if self._fits(files):
            return
        staged, deployment.staged = deployment.staged, None
        await self._free(staged)
        active = deployment.active
        if active is not None and replace and not self._fits(files):
            await self._take_out(deployment, active)
        self._loader.check_room(files)

    async def _take_out(self, deployment: Deployment, active: LoadedRevision) -> None:
        log.warning("server.replacing", extra=_facts(active.record))
        self._metrics.mark_inactive(active.metrics)
        deployment.active, deployment.record = None, active.record
        deployment.taken_out = active.files
        self._watch_agent(deployment)
        await self._free(active)

    def _watch_agent(self, deployment: Deployment) -> None:
        """Look from time to time whether who took the active revision out is still there."""
        if deployment.taken_out is None:
            return
        left_s = self._heard_at + self._silence_s - time.monotonic()
        if left_s <= 0.0 and not deployment.lock.locked():
            self._spawn(self._serve_alone(deployment))
            return
        wait_s = max(left_s, self._silence_s / 60.0)
        asyncio.get_running_loop().call_later(wait_s, self._watch_agent, deployment)

    async def _serve_alone(self, deployment: Deployment) -> None:
        """Serve what `current` says, as after a restart: the agent may be gone for hours."""
        async with deployment.lock:
            if time.monotonic() < self._heard_at + self._silence_s:
                self._watch_agent(deployment)
                return
            if deployment.taken_out is None:
                return
            log.warning("server.agent.silent", extra=dataclasses.asdict(deployment.key))
            staged, deployment.staged = deployment.staged, None
            if staged is not None and self._is_current(staged.record):
                self._flip(deployment, staged)
            else:
                await self._free(staged)
                await self._bring_back(deployment)

    def _is_current(self, record: ServingRecord) -> bool:
        if self._root is None:
            return False
        link = self._root / "models" / record.namespace / record.deployment / CURRENT
        return link.resolve().name == record.revision

    def _fits(self, files: RevisionFiles) -> bool:
        try:
            self._loader.check_room(files)
        except NoMemoryError:
            return False
        return True

    async def _bring_back(self, deployment: Deployment) -> None:
        """Load again what was taken out; nothing where nothing was."""
        files = deployment.taken_out
        if files is None:
            return
        try:
            self._flip(deployment, await self._load(files))
        except ControlError as exc:
            self._fail(deployment, exc)

    async def _mend(self, deployment: Deployment) -> None:
        """Bring back what was taken out for a candidate that nobody waits for any more."""
        async with deployment.lock:
            if deployment.active is None and deployment.staged is None:
                await self._bring_back(deployment)

    async def _load(self, files: RevisionFiles) -> LoadedRevision:
        fresh = LoadedRevision(files)

        def observe_rows(rows: int) -> None:
            fresh.metrics.batch_rows.observe(rows)

        with watch_loop() as stall:
            loaded = await self._loader.load(files, observe_rows=observe_rows)
        fresh.session, fresh.lane = loaded.session, loaded.lane
        fresh.load_s, fresh.memory_bytes = loaded.took_s, loaded.memory_bytes
        self._metrics.observe_swap(
            files.record, SwapPhase.LOAD, took_s=loaded.took_s, stall_s=stall.longest_s
        )
        return fresh

    def _keep_or_retire(self, deployment: Deployment, staged: LoadedRevision) -> None:
        try:
            # Somebody may have taken the name while we loaded.
            self._check_names(deployment, staged.record)
        except ServingNameTakenError:
            self._retire(staged)
            raise
        self._retire(deployment.staged)
        deployment.staged = staged

    def _flip(self, deployment: Deployment, fresh: LoadedRevision) -> None:
        """Let ``fresh`` serve. No await in here: a request sees the old revision or the new one."""
        old = deployment.active
        self._drop_routes(deployment)
        deployment.active = fresh
        deployment.record = deployment.failure = deployment.taken_out = None
        fresh.metrics = self._metrics.bind(fresh.record)
        fresh.answers = deployment.answers
        fresh.requests = fresh.failures = 0
        fresh.duration_s = 0.0
        for name in fresh.record.names:
            self._routes[name] = deployment
        if old is not None:
            self._metrics.mark_inactive(old.metrics)
        self._metrics.mark_active(
            fresh.metrics,
            memory_bytes=fresh.memory_bytes,
            queue_depth=lambda: fresh.lane.waiting,
        )
        self._retire(old)
        log.info("server.activated", extra=_facts(fresh.record))

    def _retire(self, loaded: LoadedRevision | None) -> asyncio.Task[None] | None:
        """Free ``loaded`` as soon as nobody uses it; return what will have done so."""
        return None if loaded is None else self._spawn(self._drain(loaded))

    async def _free(self, loaded: LoadedRevision | None) -> None:
        """Return when ``loaded`` is freed; who stops waiting does not stop that."""
        task = self._retire(loaded)
        if task is not None:
            await asyncio.shield(task)

    async def _drain(self, loaded: LoadedRevision) -> None:
        """Free ``loaded`` when its last request has ended; at the deadline, end them."""
        started_at = time.perf_counter()
        with watch_loop() as stall:
            try:
                async with asyncio.timeout(self._drain_s):
                    await loaded.wait_unused()
            except TimeoutError:
                log.warning(
                    "server.drain.late", extra=_facts(loaded.record) | {"requests": loaded.holders}
                )
                loaded.lane.stop()
                await loaded.wait_unused()
            loaded.lane.close()
            try:
                async with asyncio.timeout(_STOP_S):
                    await loaded.lane.wait_idle()
            except TimeoutError:  # a run that cannot be stopped: its session goes when it ends
                log.warning("server.drain.abandoned", extra=_facts(loaded.record))
                return
            await asyncio.to_thread(loaded.session.close)
        took_s = time.perf_counter() - started_at
        self._metrics.observe_swap(
            loaded.record, SwapPhase.DRAIN, took_s=took_s, stall_s=stall.longest_s
        )
        log.info("server.freed", extra=_facts(loaded.record))

    def _claim(self, deployment: Deployment, record: ServingRecord) -> None:
        deployment.record = record
        self._check_names(deployment, record)
        for name in record.names:
            self._routes[name] = deployment

    def _check_names(self, deployment: Deployment, record: ServingRecord) -> None:
        staged = {
            name: other
            for other in self._deployments.values()
            if other.staged
            for name in other.staged.record.names
        }
        for name in record.names:
            for owner in (self._routes.get(name), staged.get(name)):
                if owner is not None and owner is not deployment:
                    raise ServingNameTakenError(
                        f"'{name}' is served by {owner.key.namespace}/{owner.key.deployment} here"
                    )

    def _fail(self, deployment: Deployment, failure: ControlError) -> None:
        deployment.failure = failure
        log.error(
            "server.boot.failed",
            extra=dataclasses.asdict(deployment.key)
            | {"reason": failure.reason, "message_text": str(failure)},
        )

    def _drop_routes(self, deployment: Deployment) -> None:
        for name in [name for name, owner in self._routes.items() if owner is deployment]:
            del self._routes[name]


def _facts(record: ServingRecord) -> dict[str, str]:
    return {
        "namespace": record.namespace,
        "deployment": record.deployment,
        "revision": record.revision,
        "digest": record.model_digest,
    }
