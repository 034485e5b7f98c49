"""One model on this node: take orders up, ask the table what is next, do it, note the result.

- The table (``table.next_action``) decides, ``steps`` does it; this module gathers the facts, keeps
  the journal and knows what to do about what goes wrong.
- The journal is written before a state is entered and after a result is durable; nothing else is
  remembered.
- A fault of the world (registry, server, disk) is waited out with jitter, and what serves serves
  on.
- What lies on the disk is hashed again before it is believed: at every start, and then at
  intervals.
"""

import asyncio
import contextlib
import errno
import logging
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final

from linnet_agent import outcome, table
from linnet_agent.errors import AgentError, DiskFaultError, DiskFullError, ServerUnavailableError
from linnet_agent.journal import Action, Facts, Journal, Known, Step
from linnet_agent.parts import Parts, Reporter
from linnet_agent.rehash import MOMENTARY
from linnet_agent.steps import PreemptedError, Progress, Steps
from linnet_agent.store import ModelDirectory, ModelKey, insist
from linnet_agent.sync import Wanted
from linnet_agent.table import Alarm
from linnet_agent.verify.directory import hash_directory
from linnet_api.reasons import NodeReason, NodeState

log = logging.getLogger(__name__)

_SOAK_LOOK_S: Final = 1.0
_SERVER_LOOK_S: Final = 0.5
_BACKOFF_S: Final = 0.5
_SERVER_BACKOFF_MAX_S: Final = 2.0
_PROGRESS_S: Final = 1.0

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
    progress: Progress | None
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What lies on the disk."""

    current: str | None
    previous: str | None
    complete: frozenset[str]
    corrupt: dict[str, str]


class Worker:
    """Carries out the orders for one model."""

    def __init__(self, key: ModelKey, parts: Parts, reporter: Reporter) -> None:
        self.key = key
        self.journal = Journal()
        self._parts = parts
        self._reporter = reporter
        self._directory: ModelDirectory = parts.store.model(key)
        self._steps = Steps(key, parts, self._directory, on_progress=self._note_progress)
        self._wake = asyncio.Event()
        self._problem: Problem | None = None
        self._lost: set[str] = set()
        """Revisions whose manifest cannot be read: nobody can say any more what they should be."""
        self._seen = _Seen(None, None, frozenset(), {})
        self._tries = 0
        self._progress_told_at = 0.0
        self._disk_fault: Problem | None = None
        """Why nothing can be written down: it is told, and stands nowhere else."""
        self.booted = False

    def notify(self) -> None:
        """Say that something may have changed: order, trust, server, network, disk."""
        self._wake.set()
        wanted = self._parts.desired.get(self.key)
        order = None if wanted is None else wanted.order
        if order is None or self._judge_order(wanted) is not None:
            return
        if not order.same_target(self.journal.order):
            self._steps.preempt.set()

    def view(self) -> WorkerView:
        """Return what there is to tell."""
        seen, journal = self._seen, self.journal
        if (fault := self._disk_fault) is not None:
            journal = replace(journal, reason=fault.reason, message=fault.message)
        return WorkerView(
            journal,
            self._problem,
            seen.current,
            seen.previous,
            seen.complete,
            self._steps.progress,
            table.alarm(
                journal, current=seen.current, complete=seen.complete, corrupt=seen.corrupt
            ),
        )

    def pinned(self) -> frozenset[str]:
        """Return the revisions that may not be evicted."""
        return table.keep_revisions(self.journal, self._facts_on_disk())

    async def run(self) -> None:
        """Work for ever."""
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
        await asyncio.to_thread(self._find_rot)
        resumed = outcome.resume(journal)
        self.journal = journal
        try:
            await self._write(resumed)
        except OSError as error:
            self.journal = resumed
            self._survive(error)
        self._look()
        self.booted = True
        self._reporter.mark(self.key)
        self._steps.log("agent.model.resumed", state=str(resumed.state), resumes=resumed.resumes)

    def _read_journal(self) -> Journal:
        try:
            journal = self._directory.read_journal()
        except ValueError as error:
            journal = None
            self._steps.log("agent.journal.broken", level=logging.ERROR, cause=str(error)[:300])
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
            for revision, record in self._directory.read_all_records().items()
            if revision in (current, previous)
        }
        return Journal(
            known=known,
            committed=current if current in known else None,
            condemned=self._directory.read_condemned(),
        )

    def _find_rot(self) -> None:
        """Look for revisions whose files are not what was verified.

        Raises:
            OSError: They could not be looked at, for a reason that passes.
        """
        store = self._parts.store
        for revision, record in self._directory.read_records().items():
            if record.model_digest in store.corrupt:
                continue
            try:
                artifact = insist(partial(self._directory.read_evidence, revision))
            except (AgentError, OSError, ValueError) as error:
                _require_lasting(error)
                self._lost.add(revision)
                fault = f"its manifest cannot be read: {error}"
            else:
                signed = {layer.name: layer.digest for layer in artifact.layers}
                try:
                    files = insist(partial(hash_directory, store.path_of(record.model_digest)))
                    fault = "" if files == signed else "its files are not those that were verified"
                except (AgentError, OSError) as error:
                    _require_lasting(error)
                    fault = str(error)
                if fault:
                    store.corrupt[record.model_digest] = fault
            if fault:
                self._parts.metrics.corruptions.inc()
                self._steps.log(
                    "agent.model.corrupt", level=logging.ERROR, revision=revision, cause=fault
                )

    # --- the loop

    async def _work(self) -> float | None:
        """Go on until nothing can be done; return for how many seconds, None: until news."""
        while True:
            try:
                if not self.booted:
                    await self._boot()
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
            if not await self._evict():
                return self._back_off()
            self._tries = 0
            return _Pause(None)
        if action.step is Step.WAIT:
            return await self._wait(action, facts)
        if action.step is Step.VERIFY and not self._parts.judge.known:
            return _Pause(None)
        await self._write(outcome.begin(self.journal, action))
        try:
            after = await self._steps.take(action, facts, self.journal)
        except PreemptedError:
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
        self._steps.preempt.clear()
        wanted = self._parts.desired.get(self.key)
        problem = None if wanted is None else self._judge_order(wanted)
        if problem != self._problem:
            self._problem = problem
            self._reporter.mark(self.key)
            if problem is not None:
                self._steps.log("agent.order.refused", reason=str(problem.reason))
        if wanted is None or wanted.order is None or problem is not None:
            return
        if wanted.order == self.journal.order:
            return
        if not wanted.order.same_target(self.journal.order):
            await self._reporter.report_now(self.key)
            self._tries = 0
        order = wanted.order
        await self._write(outcome.accept(self.journal, order))
        self._steps.log("agent.order.taken", revision=order.revision, goal=str(order.goal))

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
        if outcome.is_stale(self.journal, wanted.order):
            return Problem(
                NodeReason.STALE_ORDER,
                f"order {wanted.order.sequence} is older than {self.journal.observed_sequence}, "
                "which this node has taken up; it stays with that one",
            )
        return None

    async def _gather(self) -> Facts:
        view = await self._parts.monitor.refresh()
        self._look()
        judge = self._parts.judge
        hook, sick = await self._ask_program()
        return replace(
            self._facts_on_disk(),
            hook=hook,
            sick=sick,
            server=None if view is None else view.facts(self.key),
            server_gone_s=self._parts.monitor.gone_s,
            policy_hash=judge.hash if judge.known else "",
            allowed=self._steps.allowed(self.journal),
            vanished=self._parts.desired.synced and self._parts.desired.get(self.key) is None,
        )

    async def _ask_program(self) -> tuple[bool, str]:
        """Return whether the program that uses the files is to be told, and what is wrong with it.

        It is asked while its model soaks: before that it may be loading, after that it is the
        business of those who watch it.
        """
        journal, current = self.journal, self._seen.current
        order = journal.order
        concerned = (current, order.revision if order else None, journal.committed)
        if not any(one and table.runtime_of(journal, one) == "Files" for one in concerned):
            return False, ""
        programs = self._parts.programs
        sick = ""
        if current is not None and journal.state is NodeState.SOAKING:
            sick = await programs.ask_health(self._steps.handed(current))
        return programs.has_hook(self.key), sick

    def _facts_on_disk(self) -> Facts:
        seen = self._seen
        return Facts(
            now=self._parts.clock(),
            current=seen.current,
            previous=seen.previous,
            complete=seen.complete,
            corrupt=seen.corrupt,
        )

    def _look(self) -> None:
        store = self._parts.store
        complete, corrupt = set(), {}
        for revision, record in self._directory.read_all_records().items():
            if revision in self._lost:
                continue
            if (fault := store.corrupt.get(record.model_digest)) is not None:
                corrupt[revision] = fault
            elif store.has(record.model_digest):
                complete.add(revision)
            else:
                corrupt[revision] = "its files are gone"
        seen = _Seen(
            self._directory.read_current(),
            self._directory.read_previous(),
            frozenset(complete),
            corrupt,
        )
        if seen != self._seen:
            self._seen = seen
            self._reporter.mark(self.key)

    async def _wait(self, action: Action, facts: Facts) -> "_Pause":
        if action.reason is not NodeReason.NONE:
            after = outcome.postpone(
                self.journal, action, reason=action.reason, message=action.message
            )
            await self._write(after)
            return _Pause(_SERVER_LOOK_S)
        await self._write(outcome.recover(self.journal))
        if action.until is None:
            return _Pause(_SERVER_LOOK_S)
        left_s = (action.until - facts.now).total_seconds()
        return _Pause(max(0.01, min(left_s, _SOAK_LOOK_S)))

    async def _note_error(self, error: AgentError, action: Action, facts: Facts) -> "_Pause | None":
        message = self._say(error)
        reason = error.reason
        if error.transient:
            after = outcome.postpone(self.journal, action, reason=reason, message=message)
        else:
            after = outcome.fail(self.journal, action, facts, reason=reason, message=message)
        if after != self.journal:
            self._steps.log(
                "agent.step.failed",
                level=logging.WARNING,
                step=str(action.step),
                revision=action.revision,
                reason=str(reason),
                cause=message,
            )
        moved = after.state is not self.journal.state or after.revert != self.journal.revert
        await self._write(after)
        if moved:
            return None
        return self._back_off(local=isinstance(error, ServerUnavailableError))

    def _say(self, error: AgentError) -> str:
        """Return what is wrong and what to do; without a full stop, for others go on with it."""
        target = f"{self.key.deployment} -n {self.key.namespace}"
        remedy = error.remedy.replace("DEPLOYMENT", target)
        return f"{error}. {remedy}".removesuffix(".").removesuffix(". ")

    def _back_off(self, *, local: bool = False) -> "_Pause":
        limit_s = _SERVER_BACKOFF_MAX_S if local else self._parts.retry_max_s
        seconds = min(limit_s, _BACKOFF_S * 2 ** min(self._tries, 12))
        self._tries += 1
        return _Pause(seconds * (0.5 + self._parts.jitter() / 2))

    def _survive(self, error: OSError) -> float | None:
        """Note a fault of the disk, in memory only: there may be no room to write it down."""
        full = error.errno in _FULL
        self._steps.log("agent.disk.fault", level=logging.WARNING, cause=str(error), full=full)
        self._parts.metrics.count_disk_fault(error)
        root = self._parts.store.root
        said: AgentError = DiskFaultError(f"the disk below {root} has a fault: {error}")
        if full:
            said = DiskFullError(f"there is no room below {root}")
        self._note_disk(Problem(said.reason, self._say(said)))
        return self._back_off().seconds

    def _note_disk(self, fault: Problem | None) -> None:
        if fault != self._disk_fault:
            self._disk_fault = fault
            self._reporter.mark(self.key)

    def _note_progress(self) -> None:
        self.journal = outcome.recover(self.journal)
        now = monotonic()
        if now - self._progress_told_at >= _PROGRESS_S:
            self._progress_told_at = now
            self._reporter.mark(self.key)

    async def _write(self, journal: Journal) -> None:
        if journal == self.journal:
            return
        await asyncio.to_thread(self._directory.write_journal, journal)
        if journal.revert is not None and self.journal.revert is None:
            self._parts.metrics.count_revert(str(journal.revert.reason))
        if journal.state is not self.journal.state:
            self._steps.log(
                "agent.state",
                state=str(journal.state),
                revision=journal.order.revision if journal.order else None,
                reason=str(journal.reason),
            )
        self.journal = journal
        self._reporter.mark(self.key)
        self._parts.store.checkpoint(f"journal.{journal.state}")

    async def _evict(self) -> bool:
        """Remove what is not needed any more; return false where the disk does not let go of it."""
        try:
            async with self._parts.disk:
                await asyncio.to_thread(self._evict_now)
        except OSError as error:
            self._parts.metrics.count_disk_fault(error)
            self._steps.log("agent.evict.failed", level=logging.WARNING, cause=str(error)[:300])
            return False
        self._look()
        return True

    def _evict_now(self) -> None:
        gone = self._directory.evict(self.pinned())
        if gone:
            self._steps.log("agent.evicted", revisions=" ".join(gone))
        self._parts.store.evict_unused(staging=self._parts.wanted_staging())


def _require_lasting(error: Exception) -> None:
    """Raise an error that says nothing of the bytes."""
    if isinstance(error, OSError) and error.errno in MOMENTARY:
        raise error


@dataclass(frozen=True, slots=True)
class _Pause:
    """Nothing can be done now; ``seconds`` None: until something changes."""

    seconds: float | None
