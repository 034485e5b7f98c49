"""A look: asks the metrics source what the planner wants to know, and the judge what it says.

Rules:
- All questions are for fixed times, and all answers stand in the record: anyone can judge again.
- A metrics source that is dead, slow or unknown is evidence (NoData), never an error.
- The judge runs in a worker process: it never blocks the loop.
- History is read until it suffices, then frozen; after a restart it comes from the record.
- Nothing that a verdict rests on lives in memory only: after a restart the same look gives the same
  record.
- Reports about nodes that do not hold a revision make a look partial, and are named.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from linnet_api.durations import parse_duration
from linnet_api.model_rollout import EvidenceRef
from linnet_api.reasons import Verdict
from linnet_api.rollout_policy import Compare, RolloutPolicySpec
from linnet_operator.cache import (
    FleetCache,
    RevisionFacts,
    RolloutFacts,
    facts_of,
)
from linnet_operator.completeness import holders_of, say_partial
from linnet_operator.errors import KubeError
from linnet_operator.evidence import EvidenceRecord, EvidenceRecordError, read_config_map
from linnet_operator.history import incomplete, read_histories, say_readiness, unreadable
from linnet_operator.judge.assess import MetricInputs
from linnet_operator.judge.compare import NodeCount
from linnet_operator.judge.counters import Counts, node_counts, with_first
from linnet_operator.judge.learned import Learned
from linnet_operator.kube import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    Kube,
)
from linnet_operator.learning import (
    Workers,
    judge_step,
    learn_all,
    read_learned,
)
from linnet_operator.own_reports import OwnReports
from linnet_operator.placebo_watch import PlaceboWatch
from linnet_operator.planner.model import (
    DeploymentView,
    Evidence,
    EvidenceRequest,
    LookKind,
)
from linnet_operator.presets import Signal, Subject
from linnet_operator.prometheus import MetricsSource, ScrapeTime, fixed_times, step_times
from linnet_operator.sampling import Sampler
from linnet_operator.templates import asked, fill_in, words_of
from linnet_operator.terms import signal_of, step_template

log = logging.getLogger(__name__)

_LOOK_BACK: Final = timedelta(minutes=30)
_LOOK_BACK_STEP: Final = timedelta(minutes=1)
_SHORTEST_LAG: Final = timedelta(seconds=5)
_ERRORS: Final = Signal(kind="Errors")


@dataclass(frozen=True, slots=True)
class Looked:
    """A look, and what can be kept of it.

    Attributes:
        evidence: For the planner.
        record: What stands behind ``evidence.ref``; None where there is nothing to keep.
    """

    evidence: Evidence
    record: EvidenceRecord | None = None


@dataclass(slots=True)
class _Memory:
    """What is remembered of one rollout between looks; all of it can be had again."""

    rollout_uid: str
    learned: Mapping[str, Learned] | None = None
    step: int = 0
    sampler: Sampler = field(default_factory=Sampler)
    own: OwnReports = field(default_factory=OwnReports)
    # What was counted before a time, by signal: it does not change any more.
    before: dict[tuple[Signal, datetime], Counts] = field(
        default_factory=dict[tuple[Signal, datetime], Counts]
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """One look that is due, with all that it needs."""

    request: EvidenceRequest
    deployment: DeploymentView
    policy: RolloutPolicySpec
    source: MetricsSource
    subject: Subject
    now: datetime

    @property
    def interval(self) -> timedelta:
        return parse_duration(self.policy.judge.interval)

    def about(self, **facts: object) -> dict[str, Any]:
        """Return the facts for people that stand in the record."""
        request = self.request
        return {
            "namespace": self.deployment.namespace,
            "deployment": self.deployment.name,
            "rollout": request.rollout,
            "rolloutUID": request.rollout_uid,
            "step": request.step,
            "candidate": request.candidate,
            "baseline": request.baseline,
            "at": _shown(self.now),
            **facts,
        }


class Looks:
    """Looks for one deployment."""

    def __init__(
        self,
        kube: Kube,
        cache: FleetCache,
        workers: Workers,
        *,
        sources: Mapping[str, MetricsSource],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._workers = workers
        self._sources = sources
        self._clock = clock
        self._memory = _Memory(rollout_uid="")
        self._placebo = PlaceboWatch(workers, since=clock())

    async def look(
        self, request: EvidenceRequest, *, deployment: DeploymentView, policy: RolloutPolicySpec
    ) -> Looked:
        """Return one look; a dead Prometheus is evidence (NoData), not an error."""
        if self._memory.rollout_uid != request.rollout_uid:
            self._memory = _Memory(rollout_uid=request.rollout_uid)
        now = self._clock()
        source = self._sources.get(policy.judge.source)
        if source is None:
            known = ", ".join(sorted(self._sources)) or "none"
            message = (
                f"the policy asks the Prometheus {policy.judge.source!r}, the operator knows "
                f"{known}; "
                f"start it with --prometheus {policy.judge.source}=URL"
            )
            return Looked(_no_data(request, now, message))
        subject = self._subject(deployment, preset=policy.judge.preset)
        question = _Question(request, deployment, policy, source, subject, now)
        try:
            if request.kind is LookKind.HISTORY:
                return await self._look_back(question)
            return await self._look_at_step(question)
        except EvidenceRecordError as error:
            return Looked(_no_data(request, now, f"{error}. {error.remedy}"))

    # ------------------------------------------------------------ before the first step

    async def _look_back(self, question: _Question) -> Looked:
        request, judge = question.request, question.policy.judge
        assert request.baseline is not None, request
        scrape = await self._scrape_time(question)
        if scrape.at is None:
            return Looked(_no_data(request, question.now, scrape.no_data))
        histories = await read_histories(question.source, question.subject, judge, end=scrape.at)
        problem = unreadable(histories)
        if problem:
            return Looked(_no_data(request, question.now, problem))
        warned = incomplete(histories)
        if warned:
            # What is frozen stays: a past with holes that nobody sees is not frozen.
            return Looked(_no_data(request, question.now, warned, verdict=Verdict.PARTIAL))
        lesson = await self._workers.run(
            learn_all,
            histories,
            baseline=request.baseline,
            nodes=request.stable,
            interval_s=question.interval.total_seconds(),
            window_s=parse_duration(judge.history.window).total_seconds(),
            template=step_template(question.policy),
            about=question.about(
                kind="history",
                until=_shown(scrape.at),
                window=judge.history.window,
                queries=sorted({text for each in histories for text in each.windows.queries}),
            ),
        )
        message, short = say_readiness(lesson.ready, nodes=len(request.stable))
        ready = request.stable and not any(each.lacking for each in lesson.ready.values())
        evidence = Evidence(
            rollout_uid=request.rollout_uid,
            step=0,
            at=question.now,
            verdict=Verdict.PASS if ready else Verdict.LEARNING,
            message=message,
            short=short,
            ref=_ref(request, lesson.record),
        )
        self._memory.learned = None
        return Looked(evidence, lesson.record)

    # ------------------------------------------------------------ during a step

    async def _look_at_step(self, question: _Question) -> Looked:
        request = question.request
        scrape = await self._scrape_time(question)
        if scrape.at is None:
            return Looked(_no_data(request, question.now, scrape.no_data))
        since = _activations(request, until=scrape.at)
        start = min(since.values(), default=request.started_at)
        times = step_times(start=start, end=scrape.at, interval=question.interval)
        learned, unlearned = await self._learned_of(question)
        requests = await self._counts(question, _ERRORS, times, start=start)
        compares = question.policy.judge.compare if request.baseline else ()
        counted = [
            requests
            if signal_of(compare) == _ERRORS
            else await self._counts(question, signal_of(compare), times, start=start)
            for compare in compares
        ]
        metrics = [
            self._metric(
                question,
                compare,
                replace(counts, no_data=counts.no_data or unlearned),
                learned,
                since=since,
                scrape=scrape,
            )
            for compare, counts in zip(compares, counted, strict=True)
        ]
        sampler = self._sampler_of(request)
        limits = asked(question.policy.judge.thresholds, first_rollout=request.baseline is None)
        thresholds = [
            await sampler.sample(
                threshold,
                question.source,
                begin=self._step_began(question),
                until=scrape.at,
                interval=question.interval,
                words_at=lambda at: _words_at(question, since, at),
            )
            for threshold in limits
        ]
        inputs = replace(
            step_template(question.policy), metrics=tuple(metrics), thresholds=tuple(thresholds)
        )
        words = _words_at(question, since, scrape.at) or {}
        queries = {query for each in (requests, *counted) for query in each.queries}
        queries |= {fill_in(each.query, words) for each in limits}
        judged = await self._workers.run(
            judge_step,
            inputs,
            question.about(
                kind="step",
                until=_shown(scrape.at),
                start=_shown(start),
                activations={node: _shown(at) for node, at in sorted(since.items())},
                queries=sorted(queries),
            ),
        )
        await self._placebo.look(
            inputs,
            of=(question.deployment.namespace, question.deployment.name),
            rollout_uid=request.rollout_uid,
            step=request.step,
            step_began=self._step_began(question),
            stable=request.stable,
            size=len(request.candidates),
        )
        said = judged.assessment
        known = self._own_counts(question, requests, since, until=scrape.at)
        served = {row.node: row.requests for row in known if row.requests is not None}
        self._memory.own.note(request.candidates, at=question.now)
        evidence = Evidence(
            rollout_uid=request.rollout_uid,
            step=request.step,
            at=question.now,
            verdict=Verdict(said.verdict),
            message=said.message,
            short=said.short[:40],
            needs_person=said.needs_person,
            gave_up=any(each.gave_up and not each.dry_run for each in said.thresholds),
            requests=served,
            failures={row.node: row.failures for row in known if row.failures is not None},
            own=self._memory.own.known_by(
                served,
                until=scrape.at,
                interval=question.interval,
                candidates=request.candidates,
                started_at=request.started_at,
            ),
            ref=_ref(request, judged.record),
        )
        return Looked(evidence, judged.record)

    def _metric(
        self,
        question: _Question,
        compare: Compare,
        counts: Counts,
        learned: Mapping[str, Learned],
        *,
        since: Mapping[str, datetime],
        scrape: ScrapeTime,
    ) -> MetricInputs:
        request = question.request
        assert request.baseline is not None, request
        assert scrape.at is not None, scrape
        domains = {each.node: each.domain for each in request.candidates}
        candidates = tuple(
            replace(row, domain=domains[row.node])
            for row in _node_counts(counts, request.candidate, since, until=scrape.at)
        )
        stable = node_counts(
            counts,
            revision=request.baseline,
            seconds_by_node=dict.fromkeys(
                request.stable, max(0.0, scrape.at.timestamp() - counts.times_s[0])
            ),
            born_at_zero=False,
        )
        return MetricInputs(
            name=compare.name,
            signal=compare.signal,
            learned=learned.get(compare.name),
            candidates=candidates,
            stable=stable,
            no_data=counts.no_data,
            partial=say_partial(
                counts,
                scrape,
                now=question.now,
                interval=question.interval,
                candidates=[each.node for each in request.candidates],
                holders=holders_of(
                    self._cache.of_deployment(
                        NODE_MODELS,
                        namespace=question.deployment.namespace,
                        deployment=question.deployment.name,
                    )
                ),
            ),
        )

    async def _counts(
        self, question: _Question, signal: Signal, times: Sequence[datetime], *, start: datetime
    ) -> Counts:
        """Return the counters at ``times``, the first of which is about ``start``.

        A revision that was tried before counts on, and a scrape that failed just when it was
        activated again must not make its whole past look like now: where the candidate's first
        sample is missing, it is the last one before.
        """
        counts = await question.source.counts(signal, question.subject, times=times)
        rows = counts.by_node_revision.items()
        candidate = question.request.candidate
        if not any(key[1] == candidate and row[0] is None for key, row in rows):
            return counts
        before = self._memory.before.get((signal, start))
        if before is None:
            earlier = fixed_times(start=start - _LOOK_BACK, end=start, step=_LOOK_BACK_STEP)
            before = await question.source.counts(signal, question.subject, times=earlier)
            if before.no_data:
                return replace(counts, no_data=before.no_data)
            if not before.warnings:
                self._memory.before[signal, start] = before
        return with_first(counts, before, revision=candidate)

    def _sampler_of(self, request: EvidenceRequest) -> Sampler:
        if self._memory.step != request.step:
            self._memory.step = request.step
            self._memory.sampler = Sampler()
        return self._memory.sampler

    def _step_began(self, question: _Question) -> datetime:
        """Return when the step began, as it is recorded."""
        request = question.request
        entry = self._cache.get(
            MODEL_ROLLOUTS, namespace=question.deployment.namespace, name=request.rollout
        )
        steps = facts_of(entry, RolloutFacts).status.steps if entry is not None else ()
        step = steps[request.step - 1] if request.step <= len(steps) else None
        return step.started_at if step and step.started_at else request.started_at

    def _subject(self, deployment: DeploymentView, *, preset: str) -> Subject:
        entries = self._cache.of_deployment(
            CONTROLLER_REVISIONS, namespace=deployment.namespace, deployment=deployment.name
        )
        views = [facts_of(entry, RevisionFacts).view for entry in entries]
        return Subject(
            namespace=deployment.namespace,
            deployment=deployment.name,
            preset=preset,
            model=deployment.serving.name or deployment.name,
            versions={str(view.number): view.revision for view in views},
        )

    def _own_counts(
        self, question: _Question, counts: Counts, since: Mapping[str, datetime], *, until: datetime
    ) -> tuple[NodeCount, ...]:
        """Return what must fit the nodes' own reports; they know only what linnet-server counts."""
        if question.subject.preset != "Linnet":
            return ()
        return _node_counts(counts, question.request.candidate, since, until=until)

    async def _learned_of(self, question: _Question) -> tuple[Mapping[str, Learned], str]:
        """Return the parameters that were frozen at the start, and why they cannot be had.

        They are read from the record once. One that is named and cannot be read is no data, and not
        the same as none: a policy may go on without a history.
        """
        if self._memory.learned is not None:
            return self._memory.learned, ""
        namespace = question.deployment.namespace
        entry = self._cache.get(MODEL_ROLLOUTS, namespace=namespace, name=question.request.rollout)
        ref = facts_of(entry, RolloutFacts).status.evidence if entry is not None else None
        if ref is None:
            return {}, ""
        try:
            body = await self._kube.get(CONFIG_MAPS, namespace=namespace, name=ref.name)
            record = read_config_map(body)
            self._memory.learned = await self._workers.run(read_learned, record, ref.sha256)
        except (KubeError, EvidenceRecordError) as error:
            log.warning("look.history.unreadable", extra={"reason": str(error)})
            return {}, (
                f"the history that was frozen in ConfigMap {ref.name!r} cannot be read ({error}); "
                "if it does not come back: abort this rollout and retry, to learn anew"
            )
        return self._memory.learned, ""

    async def _scrape_time(self, question: _Question) -> ScrapeTime:
        return await question.source.newest_common_time(
            question.subject,
            now=question.now,
            lag_limit=max(_SHORTEST_LAG, 2 * question.interval),
        )


def _words_at(
    question: _Question, since: Mapping[str, datetime], at: datetime
) -> dict[str, str] | None:
    """Return what the words of a query stand for at a time; None while nobody serves it yet."""
    nodes = sorted(node for node, activated in since.items() if activated <= at)
    if not nodes:
        return None
    return words_of(
        namespace=question.deployment.namespace,
        deployment=question.deployment.name,
        revision=question.request.candidate,
        baseline=question.request.baseline,
        window=at - min(since.values()),
        nodes=nodes,
    )


def _activations(request: EvidenceRequest, *, until: datetime) -> dict[str, datetime]:
    """Return since when each candidate serves, within the rollout: a node's clock may be wrong."""
    return {
        each.node: min(max(each.since, request.started_at), max(until, request.started_at))
        for each in request.candidates
    }


def _node_counts(
    counts: Counts, revision: str, since: Mapping[str, datetime], *, until: datetime
) -> tuple[NodeCount, ...]:
    return node_counts(
        counts,
        revision=revision,
        seconds_by_node={node: _seconds(at, until) for node, at in since.items()},
        born_at_zero=True,
    )


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def _ref(request: EvidenceRequest, record: EvidenceRecord) -> EvidenceRef:
    return EvidenceRef(name=f"{request.rollout}-{record.sha256[:16]}", sha256=record.sha256)


def _no_data(
    request: EvidenceRequest, now: datetime, message: str, *, verdict: Verdict = Verdict.NO_DATA
) -> Evidence:
    return Evidence(
        rollout_uid=request.rollout_uid,
        step=request.step,
        at=now,
        verdict=verdict,
        message=message,
        short="no data" if verdict is Verdict.NO_DATA else "partial data",
    )


def _shown(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
