"""Looks: a dead source is evidence, history is frozen, strangers and skewed clocks are seen."""

from datetime import UTC, datetime, timedelta

import pytest

from linnet_api.fields import NodeSelector
from linnet_api.model_deployment import ModelDeploymentSpec
from linnet_api.reasons import Verdict
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.cache import FleetCache
from linnet_operator.errors import KubeNotFoundError
from linnet_operator.evidence import config_map, make_record, recompute
from linnet_operator.judge.assess import assess
from linnet_operator.judge.counters import Counts
from linnet_operator.judge.thresholds import ThresholdSample
from linnet_operator.kube import MODEL_ROLLOUTS, NODE_MODELS
from linnet_operator.looks import Looks
from linnet_operator.metrics import REGISTRY
from linnet_operator.planner.model import (
    Candidate,
    DeploymentView,
    EvidenceRequest,
    LookKind,
    Served,
)
from linnet_operator.prometheus import Sampled, ScrapeTime
from linnet_operator.terms import step_template

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD, NEW = "0123456789", "abcdefabcd"
ARTIFACT = f"sha256:{'a' * 64}"
NODES = ("edge-1", "edge-2", "edge-3")


class Metrics:
    """A metrics source in which every node serves ten requests a second, by revision."""

    def __init__(self):
        self.scrape = ScrapeTime(at=NOON, nodes=NODES)
        self.since = {(node, OLD): NOON - timedelta(days=1) for node in NODES}
        self.until = {}
        self.unscraped = ()
        self.counted = 0
        self.no_data = ""
        self.warnings = ()
        self.failing = 0.01
        self.value = 1.0
        self.values = {}
        self.down = False
        self.queries = []

    async def newest_common_time(self, *_, **__):
        return self.scrape

    async def counts(self, signal, subject, *, times):
        del subject
        self.counted += 1
        rows = {
            key: tuple(self._sample(key, born, at) for at in times)
            for key, born in self.since.items()
        }
        times_s = tuple(at.timestamp() for at in times)
        return Counts(
            times_s=times_s,
            by_node_revision=rows,
            no_data=self.no_data,
            warnings=self.warnings,
            queries=(f"query of {signal.kind}",),
        )

    def _sample(self, key, born, at):
        if at < born or at in self.unscraped:
            return None
        requests = round(10 * (min(at, self.until.get(key, at)) - born).total_seconds())
        return float(round(requests * self.failing)), float(requests)

    async def samples(self, promql, times):
        self.queries.append((promql, len(times)))
        if self.down:
            return Sampled(no_data="http://p:9090 did not answer within 10s")
        found = [(at, self.values.get(at, self.value)) for at in times]
        return Sampled(
            samples=tuple(
                ThresholdSample(at_s=at.timestamp(), value=value, series=value is not None)
                for at, value in found
            )
        )


class Inline:
    """The judge without a process of its own."""

    async def run(self, function, *args, **kwargs):
        return function(*args, **kwargs)


class ConfigMaps:
    """What was kept of earlier looks."""

    def __init__(self):
        self.kept = {}

    async def get(self, resource, *, namespace, name):
        del resource, namespace
        if name not in self.kept:
            raise KubeNotFoundError(name, status=404)
        return self.kept[name]


ERRORS = [{"name": "errors", "signal": "Errors"}]


def policy(**judge):
    history = {"window": "10s", "windows": 8, "required": 4}
    steps = [{"nodes": 1, "bake": "1m"}, {"nodes": "100%", "bake": "1m"}]
    spec = {"steps": steps, "judge": {"interval": "1s", "history": history, **judge}}
    return RolloutPolicySpec.model_validate(spec)


DEPLOYMENT = DeploymentView(
    namespace="factory",
    name="digits",
    uid="u",
    generation=1,
    spec=ModelDeploymentSpec(
        source="oci://r.io/a:1", nodes=NodeSelector(match_labels={"fleet": "a"})
    ),
)


def request(kind=LookKind.STEP, **fields):
    given = {
        "kind": kind,
        "rollout": "digits-2",
        "rollout_uid": "r2",
        "step": 1 if kind is LookKind.STEP else 0,
        "candidate": NEW,
        "baseline": OLD,
        "candidates": (Candidate("edge-1", NOON - timedelta(minutes=1)),),
        "stable": ("edge-2", "edge-3"),
        "started_at": NOON - timedelta(minutes=5),
        "bake": timedelta(minutes=1),
    }
    if kind is LookKind.HISTORY:
        given |= {"candidates": (), "stable": NODES}
    return EvidenceRequest(**{**given, **fields})


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def kube():
    return ConfigMaps()


@pytest.fixture
def cache():
    filled = FleetCache()
    for node in NODES:
        revision = NEW if node == "edge-1" else OLD
        desired = {
            "state": "Active",
            "revision": revision,
            "artifact": ARTIFACT,
            "source": "oci://r",
        }
        spec = {"deployment": "digits", "node": {"name": node, "uid": "n"}, "sequence": 1}
        metadata = {"name": node, "namespace": "factory", "uid": node, "resourceVersion": "1"}
        status = {"onDisk": [OLD]}
        body = {"metadata": metadata, "spec": {**spec, "desired": desired}, "status": status}
        filled.put(NODE_MODELS, body)
    return filled


@pytest.fixture
def looks(kube, cache, metrics):
    sources = {"default": metrics}
    return lambda clock=lambda: NOON: Looks(kube, cache, Inline(), sources=sources, clock=clock)


def put_rollout(cache, evidence):
    revision = {"revision": NEW, "digest": ARTIFACT}
    spec = {
        "deployment": {"name": "digits", "uid": "u"},
        "to": revision,
        "policy": policy().to_dict(),
    }
    status = {"evidence": {"name": evidence.name, "sha256": evidence.sha256}}
    metadata = {"name": "digits-2", "namespace": "factory", "uid": "r2", "resourceVersion": "1"}
    cache.put(MODEL_ROLLOUTS, {"metadata": metadata, "spec": spec, "status": status})


async def look_back_and_keep(looks, kube, cache):
    """Take the history look, and keep it as the planner and the writer would."""
    looked = await looks().look(request(LookKind.HISTORY), deployment=DEPLOYMENT, policy=policy())
    ref = looked.evidence.ref
    kube.kept[ref.name] = config_map(
        looked.record, name=ref.name, namespace="factory", labels={}, owner_references=[]
    )
    put_rollout(cache, ref)
    return looked


async def test_enough_history_is_ready_and_its_record_can_be_judged_again(looks, kube, cache):
    looked = await look_back_and_keep(looks, kube, cache)

    assert looked.evidence.verdict is Verdict.PASS
    again = recompute(looked.record.compressed)
    assert again.differences == ()
    assert again.inputs.metrics[0].learned.windows == 8


async def test_too_little_history_is_learning_and_says_how_much_there_is(looks, metrics):
    metrics.since = {(node, OLD): NOON - timedelta(seconds=25) for node in NODES}

    looked = await looks().look(request(LookKind.HISTORY), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.LEARNING
    assert looked.evidence.short == "2 of 4 windows"


async def test_a_past_that_the_source_calls_partial_is_not_frozen(looks, metrics):
    metrics.warnings = ("a store is down",)

    looked = await looks().look(request(LookKind.HISTORY), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.PARTIAL
    assert "a store is down" in looked.evidence.message
    assert looked.record is None


async def test_history_under_another_revision_is_no_history(looks, metrics):
    metrics.since = {(node, NEW): NOON - timedelta(days=1) for node in NODES}

    looked = await looks().look(request(LookKind.HISTORY), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.LEARNING


async def test_a_step_is_judged_by_the_frozen_history_after_a_restart_too(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    metrics.until["edge-1", OLD] = NOON - timedelta(minutes=1)

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())

    inputs = recompute(looked.record.compressed).inputs
    assert inputs.metrics[0].learned is not None
    assert [row.node for row in inputs.metrics[0].candidates] == ["edge-1"]
    assert [row.node for row in inputs.metrics[0].stable] == ["edge-2", "edge-3"]
    assert looked.evidence.requests == {"edge-1": pytest.approx(600)}
    assert looked.evidence.verdict in {Verdict.PASS, Verdict.UNDECIDED}


def swap_record(kube, _record):
    """Put another one in the place of the record that the rollout names."""
    (name,) = kube.kept
    other = make_record(step_template(policy()), assess(step_template(policy())), about={})
    kube.kept[name] = config_map(
        other, name=name, namespace="factory", labels={}, owner_references=[]
    )


@pytest.mark.parametrize("on_missing", ["Wait", "Proceed"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda kube, _: kube.kept.clear(), id="gone"),
        pytest.param(lambda _, record: record.update(binaryData={}), id="empty"),
        pytest.param(swap_record, id="another one"),
    ],
)
async def test_a_frozen_history_that_cannot_be_read_is_no_data_and_never_no_history(
    looks, cache, kube, metrics, on_missing, spoil
):
    """With onMissing: Proceed a rollout would go on without the comparison."""
    await look_back_and_keep(looks, kube, cache)
    spoil(kube, next(iter(kube.kept.values())))
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    history = {"window": "10s", "windows": 8, "required": 4, "onMissing": on_missing}

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy(history=history))

    assert looked.evidence.verdict is Verdict.NO_DATA
    assert "history that was frozen in ConfigMap 'digits-2-" in looked.evidence.message
    assert "abort this rollout and retry" in looked.evidence.message


async def test_thresholds_condemn_also_while_the_frozen_history_cannot_be_read(
    looks, cache, kube, metrics
):
    await look_back_and_keep(looks, kube, cache)
    kube.kept.clear()
    metrics.value = 90.0

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=heated())

    assert looked.evidence.verdict is Verdict.FAIL


async def test_a_scrape_that_failed_at_the_activation_does_not_count_an_earlier_attempt(
    looks, kube, cache, metrics
):
    """Tried an hour ago on the same server, whose counters go on; now it is retried."""
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(hours=1)
    whole = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())
    metrics.unscraped = (NOON - timedelta(minutes=1),)

    looker = looks()
    gap = await looker.look(request(), deployment=DEPLOYMENT, policy=policy())
    asked = metrics.counted
    await looker.look(request(), deployment=DEPLOYMENT, policy=policy())

    assert metrics.counted == asked + 1
    assert whole.evidence.requests == {"edge-1": 600}
    # The last scrape before was a minute earlier.
    assert gap.evidence.requests == {"edge-1": 1200}


async def test_what_was_before_is_asked_again_while_the_source_calls_it_partial(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(seconds=50)
    looker = looks()
    metrics.warnings = ("a store is down",)
    partial = await looker.look(request(), deployment=DEPLOYMENT, policy=policy())
    metrics.warnings = ()

    whole = await looker.look(request(), deployment=DEPLOYMENT, policy=policy())

    assert partial.evidence.verdict is Verdict.PARTIAL
    assert whole.evidence.verdict in {Verdict.PASS, Verdict.UNDECIDED}


async def test_an_activation_time_of_a_wrong_clock_is_kept_within_the_rollout(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    years_ago = (Candidate("edge-1", datetime(1999, 1, 1, tzinfo=UTC)),)

    looked = await looks().look(
        request(candidates=years_ago), deployment=DEPLOYMENT, policy=policy()
    )

    row = recompute(looked.record.compressed).inputs.metrics[0].candidates[0]
    assert row.seconds == 300


async def test_a_stranger_that_reports_the_candidate_makes_it_partial(looks, kube, cache, metrics):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    metrics.since["edge-2", NEW] = NOON - timedelta(minutes=1)

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())

    partial = recompute(looked.record.compressed).inputs.metrics[0].partial
    assert partial.startswith("ForeignSeries: node 'edge-2'")
    assert looked.evidence.verdict is Verdict.PARTIAL


async def test_a_scrape_that_is_old_makes_it_partial(looks, kube, cache, metrics):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=2)
    metrics.scrape = ScrapeTime(at=NOON - timedelta(seconds=50), nodes=NODES)

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.PARTIAL


@pytest.mark.parametrize("kind", list(LookKind))
async def test_a_source_that_is_down_is_no_data(looks, metrics, kind):
    metrics.scrape = ScrapeTime(at=None, no_data="http://p:9090 cannot be reached")

    looked = await looks().look(request(kind), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.NO_DATA
    assert looked.evidence.message == "http://p:9090 cannot be reached"
    assert looked.record is None


async def test_a_source_that_fails_half_way_is_no_data(looks, kube, cache, metrics):
    await look_back_and_keep(looks, kube, cache)
    metrics.no_data = "http://p:9090 did not answer within 10s"

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())

    assert looked.evidence.verdict is Verdict.NO_DATA
    assert "did not answer" in looked.evidence.message


async def test_a_source_that_nobody_knows_is_named(looks):
    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy(source="far"))

    assert looked.evidence.verdict is Verdict.NO_DATA
    assert "--prometheus far=URL" in looked.evidence.message


HEAT = {"name": "heat", "query": 'max(t{node=~"{{nodes}}"})', "max": "85"}


def heated(**fields):
    """A first rollout whose policy has one threshold; edge-1 serves since a minute ago."""
    return policy(interval="10s", thresholds=[{**HEAT, **fields}])


def first(**fields):
    return request(baseline=None, stable=(), started_at=NOON - timedelta(minutes=2), **fields)


def thresholds_of(looked):
    (threshold,) = recompute(looked.record.compressed).inputs.thresholds
    return threshold


async def test_a_threshold_is_sampled_at_fixed_times_since_a_node_serves(looks, metrics):
    looked = await looks().look(first(), deployment=DEPLOYMENT, policy=heated())

    assert metrics.queries == [('max(t{node=~"edge-1"})', 7)]
    times = [NOON - timedelta(seconds=10 * index) for index in range(6, -1, -1)]
    assert [each.at_s for each in thresholds_of(looked).samples] == [t.timestamp() for t in times]
    assert looked.evidence.verdict is Verdict.PASS


async def test_a_row_of_failures_does_not_begin_anew_with_a_restart(looks, metrics):
    """The samples of a running step are had again from the source, and stand in the record."""
    judged = heated(consecutiveFailureLimit=2)
    metrics.values = {NOON - timedelta(seconds=s): 90.0 for s in (20, 10, 0)}
    looker = looks()
    metrics.scrape = ScrapeTime(at=NOON - timedelta(seconds=10), nodes=NODES)
    before = await looker.look(first(), deployment=DEPLOYMENT, policy=judged)
    metrics.scrape = ScrapeTime(at=NOON, nodes=NODES)

    same = await looker.look(first(), deployment=DEPLOYMENT, policy=judged)
    restarted = await looks().look(first(), deployment=DEPLOYMENT, policy=judged)

    assert before.evidence.verdict is Verdict.UNDECIDED
    assert same.evidence.verdict is Verdict.FAIL
    assert restarted.record.sha256 == same.record.sha256
    # The running one asks for what is new; the new one asks for all.
    assert [count for _, count in metrics.queries] == [6, 1, 7]


async def test_each_sample_is_asked_with_the_nodes_that_served_then(looks, metrics):
    later = Candidate("edge-2", NOON - timedelta(seconds=25))

    await looks().look(
        first(candidates=(*request().candidates, later)), deployment=DEPLOYMENT, policy=heated()
    )

    assert metrics.queries == [('max(t{node=~"edge-1"})', 4), ('max(t{node=~"edge-1|edge-2"})', 3)]


async def test_nothing_is_measured_before_the_initial_delay_and_nothing_passes(looks, metrics):
    judged = heated(initialDelay="2m10s")

    looked = await looks().look(first(), deployment=DEPLOYMENT, policy=judged)

    assert metrics.queries == []
    assert looked.evidence.verdict is Verdict.NOT_MEASURED


async def test_a_threshold_has_an_interval_of_its_own(looks, metrics):
    await looks().look(first(), deployment=DEPLOYMENT, policy=heated(interval="30s"))

    assert metrics.queries == [('max(t{node=~"edge-1"})', 3)]


async def test_a_threshold_over_more_nodes_than_can_be_named_is_missing_and_not_of_all_nodes(
    looks, metrics
):
    many = tuple(Candidate(f"edge-{n}", NOON - timedelta(minutes=1)) for n in range(1001))

    looked = await looks().look(
        first(candidates=many), deployment=DEPLOYMENT, policy=heated(consecutiveErrorLimit=3)
    )

    assert metrics.queries == []
    assert looked.evidence.verdict is Verdict.NO_DATA
    assert looked.evidence.gave_up
    assert "join on linnet_model_info" in looked.evidence.message


async def test_a_source_that_fails_for_a_threshold_is_no_data_and_asked_again(looks, metrics):
    looker = looks()
    metrics.down = True
    down = await looker.look(first(), deployment=DEPLOYMENT, policy=heated())
    metrics.down = False

    up = await looker.look(first(), deployment=DEPLOYMENT, policy=heated())

    assert down.evidence.verdict is Verdict.NO_DATA
    assert "did not answer" in down.evidence.message
    assert up.evidence.verdict is Verdict.PASS


async def test_what_is_missing_is_asked_again_for_five_minutes_only(looks, metrics):
    metrics.value = None
    asked = request(
        baseline=None,
        stable=(),
        candidates=(Candidate("edge-1", NOON - timedelta(minutes=10)),),
        started_at=NOON - timedelta(minutes=10),
    )
    looker, judged = looks(), heated(interval="1m")

    await looker.look(asked, deployment=DEPLOYMENT, policy=judged)
    await looker.look(asked, deployment=DEPLOYMENT, policy=judged)

    assert [count for _, count in metrics.queries] == [11, 6]


async def test_missing_samples_in_a_row_give_up_and_are_told_to_the_planner(looks, metrics):
    metrics.value = None

    tolerated = await looks().look(
        first(), deployment=DEPLOYMENT, policy=heated(consecutiveErrorLimit=7)
    )
    looked = await looks().look(
        first(), deployment=DEPLOYMENT, policy=heated(consecutiveErrorLimit=6)
    )

    assert not tolerated.evidence.gave_up
    assert looked.evidence.gave_up
    assert looked.evidence.verdict is Verdict.NO_DATA


async def test_a_threshold_that_names_the_baseline_is_not_asked_in_a_first_rollout(looks, metrics):
    both = {"name": "rise", "query": "sum(x{r='{{revision}}'}) - sum(x{r='{{ baseline }}'})"}
    judged = policy(thresholds=[HEAT, {**both, "max": "1"}])

    await looks().look(first(), deployment=DEPLOYMENT, policy=judged)

    assert {query for query, _ in metrics.queries} == {'max(t{node=~"edge-1"})'}


async def test_a_dry_run_is_recorded_and_decides_nothing(looks, kube, cache, metrics):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    metrics.value = 90.0
    compared = await looks().look(request(), deployment=DEPLOYMENT, policy=policy())

    looked = await looks().look(
        request(), deployment=DEPLOYMENT, policy=heated(dryRun=True, interval="1s")
    )

    assert looked.evidence.verdict is compared.evidence.verdict
    assert "Dry run, would have taken it back: heat: 90 is beyond" in looked.evidence.message
    assert thresholds_of(looked).spec.dry_run


async def test_late_labels_of_the_old_model_are_neither_foreign_nor_the_candidates(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    # Labels of answers that edge-1 gave hours ago, under the old revision, still come in.
    assert ("edge-1", OLD) in metrics.since

    wrong = [{"name": "wrong", "signal": "Wrong"}]
    looked = await looks().look(
        request(), deployment=DEPLOYMENT, policy=policy(compare=[*wrong, *ERRORS])
    )

    again = recompute(looked.record.compressed)
    assert again.about["queries"] == ["query of Errors", "query of Wrong"]
    metric = again.inputs.metrics[1]
    assert metric.partial == ""
    assert [(row.node, row.requests) for row in metric.candidates] == [("edge-1", 600)]


async def test_rule_16_a_look_carries_what_the_nodes_reported_before_its_metrics(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    since = NOON - timedelta(minutes=1)
    metrics.since["edge-1", NEW] = since
    metrics.failing = 0.25
    looker = looks()

    async def look(own):
        candidates = (Candidate("edge-1", since, own=own),)
        asked = request(candidates=candidates)
        return (await looker.look(asked, deployment=DEPLOYMENT, policy=policy())).evidence

    first = await look(Served(650, 200))
    silent = await look(None)
    later = await look(Served(600, 150))
    newest = await look(Served(700, 250))

    assert (first.requests, first.failures) == ({"edge-1": 600}, {"edge-1": 150})
    assert first.own == silent.own == {"edge-1": Served(650, 200)}
    assert later.own == newest.own == {"edge-1": Served(600, 150)}


async def test_a_preset_without_reports_of_its_own_has_no_requests_to_fit(
    looks, kube, cache, metrics
):
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)

    looked = await looks().look(request(), deployment=DEPLOYMENT, policy=policy(preset="Triton"))

    assert looked.evidence.requests == {}
    assert looked.evidence.verdict in {Verdict.PASS, Verdict.UNDECIDED}


def placebo(outcome):
    labels = {"namespace": "factory", "deployment": "digits", "outcome": outcome}
    return REGISTRY.get_sample_value("linnet_judge_placebo_total", labels) or 0.0


def allowed():
    labels = {"namespace": "factory", "deployment": "digits"}
    return REGISTRY.get_sample_value("linnet_judge_placebo_allowed_total", labels) or 0.0


@pytest.mark.parametrize(
    ("began", "counted"), [(timedelta(minutes=6), 2), (timedelta(minutes=4), 0)]
)
async def test_stable_nodes_are_judged_as_if_they_had_changed_and_counted_once(
    looks, kube, cache, metrics, began, counted
):
    """Once over restarts too: an operator that comes to a step midway does not count it again."""
    await look_back_and_keep(looks, kube, cache)
    metrics.since["edge-1", NEW] = NOON - timedelta(minutes=1)
    times = iter([NOON - began, NOON, NOON])
    looker = looks(clock=lambda: next(times))

    before = placebo("Judged"), placebo("TakenBack"), allowed()
    for _ in range(2):
        await looker.look(request(), deployment=DEPLOYMENT, policy=policy())

    assert placebo("Judged") == before[0] + counted
    assert placebo("TakenBack") == before[1]
    assert allowed() == pytest.approx(before[2] + counted * 0.01)
