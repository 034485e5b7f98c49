"""One model on this node: take orders up, ask the table what is next, do it, note the result.

- The table (``journal.next_action``) decides; this module gathers the facts and takes the steps.
- The journal is written before a state is entered and after a result is durable; nothing else is
  remembered.
- A new order ends what can be ended without harm (verify, fetch, self-test); a swap is never ended
  halfway.
- A fault of the world (registry, server, disk) is waited out with jitter, and what serves serves
  on.
- A refusal is confirmed against the hub's policies as they are now: a policy may be on its way.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from linnet_agent import table
from linnet_agent.errors import AgentError, DiskFullError, ServerUnavailableError
from linnet_agent.fetch.oci import OciClient
from linnet_agent.journal import Action, Facts, Journal, Judged, Known, Order, Step
from linnet_agent.metrics import Metrics
from linnet_agent.selftest import Budget, run_self_test
from linnet_agent.server import ServerClient, ServerView
from linnet_agent.store import ModelDirectory, ModelKey, ServingRecord, Store, find_runnable
from linnet_agent.sync import Desired, Jitter, Wanted
from linnet_agent.trust import TrustStore
from linnet_agent.verify.artifact import verify_artifact
from linnet_agent.verify.directory import hash_directory
from linnet_agent.verify.manifest import Artifact
from linnet_api.reasons import NodeReason

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]

T = TypeVar("T")
_SOAK_LOOK_S: Final = 1.0
_SERVER_LOOK_S: Final = 0.5
_BACKOFF_S: Final = 0.5
_SERVER_BACKOFF_MAX_S: Final = 2.0


class ServerMonitor:
    """The last answer of the server, and for how long there has been none."""

    def __init__(self, client: ServerClient, *, on_change: Callable[[], None]) -> None:
        self.client = client
        self._on_change = on_change
        self.view: ServerView | None = None
        self._gone_since: float | None = monotonic()

    @property
    def gone_s(self) -> float:
        """Seconds since the server was last seen, counted from the first miss."""
        return 0.0 if self._gone_since is None else monotonic() - self._gone_since

    async def refresh(self) -> ServerView | None:
        """Ask the server; None where it does not answer."""
        before = _shape(self.view)
        try:
            self.view = await self.client.read()
            self._gone_since = None
        except ServerUnavailableError:
            self.view = None
            if self._gone_since is None:
                self._gone_since = monotonic()
        if _shape(self.view) != before:
            self._on_change()
        return self.view


def _shape(view: ServerView | None) -> object:
    """Return what workers act on: not the counts."""
    if view is None:
        return None
    return {key: (f.active, f.loading, f.staged) for key, f in view.models.items()}


class Reporter(Protocol):
    """Who tells the hub."""

    def mark(self, key: ModelKey) -> None:
        """Note that there is something new about a model."""

    async def report_now(self, key: ModelKey) -> None:
        """Try once to tell it, where there is something to tell; a failure is no matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all workers share."""

    store: Store
    desired: Desired
    trust: TrustStore
    monitor: ServerMonitor
    oci: OciClient
    metrics: Metrics
    clock: Clock
    jitter: Jitter
    refresh_trust: Callable[[], Awaitable[None]]
    """Ask the hub for its policies as they are now; does nothing where it does not answer."""
    node_uid: Callable[[], str | None]
    self_test_timeout_s: float
    retry_max_s: float
    fetch_slots: asyncio.Semaphore
    disk: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held where models move into the store or out of it."""
    wanted_staging: Callable[[], set[str]]
    """Artifacts whose half-fetched files are still of use."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an order is not taken up."""

    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What there is to tell about one model."""

    journal: Journal
    problem: Problem | None
    current: str | None
    previous: str | None
    complete: frozenset[str]
    progress: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _AtHand:
    """Manifest and bundles of the newest order, and under which trust they were allowed."""

    revision: str
    artifact: Artifact
    allowed_under: str | None
    model_digest: str | None


class Worker:
    """Carries out the orders for one model."""

    def __init__(self, key: ModelKey, parts: Parts, reporter: Reporter) -> None:
        self.key = key
        self.journal = Journal()
        self._parts = parts
        self._reporter = reporter
        self._directory: ModelDirectory = parts.store.model(key)
        self._wake = asyncio.Event()
        self._preempt = asyncio.Event()
        self._problem: Problem | None = None
        self._at_hand: _AtHand | None = None
        self._corrupt: set[str] = set()
        self._progress: tuple[int, int] | None = None
        self._seen: tuple[str | None, str | None, frozenset[str]] = (None, None, frozenset())
        self._tries = 0
        self._disk_fault: str | None = None
        """Why nothing can be written down: it is told, and stands nowhere else."""
        self.booted = False

    def notify(self) -> None:
        """Say that something may have changed: order, trust, server, network."""
        self._wake.set()
        wanted = self._parts.desired.get(self.key)
        order = None if wanted is None else wanted.order
        if order is None or self._judge_order(wanted) is not None:
            return
        if not order.same_target(self.journal.order):
            self._preempt.set()

    def view(self) -> WorkerView:
        """Return what there is to tell."""
        current, previous, complete = self._seen
        journal = self.journal
        if self._disk_fault is not None:
            journal = replace(journal, reason=NodeReason.DISK_FULL, message=self._disk_fault)
        return WorkerView(journal, self._problem, current, previous, complete, self._progress)

    async def run(self) -> None:
        """Work for ever."""
        if not self.booted:
            await self._boot()
        while True:
            self._wake.clear()
            wait_s = await self._work()
            if wait_s is None:
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()

    # --- start

    async def _boot(self) -> None:
        journal = await asyncio.to_thread(self._read_journal)
        self._corrupt = await asyncio.to_thread(self._find_corrupt)
        resumed = table.resume(journal)
        self.journal = journal
        try:
            await self._write(resumed)
        except OSError as error:
            self.journal = resumed
            self._survive(error)
        self._look()
        self.booted = True
        self._reporter.mark(self.key)
        self._log("agent.model.resumed", state=str(resumed.state), resumes=resumed.resumes)

    def _read_journal(self) -> Journal:
        try:
            journal = self._directory.read_journal()
        except ValueError as error:
            journal = None
            log.error("agent.journal.broken", extra=self._facts(cause=str(error)[:300]))  # noqa: TRY400 - expected
        return self._adopt() if journal is None else journal

    def _adopt(self) -> Journal:
        """Return a journal for what is on disk: only the links are left to say what was good."""
        current, previous = self._directory.read_current(), self._directory.read_previous()
        known = {
            revision: Known(
                artifact=record.artifact_digest,
                model_digest=record.model_digest,
                serving_name=record.serving_name,
                runtime="Files" if record.runtime == "Files" else "Linnet",
                tested=True,
                committed=True,
            )
            for revision, record in self._directory.read_records().items()
            if revision in (current, previous)
        }
        return Journal(known=known, committed=current if current in known else None)

    def _find_corrupt(self) -> set[str]:
        """Return the revisions whose files are not what was verified."""
        corrupt = set()
        for revision, record in self._directory.read_records().items():
            try:
                artifact = self._directory.read_evidence(revision)
                files = hash_directory(self._parts.store.path_of(record.model_digest))
                intact = files == {layer.name: layer.digest for layer in artifact.layers}
            except (AgentError, OSError, ValueError):
                intact = False
            if not intact:
                corrupt.add(revision)
                log.error("agent.model.corrupt", extra=self._facts(revision=revision))
        return corrupt

    # --- the loop

    async def _work(self) -> float | None:
        """Go on until nothing can be done; return for how many seconds, None: until news."""
        while True:
            try:
                wait = await self._step()
            except OSError as error:
                return self._survive(error)
            self._note_disk(None)
            if wait is not None:
                return wait.seconds

    async def _step(self) -> "_Pause | None":
        """Take one step; return a pause where there is none to take now."""
        await self._take_order()
        facts = await self._gather()
        action = table.next_action(self.journal, facts)
        if action.step is Step.REST:
            self._tries = 0
            await self._evict()
            return _Pause(None)
        if action.step is Step.WAIT:
            return await self._wait(action, facts)
        if action.step is Step.VERIFY and not self._parts.trust.known:
            return _Pause(None)
        await self._write(table.begin(self.journal, action))
        try:
            after = await self._do(action, facts)
        except _PreemptedError:
            return None
        except AgentError as error:
            return await self._note_error(error, action, facts)
        self._tries = 0
        self._look()
        await self._write(after)
        self._parts.store.checkpoint(f"after.{action.step}")
        return None

    async def _take_order(self) -> None:
        # Cleared before the order is read: one that comes in from here on sets it again.
        self._preempt.clear()
        wanted = self._parts.desired.get(self.key)
        problem = None if wanted is None else self._judge_order(wanted)
        if problem != self._problem:
            self._problem = problem
            self._reporter.mark(self.key)
            if problem is not None:
                self._log("agent.order.refused", reason=str(problem.reason))
        if wanted is None or wanted.order is None or problem is not None:
            return
        if wanted.order == self.journal.order:
            return
        if not wanted.order.same_target(self.journal.order):
            await self._reporter.report_now(self.key)
            self._tries = 0
        order = wanted.order
        await self._write(table.accept(self.journal, order))
        self._log("agent.order.taken", revision=order.revision, goal=str(order.goal))

    def _judge_order(self, wanted: Wanted | None) -> Problem | None:
        assert wanted is not None
        uid = self._parts.node_uid()
        if uid is not None and wanted.node_uid != uid:
            return Problem(
                NodeReason.WRONG_NODE,
                f"the order is for a node of uid {wanted.node_uid}; this one is {uid}",
            )
        if wanted.order is None:
            return Problem(NodeReason.INVALID_ORDER, f"the order cannot be read: {wanted.fault}")
        if table.is_stale(self.journal, wanted.order):
            return Problem(
                NodeReason.STALE_ORDER,
                f"order {wanted.order.sequence} is older than {self.journal.observed_sequence}, "
                "which this node has taken up; it stays with that one",
            )
        return None

    async def _gather(self) -> Facts:
        view = await self._parts.monitor.refresh()
        current, previous, complete = self._look()
        trust = self._parts.trust
        at_hand = self._at_hand
        return Facts(
            now=self._parts.clock(),
            complete=complete,
            current=current,
            previous=previous,
            server=None if view is None else view.facts(self.key),
            server_gone_s=self._parts.monitor.gone_s,
            policy_hash=trust.hash,
            allowed=at_hand.revision if at_hand and at_hand.allowed_under == trust.hash else None,
            vanished=self._parts.desired.synced and self._parts.desired.get(self.key) is None,
        )

    def _look(self) -> tuple[str | None, str | None, frozenset[str]]:
        complete = frozenset(self._directory.read_records()) - self._corrupt
        seen = (self._directory.read_current(), self._directory.read_previous(), complete)
        if seen != self._seen:
            self._seen = seen
            self._reporter.mark(self.key)
        return seen

    async def _wait(self, action: Action, facts: Facts) -> "_Pause":
        if action.reason is not NodeReason.NONE:
            after = table.postpone(self.journal, reason=action.reason, message=action.message)
            await self._write(after)
            return _Pause(_SERVER_LOOK_S)
        await self._write(table.recover(self.journal))
        if action.until is None:
            return _Pause(_SERVER_LOOK_S)
        left_s = (action.until - facts.now).total_seconds()
        return _Pause(max(0.01, min(left_s, _SOAK_LOOK_S)))

    async def _note_error(self, error: AgentError, action: Action, facts: Facts) -> "_Pause | None":
        message = _say(error)
        if error.transient:
            after = table.postpone(self.journal, reason=error.reason, message=message)
        else:
            after = table.fail(self.journal, action, facts, reason=error.reason, message=message)
        if after != self.journal:
            self._log(
                "agent.step.failed",
                level=logging.WARNING,
                step=str(action.step),
                revision=action.revision,
                reason=str(error.reason),
                cause=message,
            )
        moved = after.state is not self.journal.state or after.revert != self.journal.revert
        if after.revert is not None and self.journal.revert is None:
            self._parts.metrics.count_revert(str(error.reason))
        await self._write(after)
        if moved:
            return None
        return self._back_off(local=isinstance(error, ServerUnavailableError))

    def _back_off(self, *, local: bool = False) -> "_Pause":
        limit_s = _SERVER_BACKOFF_MAX_S if local else self._parts.retry_max_s
        seconds = min(limit_s, _BACKOFF_S * 2 ** min(self._tries, 12))
        self._tries += 1
        return _Pause(seconds * (0.5 + self._parts.jitter() / 2))

    def _survive(self, error: OSError) -> float | None:
        """Note a fault of the disk, in memory only: there may be no room to write it down."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        log.warning("agent.disk.fault", extra=self._facts(cause=str(error), full=full))
        if full:
            where = self._parts.store.root
            self._note_disk(_say(DiskFullError(f"there is no room below {where}")))
        return self._back_off().seconds

    def _note_disk(self, fault: str | None) -> None:
        if fault != self._disk_fault:
            self._disk_fault = fault
            self._reporter.mark(self.key)

    async def _write(self, journal: Journal) -> None:
        if journal == self.journal:
            return
        await asyncio.to_thread(self._directory.write_journal, journal)
        if journal.state is not self.journal.state:
            self._log(
                "agent.state",
                state=str(journal.state),
                revision=journal.order.revision if journal.order else None,
                reason=str(journal.reason),
            )
        self.journal = journal
        self._reporter.mark(self.key)
        self._parts.store.checkpoint(f"journal.{journal.state}")

    # --- the steps

    async def _unless_preempted(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, but end it where an order for something else comes in."""
        task = asyncio.ensure_future(work)
        preempt = asyncio.ensure_future(self._preempt.wait())
        try:
            await asyncio.wait((task, preempt), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _PreemptedError
            return task.result()
        finally:
            task.cancel()
            preempt.cancel()
            await asyncio.gather(task, preempt, return_exceptions=True)

    async def _do(self, action: Action, facts: Facts) -> Journal:
        revision = action.revision or ""
        client = self._parts.monitor.client
        match action.step:
            case Step.VERIFY:
                with self._parts.metrics.phase("verify"):
                    return await self._verify(action, facts)
            case Step.FETCH:
                with self._parts.metrics.phase("fetch"):
                    return await self._fetch(action, facts)
            case Step.SELF_TEST:
                with self._parts.metrics.phase("self_test"):
                    await self._self_test(revision)
            case Step.STAGE:
                with self._parts.metrics.phase("stage"):
                    await client.stage(self.key, self._directory.revision_path(revision))
            case Step.SWAP:
                await asyncio.to_thread(self._directory.swap, revision)
            case Step.FLIP:
                with self._parts.metrics.phase("flip"):
                    await client.activate(self.key, revision)
            case Step.UNSTAGE:
                await client.unstage(self.key)
            case Step.UNLOAD:
                await asyncio.to_thread(self._directory.clear_links)
                await client.remove(self.key)
            case Step.REVERT | Step.GIVE_UP:
                if facts.current == action.revision:
                    self._parts.metrics.count_revert(str(action.reason))
            case _:
                pass
        self._parts.store.checkpoint(f"done.{action.step}")
        return table.succeed(self.journal, action, facts)

    async def _verify(self, action: Action, facts: Facts) -> Journal:
        order = self._order()
        artifact = await self._read_artifact(order, facts)
        judged, digest = self._judge_or_pardon(order, artifact)
        if not judged.allowed:
            before = self._parts.trust.hash
            await self._parts.refresh_trust()
            if self._parts.trust.hash != before:
                judged, digest = self._judge_or_pardon(order, artifact)
        self._at_hand = _AtHand(
            order.revision or "",
            artifact,
            judged.policy_hash if judged.allowed else None,
            digest,
        )
        self._parts.metrics.count_verification(allowed=judged.allowed, reason=str(judged.reason))
        self._log(
            "agent.verified",
            revision=order.revision,
            allowed=judged.allowed,
            reason=str(judged.reason),
            signer=judged.signer,
            digest=digest,
            trust=judged.policy_hash,
        )
        if not judged.allowed:
            return table.deny(self.journal, judged, facts)
        return table.succeed(self.journal, action, facts, judged=judged)

    async def _read_artifact(self, order: Order, facts: Facts) -> Artifact:
        """Return manifest and bundles: those at hand, those on disk, or those of the registry."""
        at_hand = self._at_hand
        if at_hand and at_hand.revision == order.revision and at_hand.allowed_under is not None:
            return at_hand.artifact
        if order.revision in facts.complete:
            with contextlib.suppress(OSError, ValueError, AgentError):
                return self._directory.read_evidence(order.revision)
        return await self._unless_preempted(
            self._parts.oci.fetch_artifact(order.source, order.artifact)
        )

    def _judge(self, order: Order, artifact: Artifact) -> tuple[Judged, str | None]:
        assert order.revision is not None
        trust, now = self._parts.trust, self._parts.clock()
        if trust.fault is not None:
            reason, message = trust.fault
            refused = Judged(
                revision=order.revision,
                allowed=False,
                reason=reason,
                message=message,
                policy_hash=trust.hash,
                at=now,
            )
            return refused, None
        verified = verify_artifact(
            artifact,
            expected_model=f"{self.key.namespace}/{order.serving_name}",
            policies=trust.policies,
            ceiling=trust.ceiling,
            floor=self.journal.floor,
            now=now,
        )
        decision = verified.decision
        judged = Judged(
            revision=order.revision,
            allowed=decision.allowed,
            reason=decision.reason,
            message=decision.message,
            policy_hash=trust.hash,
            at=verified.at,
            signer=decision.signer,
            model=decision.model,
            counter=decision.counter,
        )
        return judged, verified.model_digest

    def _judge_or_pardon(self, order: Order, artifact: Artifact) -> tuple[Judged, str | None]:
        """Judge; what may be gone back to is allowed, with what the judge said (rule 3)."""
        judged, digest = self._judge(order, artifact)
        legal = table.is_legal_anyway(self.journal, judged.revision, judged.reason)
        if judged.allowed or not legal:
            return judged, digest
        said = f"this node has committed to it before; anew it would be {judged.reason}"
        message = f"{said}: {judged.message}"
        return replace(judged, allowed=True, reason=NodeReason.NONE, message=message), digest

    async def _fetch(self, action: Action, facts: Facts) -> Journal:
        order, at_hand = self._order(), self._at_hand
        assert at_hand is not None
        assert at_hand.model_digest is not None
        artifact, digest = at_hand.artifact, at_hand.model_digest
        record = self._record(order, artifact, digest)
        store, judged = self._parts.store, self.journal.judged
        assert judged is not None
        staged = None
        if not store.has(digest) or self._corrupt:
            staged = store.staging_directory(artifact.digest)
            await self._unless_preempted(self._download(artifact, staged))
        store.checkpoint("fetched")
        async with self._parts.disk:
            await asyncio.to_thread(self._admit, staged, record, artifact)
        self._corrupt.discard(record.revision)
        known = Known(
            artifact=artifact.digest,
            model_digest=digest,
            serving_name=order.serving_name,
            runtime=order.runtime,
            counter=judged.counter,
            policy_hash=judged.policy_hash,
            committed=_was_committed(self.journal, record.revision),
        )
        return table.succeed(self.journal, action, facts, known=known)

    async def _download(self, artifact: Artifact, into: Path) -> None:
        try:
            async with self._parts.fetch_slots:
                await self._evict()
                await self._parts.oci.fetch_layers(
                    artifact, into=into, on_progress=self._note_progress
                )
        finally:
            self._progress = None

    def _admit(self, staged: Path | None, record: ServingRecord, artifact: Artifact) -> None:
        if staged is not None:
            self._parts.store.admit(staged, record.model_digest)
        self._directory.add_revision(record, artifact)

    def _record(self, order: Order, artifact: Artifact, digest: str) -> ServingRecord:
        assert order.revision is not None
        names = [layer.name for layer in artifact.layers]
        return ServingRecord(
            namespace=self.key.namespace,
            deployment=self.key.deployment,
            revision=order.revision,
            number=order.number,
            model_digest=digest,
            artifact_digest=artifact.digest,
            serving_name=order.serving_name,
            runtime=order.runtime,
            threads=order.threads,
            instances=order.instances,
            file=names[0] if order.runtime == "Files" else find_runnable(names),
        )

    def _note_progress(self, done_bytes: int, total_bytes: int) -> None:
        before = self._progress[0] if self._progress else 0
        self._parts.metrics.fetched_bytes.inc(max(0, done_bytes - before))
        self._progress = (done_bytes, total_bytes)
        self.journal = table.recover(self.journal)
        self._reporter.mark(self.key)

    async def _self_test(self, revision: str) -> None:
        record = self._directory.read_records()[revision]
        if record.runtime == "Files":
            return
        order = self._order()
        report = await self._unless_preempted(
            run_self_test(
                self._parts.store.path_of(record.model_digest),
                record.file,
                timeout_s=self._parts.self_test_timeout_s,
                budget=Budget(memory_bytes=order.memory_bytes, latency_s=order.latency_s),
                threads=order.threads,
            )
        )
        self._log(
            "agent.self_tested",
            revision=revision,
            golden=report.golden,
            ran=report.ran,
            memory_bytes=report.memory_bytes,
            latency_s=round(report.latency_s, 6),
            confined=" ".join(report.confined),
        )

    async def _evict(self) -> None:
        """Make room; what cannot be removed is in nobody's way."""
        try:
            async with self._parts.disk:
                await asyncio.to_thread(self._evict_now)
        except OSError as error:
            log.warning("agent.evict.failed", extra=self._facts(cause=str(error)[:300]))
        self._look()

    def _evict_now(self) -> None:
        current, previous, complete = self._seen
        facts = Facts(
            now=self._parts.clock(), current=current, previous=previous, complete=complete
        )
        gone = self._directory.evict(table.keep_revisions(self.journal, facts))
        if gone:
            self._log("agent.evicted", revisions=" ".join(gone))
        self._parts.store.evict_unused(staging=self._parts.wanted_staging())

    def _order(self) -> Order:
        order = self.journal.order
        assert order is not None
        return order

    def _log(self, event: str, *, level: int = logging.INFO, **facts: object) -> None:
        log.log(level, event, extra=self._facts(**facts))

    def _facts(self, **facts: object) -> dict[str, object]:
        return {"namespace": self.key.namespace, "deployment": self.key.deployment, **facts}


class _PreemptedError(Exception):
    """An order for something else has come in."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """Nothing can be done now; ``seconds`` None: until something changes."""

    seconds: float | None


def _was_committed(journal: Journal, revision: str) -> bool:
    """Tell whether a revision that is fetched again, its files being damaged, was good before."""
    return journal.committed == revision


def _say(error: AgentError) -> str:
    """Return what is wrong and what to do; without a full stop, for others go on with it."""
    return f"{error}. {error.remedy}".removesuffix(".").removesuffix(". ")
