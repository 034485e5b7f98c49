"""Looks on a real Prometheus: what bad days do to a verdict, and that a restart does nothing."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from linnet_api.fields import NodeSelector
from linnet_api.model_deployment import ModelDeploymentSpec
from linnet_api.reasons import Verdict
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_operator.cache import FleetCache
from linnet_operator.evidence import config_map, recompute
from linnet_operator.kube import CONTROLLER_REVISIONS, MODEL_ROLLOUTS, NODE_MODELS
from linnet_operator.looks import Looks
from linnet_operator.planner.model import Candidate, DeploymentView, EvidenceRequest, LookKind
from linnet_operator.presets import Subject

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OLD, NEW = "0123456789", "abcdefabcd"
SUBJECT = Subject(namespace="factory", deployment="digits")
ARTIFACT = f"sha256:{'a' * 64}"
SPEC = ModelDeploymentSpec(source="oci://r.io/a:1", nodes=NodeSelector(match_labels={"a": "b"}))
DEPLOYMENT = DeploymentView(namespace="factory", name="digits", uid="u", generation=1, spec=SPEC)


class Inline:
    """The judge without a process of its own."""

    async def run(self, function, *args, **kwargs):
        return function(*args, **kwargs)


class Kept:
    """What was kept of earlier looks."""

    def __init__(self):
        self.bodies = {}

    async def get(self, resource, *, namespace, name):
        del resource, namespace
        return self.bodies[name]


def now():
    return datetime.now(tz=UTC)  # noqa: TID251 - the scrapes of a real Prometheus are in real time


def policy(**judge):
    history = {"window": "1s", "windows": 3, "required": 2}
    steps = [{"nodes": 1, "bake": "1s"}, {"nodes": "100%", "bake": "1s"}]
    return RolloutPolicySpec.model_validate(
        {"steps": steps, "judge": {"interval": "1s", "history": history, **judge}}
    )


class Rollout:
    """edge-b takes the candidate; edge-a stays. All that a look needs, on a real Prometheus."""

    def __init__(self, exporters, source, until):
        self.a, self.b = exporters["edge-a"], exporters["edge-b"]
        self.source, self.until = source, until
        self.cache, self.kube = FleetCache(), Kept()
        self.began = now()
        self.since = self.began
        for node in ("edge-a", "edge-b"):
            self.order(node, OLD)
        for number, revision in ((16, OLD), (17, NEW)):
            self.revision(number, revision)

    def order(self, node, revision):
        desired = {
            "state": "Active",
            "revision": revision,
            "artifact": ARTIFACT,
            "source": "oci://r",
        }
        body = {
            "metadata": {
                "name": node,
                "namespace": "factory",
                "uid": node,
                "resourceVersion": revision,
            },
            "spec": {
                "deployment": "digits",
                "node": {"name": node, "uid": "n"},
                "sequence": 1,
                "desired": desired,
            },
            "status": {"onDisk": [OLD]},
        }
        self.cache.put(NODE_MODELS, body)

    def revision(self, number, revision):
        metadata = {
            "name": f"digits-{revision}",
            "namespace": "factory",
            "uid": revision,
            "resourceVersion": "1",
            "labels": {"linnet.dev/deployment": "digits"},
            "ownerReferences": [
                {"kind": "ModelDeployment", "name": "digits", "uid": "u", "controller": True}
            ],
        }
        data = {
            "revision": revision,
            "artifact": ARTIFACT,
            "deployment": "digits",
            "source": "oci://r.io/a:1",
            "variants": ["onnx"],
            "serving": {"name": "digits"},
        }
        self.cache.put(
            CONTROLLER_REVISIONS, {"metadata": metadata, "revision": number, "data": data}
        )

    def looks(self, at):
        return Looks(
            self.kube, self.cache, Inline(), sources={"default": self.source}, clock=lambda: at
        )

    async def learn(self, *, serve, seconds=4):
        """Serve for some seconds, so that there is a past, and freeze it."""
        serve(self.a)
        serve(self.b)
        # Prometheus takes seconds to find its targets.
        await self.until({("edge-a", OLD): 20, ("edge-b", OLD): 20}, subject=self.subject)
        for _ in range(seconds * 5):
            serve(self.a)
            serve(self.b)
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)
        request = EvidenceRequest(
            kind=LookKind.HISTORY,
            rollout="digits-2",
            rollout_uid="r2",
            step=0,
            candidate=NEW,
            baseline=OLD,
            candidates=(),
            stable=("edge-a", "edge-b"),
            started_at=self.began,
            bake=timedelta(seconds=1),
        )
        looked, at = await self.ask(request)
        ref = looked.evidence.ref
        self.kube.bodies[ref.name] = config_map(
            looked.record, name=ref.name, namespace="factory", labels={}, owner_references=[]
        )
        self.since = at
        self.order("edge-b", NEW)
        status = {
            "evidence": {"name": ref.name, "sha256": ref.sha256},
            "steps": [{"startedAt": at.isoformat().replace("+00:00", "Z")}],
        }
        spec = {
            "deployment": {"name": "digits", "uid": "u"},
            "to": {"revision": NEW, "digest": ARTIFACT},
            "policy": self.policy.to_dict(),
        }
        metadata = {
            "name": "digits-2",
            "namespace": "factory",
            "uid": "r2",
            "resourceVersion": "1",
        }
        self.cache.put(MODEL_ROLLOUTS, {"metadata": metadata, "spec": spec, "status": status})
        return looked

    policy = policy()
    subject = SUBJECT

    async def ask(self, request, at=None):
        """Look, now or at a time; where a busy machine has lost a scrape, again."""
        async with asyncio.timeout(60):
            while True:
                when = at or now()
                looked = await self.looks(when).look(
                    request, deployment=DEPLOYMENT, policy=self.policy
                )
                if looked.record is not None:
                    return looked, when
                assert at is None, looked.evidence
                await asyncio.sleep(0.2)

    async def look(self, at=None):
        looked, self.looked_at = await self.ask(self.request(), at)
        return looked

    def request(self):
        return EvidenceRequest(
            kind=LookKind.STEP,
            rollout="digits-2",
            rollout_uid="r2",
            step=1,
            candidate=NEW,
            baseline=OLD,
            candidates=(Candidate("edge-b", self.since),),
            stable=("edge-a",),
            started_at=self.began,
            bake=timedelta(seconds=1),
        )


def metric_of(looked):
    (metric,) = recompute(looked.record.compressed).inputs.metrics
    return metric


@pytest.fixture
def rollout(exporters, source, until):
    return Rollout(exporters, source, until)


def steadily(exporter):
    exporter.serve(OLD, good=20)


async def test_the_same_look_after_a_restart_is_the_same_bit_for_bit(rollout):
    limit = {"name": "heat", "query": "max(camera_temperature_celsius)", "max": "85"}
    rollout.policy = policy(thresholds=[limit])
    await rollout.learn(serve=steadily)
    rollout.b.serve(NEW, good=40)
    await rollout.until({("edge-b", NEW): 40})

    await rollout.look()
    at = rollout.looked_at
    # By then every scrape of that time is in.
    await asyncio.sleep(1)
    first = await rollout.look(at=at)
    again = await rollout.look(at=at)

    assert first.record.sha256 == again.record.sha256
    assert first.record.canonical == again.record.canonical
    assert recompute(first.record.compressed).inputs.thresholds[0].samples


async def test_a_bad_candidate_is_taken_back_and_the_counts_are_exact(rollout):
    await rollout.learn(serve=steadily)
    rollout.a.serve(OLD, good=50)
    rollout.b.serve(NEW, good=10, bad=50)
    await rollout.until({("edge-b", NEW): 60})

    looked = await rollout.look()

    assert looked.evidence.verdict is Verdict.FAIL
    (row,) = metric_of(looked).candidates
    assert (row.node, row.failures, row.requests) == ("edge-b", 50, 60)


async def test_counters_that_restart_and_a_node_that_was_installed_anew_lose_nothing(rollout):
    """Reset: the process began anew. A reinstalled node is the same: counters from zero."""
    await rollout.learn(serve=steadily)
    rollout.b.serve(NEW, good=40, bad=1)
    await rollout.until({("edge-b", NEW): 41})
    # Longer than the policy's interval: what begins and ends between two looks is not seen.
    await asyncio.sleep(1.5)
    rollout.b.restart()
    rollout.b.serve(NEW, good=10, bad=2)
    await rollout.until({("edge-b", NEW): 12})
    await asyncio.sleep(1)

    looked = await rollout.look()

    (row,) = metric_of(looked).candidates
    assert (row.failures, row.requests) == (3, 53)
    assert (await rollout.look()).evidence.verdict is not Verdict.FAIL


async def test_a_counter_that_jumps_beyond_what_is_a_count_is_no_measurement(rollout):
    await rollout.learn(serve=steadily)
    rollout.b.requests.labels("factory", "digits", NEW, "onnx", "failure").inc(1e300)
    rollout.a.serve(OLD, good=1)
    await rollout.until({("edge-a", OLD): 421})
    await asyncio.sleep(1)

    looked = await rollout.look()

    assert metric_of(looked).candidates[0].requests is None
    assert looked.evidence.verdict is Verdict.NO_DATA


async def test_another_fleets_data_under_our_name_is_foreign_and_never_a_pass(rollout):
    """A second fleet is scraped by the same Prometheus, with our namespace and deployment."""
    await rollout.learn(serve=steadily)
    rollout.a.serve(NEW, good=10_000)
    rollout.b.serve(NEW, good=10_000)
    await rollout.until({("edge-b", NEW): 10_000, ("edge-a", NEW): 10_000})

    looked = await rollout.look()

    assert "ForeignSeries: node 'edge-a' reports revision" in metric_of(looked).partial
    assert looked.evidence.verdict is Verdict.PARTIAL


async def test_failures_counted_late_under_the_old_revision_are_not_the_candidates(rollout):
    """Labels of the old model's answers come in on a node that serves the new one."""
    rollout.policy = policy(compare=[{"name": "wrong", "signal": "Wrong"}])
    await rollout.learn(serve=steadily)
    rollout.b.serve(NEW, good=40)
    rollout.b.serve(OLD, bad=200)
    await rollout.until({("edge-b", NEW): 40})

    looked = await rollout.look()

    metric = metric_of(looked)
    assert metric.partial == ""
    assert [(row.failures, row.requests) for row in metric.candidates] == [(0, 40)]
    assert looked.evidence.verdict is not Verdict.FAIL


async def test_a_prometheus_that_is_behind_shifts_the_look_and_then_is_partial(rollout):
    await rollout.learn(serve=steadily)
    rollout.b.serve(NEW, good=40)
    await rollout.until({("edge-b", NEW): 40})

    soon = await rollout.look()
    later = await rollout.look(at=rollout.looked_at + timedelta(minutes=2))

    assert metric_of(soon).partial == ""
    assert "the newest scrape is" in metric_of(later).partial
    assert later.evidence.verdict is Verdict.PARTIAL


@pytest.mark.parametrize("value", ["nan", "inf"])
async def test_a_threshold_that_is_no_number_is_never_a_pass(rollout, value):
    limit = {"name": "heat", "query": "max(camera_temperature_celsius)", "max": "85"}
    rollout.policy = policy(compare=[], thresholds=[limit])
    for exporter in (rollout.a, rollout.b):
        exporter.heat.set(float(value))
    steadily(rollout.a)
    steadily(rollout.b)
    await rollout.until({("edge-a", OLD): 20, ("edge-b", OLD): 20})
    rollout.since = now() - timedelta(seconds=1)
    await asyncio.sleep(1)

    looked = await rollout.look()

    assert looked.evidence.verdict is Verdict.NO_DATA
    assert "no measurement" in looked.evidence.message


async def test_triton_is_counted_by_model_and_version(rollout):
    """Version 17 is our revision number 17; what Triton rejects is its client's fault."""
    rollout.policy = policy(preset="Triton")
    rollout.subject = Subject(
        namespace="factory",
        deployment="digits",
        preset="Triton",
        model="digits",
        versions={"17": NEW, "16": OLD},
    )

    def serve(exporter):
        exporter.serve_triton("16", good=20)

    await rollout.learn(serve=serve)
    rollout.b.serve_triton("17", good=10, bad=50, rejected=1000)
    await rollout.until({("edge-b", NEW): 60}, subject=rollout.subject)

    looked = await rollout.look()

    (row,) = metric_of(looked).candidates
    assert (row.node, row.failures, row.requests) == ("edge-b", 50, 60)
    assert looked.evidence.verdict is Verdict.FAIL
    assert looked.evidence.requests == {}
