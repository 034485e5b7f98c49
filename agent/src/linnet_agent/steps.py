"""The steps of an activation, carried out: each ends in a journal to be written, or in an error.

- What is judged is what is fetched: manifest and bundles stay at hand between the two, and on the
  disk after that.
- A new order ends what can be ended without harm (verify, fetch, self-test); a swap is never ended
  halfway.
- A refusal is confirmed against the hub's policies as they are now: a policy may be on its way.
- Room is made before the first byte, by evicting what nothing names.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from linnet_agent import outcome, table
from linnet_agent.errors import (
    AgentError,
    ClockUntrustedError,
    DiskFullError,
    KeylessUnavailableError,
    NoMemoryError,
    ServerUnavailableError,
    TrustError,
    WrongVariantError,
)
from linnet_agent.fetch.throttle import start_delay
from linnet_agent.fetch.variants import VariantChoice, runtime_of
from linnet_agent.journal import (
    Action,
    Facts,
    Journal,
    Judged,
    Known,
    Order,
    SelfTested,
    Standing,
    Step,
)
from linnet_agent.judge import Answer
from linnet_agent.parts import Parts
from linnet_agent.programs import Handed
from linnet_agent.room import choose_evictions, say_no_room
from linnet_agent.selftest import Budget, SelfTestReport, is_boxed_in, run_self_test
from linnet_agent.store import ModelDirectory, ModelKey, ServingRecord, find_runnable
from linnet_agent.verify.manifest import Artifact
from linnet_api.reasons import NodeReason

log = logging.getLogger(__name__)

T = TypeVar("T")

SPARE_BYTES: Final = 32 << 20
"""What stays free beside a fetch, for journals and logs."""


_NOT_NOW: Final[dict[NodeReason, type[TrustError]]] = {
    kind.reason: kind for kind in (ClockUntrustedError, KeylessUnavailableError)
}
"""Why it cannot be decided now: no refusal, and no revocation."""


class PreemptedError(Exception):
    """An order for something else has come in."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch has come."""

    done_bytes: int
    total_bytes: int
    seconds: int
    """Since it began, or went on."""
    bytes_per_second: int
    """On average over these seconds."""


@dataclass(frozen=True, slots=True)
class _AtHand:
    """Manifest and bundles of the newest order, and under which trust they were allowed."""

    revision: str
    artifact: Artifact
    allowed_under: str | None
    model_digest: str | None


class Steps:
    """What can be done about one model."""

    def __init__(
        self,
        key: ModelKey,
        parts: Parts,
        directory: ModelDirectory,
        *,
        on_progress: Callable[[], None],
    ) -> None:
        self._key = key
        self._parts = parts
        self._directory = directory
        self._on_progress = on_progress
        self._at_hand: _AtHand | None = None
        self._fetch_from: dict[str, float] = {}
        """Artifact to the time (monotonic) from which on it may be fetched."""
        self.preempt = asyncio.Event()
        self.progress: Progress | None = None

    def allowed(self, journal: Journal) -> str | None:
        """Return the revision whose manifest is at hand and allowed under the trust in force.

        Only what the journal holds, too: the disk may not have taken the verdict.
        """
        at_hand, judged = self._at_hand, journal.judged
        if at_hand is None or judged is None or judged.revision != at_hand.revision:
            return None
        in_force = at_hand.allowed_under == self._parts.judge.hash
        return at_hand.revision if in_force and judged.allowed else None

    async def take(self, action: Action, facts: Facts, journal: Journal) -> Journal:
        """Do what ``action`` says; return the journal after it.

        Raises:
            AgentError: It could not be done.
            OSError: The disk has a fault.
            PreemptedError: An order for something else has come in.
        """
        revision = action.revision or ""
        client, metrics = self._parts.monitor.client, self._parts.metrics
        tested: SelfTested | None = None
        match action.step:
            case Step.REJUDGE:
                return await self._rejudge(action, journal)
            case Step.VERIFY:
                with metrics.phase("verify"):
                    return await self._verify(action, facts, journal)
            case Step.FETCH:
                with metrics.phase("fetch"):
                    return await self._fetch(action, facts, journal)
            case Step.REPAIR:
                with metrics.phase("repair"):
                    await self._repair(revision)
            case Step.SELF_TEST:
                with metrics.phase("self_test"):
                    tested = await self._self_test(revision, _order(journal), facts)
            case Step.STAGE:
                with metrics.phase("stage"):
                    path = self._directory.revision_path(revision)
                    order = journal.order
                    replaces = order is not None and order.replace
                    await client.stage(self._key, path, fresh=action.fresh, replace=replaces)
                if revision == facts.current == journal.committed and not action.fresh:
                    metrics.restores.inc()
                    self.log("agent.restored", level=logging.WARNING, revision=revision)
            case Step.SWAP:
                await asyncio.to_thread(self._directory.swap, revision)
            case Step.FLIP:
                with metrics.phase("flip"):
                    if table.runtime_of(journal, revision) == "Files":
                        await self._hand_over(revision, facts)
                    else:
                        await client.activate(self._key, revision)
            case Step.UNSTAGE:
                await client.unstage(self._key)
            case Step.UNLOAD:
                await asyncio.to_thread(self._directory.clear_links)
                await client.remove(self._key)
            case _:
                pass
        self._parts.store.checkpoint(f"done.{action.step}")
        return outcome.succeed(journal, action, facts, tested=tested)

    # --- trust

    async def _verify(self, action: Action, facts: Facts, journal: Journal) -> Journal:
        order, judge = _order(journal), self._parts.judge
        artifact = await self._read_artifact(order, facts)
        asked = judge.hash
        judged, answer = await self._judge_order(journal, artifact)
        if not judged.allowed:
            await self._parts.refresh_trust()
            if judge.hash != asked:
                judged, answer = await self._judge_order(journal, artifact)
        self._at_hand = _AtHand(
            order.revision or "",
            replace(artifact, keys=answer.keys or artifact.keys),
            judged.policy_hash if judged.allowed else None,
            answer.model_digest,
        )
        self._parts.metrics.count_verification(allowed=judged.allowed, reason=str(judged.reason))
        self._tell_judged("agent.verified", judged, about=answer.model_digest)
        if (not_now := _NOT_NOW.get(judged.reason)) is not None:
            raise not_now(judged.message)
        if not judged.allowed:
            return outcome.deny(journal, judged, facts)
        return outcome.succeed(journal, action, facts, judged=judged)

    async def _judge_order(self, journal: Journal, artifact: Artifact) -> tuple[Judged, Answer]:
        """Judge; what may be gone back to is allowed, with what the judge said (rule 3)."""
        order = _order(journal)
        assert order.revision is not None
        answer = await self._parts.judge.ask(
            artifact,
            revision=order.revision,
            model=f"{self._key.namespace}/{order.serving_name}",
            floor=journal.floor,
        )
        judged = answer.judged
        if not judged.allowed and table.is_legal_anyway(journal, order.revision, answer.standing):
            judged = _pardon(judged)
        return judged, answer

    async def _rejudge(self, action: Action, journal: Journal) -> Journal:
        """Ask whether what was allowed once has been revoked since; nothing else takes it away."""
        assert action.revision is not None
        record = self._directory.read_records()[action.revision]
        answer = await self._parts.judge.ask(
            self._directory.read_evidence(action.revision),
            revision=action.revision,
            model=f"{self._key.namespace}/{record.serving_name}",
            floor=None,
        )
        judged, standing = answer.judged, answer.standing
        why = judged.message if standing is not Standing.GOOD else ""
        if self._parts.judge.is_at_fault or judged.reason in _NOT_NOW:
            # Who cannot be asked has not revoked anything, and has not taken a revocation back.
            known = journal.known[action.revision]
            standing, why = known.standing, known.why
        if standing is not Standing.GOOD:
            judged = replace(judged, allowed=False, reason=NodeReason.REVOKED, message=why)
        elif not judged.allowed:
            judged = _pardon(judged)
        self._tell_judged("agent.judged_again", judged, about=str(standing))
        return outcome.rejudge(journal, judged, standing=standing, why=why)

    async def _read_artifact(self, order: Order, facts: Facts) -> Artifact:
        """Return manifest and bundles: those at hand, those on disk, or those of the source."""
        at_hand = self._at_hand
        if at_hand and at_hand.revision == order.revision and at_hand.allowed_under is not None:
            return at_hand.artifact
        assert order.revision is not None
        if order.revision in facts.complete:
            with contextlib.suppress(OSError, ValueError, AgentError):
                return self._directory.read_evidence(order.revision)
        files = order.runtime == "Files"
        accepts = VariantChoice(
            wanted=order.variants, capabilities=self._parts.capabilities(), any_runtime=files
        )
        fetch = self._parts.sources.fetch_artifact(order.source, order.artifact, accepts=accepts)
        try:
            return await self.unless_preempted(fetch)
        except WrongVariantError as error:
            if files or self._parts.monitor.abilities is not None:
                raise
            raise ServerUnavailableError(
                f"linnet-server has not said yet what this node can run ({error})"
            ) from error

    def _tell_judged(self, event: str, judged: Judged, *, about: str | None) -> None:
        self.log(
            event,
            revision=judged.revision,
            allowed=judged.allowed,
            reason=str(judged.reason),
            signer=judged.signer,
            trust=judged.policy_hash,
            about=about,
        )

    # --- bytes

    async def _fetch(self, action: Action, facts: Facts, journal: Journal) -> Journal:
        order, at_hand = _order(journal), self._at_hand
        assert at_hand is not None
        assert at_hand.model_digest is not None
        artifact, digest = at_hand.artifact, at_hand.model_digest
        record = self._record(order, artifact, digest)
        store, judged = self._parts.store, journal.judged
        assert judged is not None
        async with self._alone(artifact.digest):
            staged = None
            if not store.has(digest) or digest in store.corrupt:
                staged = store.staging_directory(artifact.digest)
                await self._wait_turn(artifact.digest)
                await self.unless_preempted(self._download(artifact, staged))
            store.checkpoint("fetched")
            async with self._parts.disk:
                await asyncio.to_thread(self._admit, staged, record, artifact)
        self._fetch_from.pop(artifact.digest, None)
        known = Known(
            artifact=artifact.digest,
            model_digest=digest,
            serving_name=order.serving_name,
            runtime=order.runtime,
            counter=judged.counter,
            policy_hash=judged.policy_hash,
            # What is fetched again because its files were damaged was good before.
            committed=journal.committed == record.revision,
        )
        return outcome.succeed(journal, action, facts, known=known)

    async def _repair(self, revision: str) -> None:
        """Fetch the files of a revision again, by the manifest that was verified then."""
        record = self._directory.read_all_records()[revision]
        artifact = self._directory.read_evidence(revision)
        store = self._parts.store
        staged = store.staging_directory(artifact.digest)
        async with self._alone(artifact.digest):
            await self.unless_preempted(self._download(artifact, staged))
            async with self._parts.disk:
                await asyncio.to_thread(store.admit, staged, record.model_digest)

    @contextlib.asynccontextmanager
    async def _alone(self, artifact: str) -> AsyncIterator[None]:
        """Be the only one who fetches an artifact: who comes second finds the model in the store.

        Two at work in one staging directory would write into what the first has moved into the
        store.
        """
        lock = self._parts.staging[artifact]
        await self.unless_preempted(lock.acquire())
        try:
            yield
        finally:
            lock.release()

    async def _wait_turn(self, artifact: str) -> None:
        """Wait for this node's place in the window over which a fleet's fetches are spread."""
        delay_s = start_delay(self._parts.node_uid() or "", artifact, self._parts.fetch_spread_s)
        begin_at = self._fetch_from.setdefault(artifact, monotonic() + delay_s)
        if (left_s := begin_at - monotonic()) > 0:
            await self.unless_preempted(asyncio.sleep(left_s))

    async def _download(self, artifact: Artifact, into: Path) -> None:
        started_at = monotonic()
        first: int | None = None

        def note(done_bytes: int, total_bytes: int) -> None:
            nonlocal first
            first = done_bytes if first is None else first
            self._note_progress(done_bytes, total_bytes, first=first, started_at=started_at)

        try:
            async with self._parts.fetch_slots:
                started_at = monotonic()
                async with self._parts.disk:
                    await asyncio.to_thread(self._make_room, artifact, into)
                await self._parts.sources.fetch_layers(artifact, into=into, on_progress=note)
        finally:
            self._parts.metrics.fetch_seconds.inc(monotonic() - started_at)
            self.progress = None

    def _note_progress(
        self, done_bytes: int, total_bytes: int, *, first: int, started_at: float
    ) -> None:
        before = self.progress.done_bytes if self.progress else first
        self._parts.metrics.fetched_bytes.inc(max(0, done_bytes - before))
        seconds = monotonic() - started_at
        self.progress = Progress(
            done_bytes,
            total_bytes,
            int(seconds),
            int((done_bytes - first) / seconds) if seconds >= 1 else 0,
        )
        self._on_progress()

    def _make_room(self, artifact: Artifact, into: Path) -> None:
        """Evict, the oldest first, what nothing names, where the fetch would not have room.

        Raises:
            DiskFullError: That would not be enough.
        """
        have = sum(_size_of(path) for path in into.rglob("*")) if into.is_dir() else 0
        needed = max(0, artifact.manifest.total_bytes - have) + SPARE_BYTES
        root = self._parts.store.root
        room = os.statvfs(root)
        free = room.f_bavail * room.f_frsize
        if free >= needed:
            return
        lots = self._parts.store.list_lots(
            self._parts.pinned(), staging={*self._parts.wanted_staging(), artifact.digest}
        )
        chosen = choose_evictions(lots, needed_bytes=needed, free_bytes=free)
        if not chosen:
            said = say_no_room(lots, needed_bytes=needed, free_bytes=free)
            raise DiskFullError(f"there is no room below {root}: {said}")
        for lot in chosen:
            self._parts.store.drop_lot(lot)
        self.log("agent.room.made", evicted=" ".join(lot.name for lot in chosen))

    def _admit(self, staged: Path | None, record: ServingRecord, artifact: Artifact) -> None:
        if staged is not None:
            self._parts.store.admit(staged, record.model_digest)
        self._directory.add_revision(record, artifact)

    def _record(self, order: Order, artifact: Artifact, digest: str) -> ServingRecord:
        assert order.revision is not None
        names = [layer.name for layer in artifact.layers]
        return ServingRecord(
            namespace=self._key.namespace,
            deployment=self._key.deployment,
            revision=order.revision,
            number=order.number,
            model_digest=digest,
            artifact_digest=artifact.digest,
            serving_name=order.serving_name,
            runtime=order.runtime,
            threads=order.threads,
            instances=order.instances,
            variant=artifact.variant,
            file=names[0] if order.runtime == "Files" else find_runnable(names),
        )

    async def _self_test(self, revision: str, order: Order, facts: Facts) -> SelfTested | None:
        """Test a revision; where memory does not hold it beside what serves, instead of that."""
        record = self._directory.read_records()[revision]
        if record.runtime == "Files":
            return None
        serves = facts.server is not None and facts.server.active is not None
        try:
            report = await self._test(record, order)
        except NoMemoryError:
            if not (order.replace and serves) or await asyncio.to_thread(is_boxed_in):
                raise
            report = await self._test_instead(record, order)
        tested = SelfTested.of(golden=report.golden, ran=report.ran)
        self.log(
            "agent.self_tested",
            revision=revision,
            variant=record.variant,
            device="CPU",
            tested=str(tested),
            load_s=round(report.load_s, 3),
            latency_s=round(report.latency_s, 6),
            memory_bytes=report.memory_bytes,
        )
        return tested

    async def _test_instead(self, record: ServingRecord, order: Order) -> SelfTestReport:
        """Test while nothing serves; what served comes back unless all is well."""
        client = self._parts.monitor.client
        self.log("agent.vacated", level=logging.WARNING, revision=record.revision)
        try:
            await client.vacate(self._key)
            return await self._test(record, order)
        except BaseException:
            await client.unstage(self._key)
            raise

    async def _test(self, record: ServingRecord, order: Order) -> SelfTestReport:
        return await self.unless_preempted(
            run_self_test(
                self._parts.store.path_of(record.model_digest),
                record.file,
                timeout_s=self._parts.self_test_timeout_s,
                budget=budget_of(order, record.variant),
                threads=record.threads,
            )
        )

    async def _hand_over(self, revision: str, facts: Facts) -> None:
        """Leave the model to the user's program: the server lets go of what it still serves."""
        if facts.server is not None:
            await self._parts.monitor.client.remove(self._key)
        await self._parts.programs.reload(self.handed(revision))

    def handed(self, revision: str) -> Handed:
        """Return what a program of the user's own is told about a revision."""
        return Handed(self._key, revision, self._directory.path / "current" / "model")

    # --- tools

    async def unless_preempted(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, but end it where an order for something else comes in.

        Raises:
            PreemptedError: One came in.
        """
        task = asyncio.ensure_future(work)
        preempt = asyncio.ensure_future(self.preempt.wait())
        try:
            await asyncio.wait((task, preempt), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise PreemptedError
            return task.result()
        finally:
            task.cancel()
            preempt.cancel()
            await asyncio.gather(task, preempt, return_exceptions=True)

    def log(self, event: str, *, level: int = logging.INFO, **facts: object) -> None:
        """Log a fact about this model."""
        named = {"namespace": self._key.namespace, "deployment": self._key.deployment}
        log.log(level, event, extra={**named, **facts})


def budget_of(order: Order, variant: str) -> Budget:
    """Return what a variant may take in its self-test; a CPU cannot tell how fast a GPU is."""
    on_cpu = runtime_of(variant) == "onnx"
    return Budget(memory_bytes=order.memory_bytes, latency_s=order.latency_s if on_cpu else None)


def _order(journal: Journal) -> Order:
    assert journal.order is not None
    return journal.order


def _pardon(judged: Judged) -> Judged:
    said = f"this node has committed to it before; anew it would be {judged.reason}"
    return replace(
        judged, allowed=True, reason=NodeReason.NONE, message=f"{said}: {judged.message}"
    )


def _size_of(path: Path) -> int:
    found = path.lstat()
    return found.st_blocks * 512
