"""The loop: killed at every write it goes on, and one deployment's trouble is its own.

The API server is in memory, for faults at a chosen write; versions and conflicts are as there.
"""

import asyncio
import contextlib
import copy
import hashlib
import itertools
from datetime import UTC, datetime

import pytest

from linnet_api.reasons import Verdict
from linnet_operator.cache import FleetCache
from linnet_operator.errors import KubeConflictError, KubeNotFoundError
from linnet_operator.heartbeats import Heartbeats
from linnet_operator.kube import (
    CONTROLLER_REVISIONS,
    LEASES,
    MODEL_DEPLOYMENTS,
    MODEL_HOSTS,
    MODEL_ROLLOUTS,
    NODE_MODELS,
    NODES,
    ROLLOUT_POLICIES,
)
from linnet_operator.looks import Looked
from linnet_operator.loop import Shell, Supervisor
from linnet_operator.metrics import REGISTRY, TURNS
from linnet_operator.planner.model import Evidence

pytestmark = pytest.mark.slow

_SEEDED = {"ModelDeployment", "RolloutPolicy", "TrustPolicy", "ModelRollout", "NodeModel"}


async def no_fault(_verb, _kind, _name):
    """Let every write through."""


def utc_now():
    return datetime.now(UTC)  # noqa: TID251 - where the argument comes from


class FakeKube:
    """Keeps the protocol ``Kube``; ``fault`` may raise, or hang, which is where a process dies."""

    def __init__(self):
        self.objects = {}
        self.writes = []
        self.caches = []
        self.fault = no_fault
        self._versions = itertools.count(1)

    # -- what the operator calls

    async def list_pages(self, resource, *, namespace=None, labels="", stale_is_fine=False):
        del namespace, labels, stale_is_fine
        yield [copy.deepcopy(o) for (kind, *_), o in self.objects.items() if kind == resource.kind]

    async def get(self, resource, *, namespace, name):
        found = self.objects.get((resource.kind, namespace or "", name))
        if found is None:
            raise KubeNotFoundError(name, status=404)
        return copy.deepcopy(found)

    async def create(self, resource, body):
        key = self._key(resource, body)
        await self._write("create", *key)
        if key in self.objects:
            raise KubeConflictError("exists", status=409)
        return self._store(key, body)

    async def apply(self, resource, body):
        key = self._key(resource, body)
        await self._write("apply", *key)
        old = self.objects.get(key, {})
        merged = {**old, **{k: v for k, v in body.items() if k != "metadata"}}
        merged["metadata"] = {**old.get("metadata", {}), **body["metadata"]}
        return self._store(key, merged)

    async def apply_status(self, resource, body):
        key = self._key(resource, body)
        await self._write("status", *key)
        old = self.objects.get(key)
        if old is None:
            raise KubeNotFoundError(key[2], status=404)
        wanted = body["metadata"].get("resourceVersion", old["metadata"]["resourceVersion"])
        if wanted != old["metadata"]["resourceVersion"]:
            raise KubeConflictError("the object has been modified", status=409)
        return self._store(key, {**old, "status": body["status"]})

    async def delete(self, resource, *, namespace, name, uid):
        del uid
        await self._write("delete", resource.kind, namespace or "", name)
        self.remove(resource, namespace=namespace, name=name)

    # -- what people, agents and the feed do

    def put(self, resource, body):
        return self._store(self._key(resource, body), body)

    def remove(self, resource, *, namespace, name):
        gone = self.objects.pop((resource.kind, namespace or "", name))
        for cache in self.caches:
            cache.drop(resource, gone)

    def of(self, resource):
        return [o for (kind, *_), o in sorted(self.objects.items()) if kind == resource.kind]

    def _key(self, resource, body):
        return resource.kind, body["metadata"].get("namespace", ""), body["metadata"]["name"]

    async def _write(self, verb, kind, _namespace, name):
        await self.fault(verb, kind, name)
        self.writes.append((verb, kind, name))

    def _store(self, key, body):
        old = self.objects.get(key)
        new = copy.deepcopy(body)
        metadata = new["metadata"]
        metadata.setdefault("uid", f"uid-{key[0]}-{key[1]}-{key[2]}")
        metadata["resourceVersion"] = str(next(self._versions))
        changed = old is None or old.get("spec") != new.get("spec")
        metadata["generation"] = (old["metadata"]["generation"] if old else 0) + changed
        if old is None and key[0] in _SEEDED:
            new.setdefault("status", {"observedGeneration": -1})
        self.objects[key] = new
        self._feed(key[0], new)
        return copy.deepcopy(new)

    def _feed(self, kind, body):
        for cache in self.caches:
            for resource in FEED:
                if resource.kind == kind:
                    cache.put(resource, copy.deepcopy(body))
        if kind == NODE_MODELS.kind:
            self._obey(body)

    def _obey(self, body):
        """Play the agent: do at once what is told."""
        spec, metadata = body["spec"], body["metadata"]
        status = body.get("status", {})
        if status.get("observedSequence", 0) >= spec["sequence"]:
            return
        desired = spec["desired"]
        current = {
            "revision": desired["revision"],
            "artifact": desired["artifact"],
            "modelDigest": desired["artifact"],
            "servingName": desired["serving"]["name"],
            "activatedAt": utc_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "soaked": True,
        }
        status = {
            "observedGeneration": metadata["generation"],
            "observedSequence": spec["sequence"],
            "state": desired["state"],
            "revision": desired["revision"],
            "reason": desired["state"],
            "current": current,
        }
        key = (NODE_MODELS.kind, metadata["namespace"], metadata["name"])
        self._store(key, {**body, "status": status})


FEED = (NODES, MODEL_HOSTS, MODEL_DEPLOYMENTS, NODE_MODELS, MODEL_ROLLOUTS, ROLLOUT_POLICIES)


class World:
    """An API server with three nodes, and one process of the operator at a time."""

    def __init__(self):
        self.kube = FakeKube()
        self.cache = FleetCache()
        self._task = None
        for name in ("edge-1", "edge-2", "edge-3"):
            metadata = {"name": name}
            self.kube.put(NODES, {"metadata": {**metadata, "labels": {"fleet": "cameras"}}})
            host = {"metadata": metadata, "status": {"runtimes": [{"name": "Linnet"}]}}
            self.kube.put(MODEL_HOSTS, host)
            spec = {"renewTime": "now", "leaseDurationSeconds": 600}
            lease = {"metadata": {"name": name, "namespace": "linnet-agents"}, "spec": spec}
            self.kube.put(LEASES, lease)

    async def start(self, looker=None):
        """Start a process: an empty cache, listed, fed."""
        self.cache = FleetCache()
        self.kube.caches = [self.cache]
        shell = Shell(
            kube=self.kube,
            cache=self.cache,
            heartbeats=Heartbeats(self.kube, clock=utc_now, poll_s=1),
            resolver=OneDigest(),
            make_looker=lambda: looker,
            clock=utc_now,
            jitter=lambda: -0.45,
            reporter="test",
            resync_s=0.2,
            soak_s=0,
        )
        supervisor = Supervisor(shell)
        for resource in (*FEED, CONTROLLER_REVISIONS):
            async for page in self.kube.list_pages(resource):
                for body in page:
                    self.cache.put(resource, body)
        self.cache.listen(supervisor.notice)
        self._task = asyncio.create_task(supervisor.run())

    async def kill(self):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def want(self, name="digits", tag="1.0", **policy):
        """Create or change a ModelDeployment with a policy of its own."""
        metadata = {"name": name, "namespace": "factory"}
        steps = [{"nodes": 1, "bake": "0s"}, {"nodes": "100%", "bake": "0s"}]
        spec = {"steps": steps, "control": 0, "judge": {"compare": []}, **policy}
        self.kube.put(ROLLOUT_POLICIES, {"metadata": dict(metadata), "spec": spec})
        old = self.kube.objects.get((MODEL_DEPLOYMENTS.kind, "factory", name), {})
        spec = {
            "source": f"oci://registry.testbed/models/{name}:{tag}",
            "nodes": {"matchLabels": {"fleet": "cameras"}},
            "policyRef": {"name": name},
        }
        metadata = old.get("metadata", metadata)
        self.kube.put(MODEL_DEPLOYMENTS, {**old, "metadata": metadata, "spec": spec})

    def reason(self, name="digits"):
        return self.kube.objects[MODEL_DEPLOYMENTS.kind, "factory", name]["status"].get("reason")

    async def until(self, condition, timeout_s=20):
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.005)


class OneDigest:
    """A registry in which every tag is the digest of its name."""

    async def resolve(self, source):
        return f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"


class Dead:
    """A Prometheus that never answers."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def look(self, request, *, deployment, policy):
        del request, deployment, policy
        self.asked.set()
        await asyncio.Event().wait()


class Broken:
    """A looker with a bug, on its first look."""

    def __init__(self):
        self.looks = 0

    async def look(self, request, *, deployment, policy):
        del deployment, policy
        self.looks += 1
        if self.looks == 1:
            raise ZeroDivisionError
        evidence = Evidence(
            rollout_uid=request.rollout_uid,
            step=request.step,
            at=utc_now(),
            verdict=Verdict.PASS,
            message="all is well",
        )
        return Looked(evidence)


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.kill()


THRESHOLD = {"compare": [], "thresholds": [{"name": "t", "query": "up", "max": "1"}]}


async def test_rule_8_killed_at_any_write_the_work_goes_on_and_nothing_is_done_twice():
    """Kill at the first, second, third... write, before or after it is made, until none is left."""
    for at_write in itertools.count(1):
        for made in (False, True):
            world = World()
            world.want(tag="1.0")
            died = await run_until_it_dies(world, at_write=at_write, made=made)
            if not died:
                assert at_write > 8
                return
            await world.start()
            await world.until(lambda: world.reason() == "Serving")  # noqa: B023 - awaited here
            await world.kill()

            orders = [name for _, kind, name in world.kube.writes if kind == NODE_MODELS.kind]
            assert len(orders) == len(set(orders)) == 3
            assert len(world.kube.of(MODEL_ROLLOUTS)) == 1
            rollout = world.kube.of(MODEL_ROLLOUTS)[0]
            numbers = [d["n"] for d in rollout["status"]["decisions"]]
            assert numbers == list(range(1, len(numbers) + 1))


async def run_until_it_dies(world, *, at_write, made):
    """Run a process that hangs for ever at a write; return whether it came to that."""
    kube, dead, count = world.kube, asyncio.Event(), itertools.count(1)

    async def fault(_verb, kind, _name):
        # With `made`, the write before was made, and its answer was lost.
        if kind != "Event" and next(count) == at_write + made:
            dead.set()
        if dead.is_set():
            await asyncio.Event().wait()

    kube.fault = fault
    await world.start()
    await world.until(lambda: dead.is_set() or world.reason() == "Serving")
    await world.kill()
    kube.fault = no_fault
    return dead.is_set()


async def test_an_order_is_never_given_before_the_status_that_decided_it(world):
    world.want()
    await world.start()
    await world.until(lambda: world.reason() == "Serving")

    kinds = [(verb, kind) for verb, kind, _ in world.kube.writes]
    first_order = kinds.index(("apply", NODE_MODELS.kind))
    assert ("create", MODEL_ROLLOUTS.kind) in kinds[:first_order]
    assert ("status", MODEL_ROLLOUTS.kind) in kinds[:first_order]


async def test_a_conflict_drops_the_turn_and_the_next_one_reads_again(world):
    conflicts = itertools.count(1)

    async def fault(verb, kind, _name):
        if (verb, kind) == ("status", MODEL_ROLLOUTS.kind) and next(conflicts) <= 2:
            raise KubeConflictError("the object has been modified", status=409)

    world.kube.fault = fault
    world.want()
    await world.start()

    await world.until(lambda: world.reason() == "Serving")

    assert next(conflicts) > 3


async def test_a_prometheus_that_never_answers_holds_up_its_own_deployment_only(world):
    dead = Dead()
    world.want("held", judge=THRESHOLD)
    await world.start(dead)
    async with asyncio.timeout(10):
        await dead.asked.wait()

    world.want("free")
    await world.until(lambda: world.reason("free") == "Serving")

    assert world.reason("held") == "Progressing"


async def test_a_bug_in_one_deployment_is_counted_and_lived_through(world):
    counter = TURNS.labels(outcome="Error")
    before, broken = counter._value.get(), Broken()
    world.want(judge={**THRESHOLD, "interval": "1ms"})
    await world.start(broken)

    await world.until(lambda: world.reason() == "Serving")

    assert counter._value.get() == before + 1
    assert broken.looks > 1


async def test_a_deployment_that_is_deleted_ends_its_task_and_takes_nothing_away(world):
    world.want()
    await world.start()
    await world.until(lambda: world.reason() == "Serving")

    world.kube.remove(MODEL_DEPLOYMENTS, namespace="factory", name="digits")
    await world.until(
        lambda: "factory/digits" not in {task.get_name() for task in asyncio.all_tasks()}
    )

    assert {o["spec"]["desired"]["state"] for o in world.kube.of(NODE_MODELS)} == {"Active"}


async def test_rule_11_a_settled_deployment_writes_nothing_turn_after_turn(world):
    world.want()
    await world.start()
    await world.until(lambda: world.reason() == "Serving")
    settled = TURNS.labels(outcome="Settled")
    await world.until(lambda: settled._value.get() > 0)
    writes, turns = len(world.kube.writes), settled._value.get()

    await world.until(lambda: settled._value.get() >= turns + 3)

    assert len(world.kube.writes) == writes


def waits_for():
    """Return what the metric says that deployments wait for."""
    return {
        sample.labels["deployment"]: sample.labels["reason"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "linnet_rollout_waiting"
    }


async def test_what_a_deployment_waits_for_is_one_series_until_it_goes_on_or_is_gone(world):
    def said():
        deployment = world.kube.objects[MODEL_DEPLOYMENTS.kind, "factory", "waits"]
        return (deployment.get("status", {}).get("waitingFor") or {}).get("reason")

    world.want("waits", judge=THRESHOLD)
    await world.start(Dead())
    await world.until(lambda: said() == "Evidence")
    await world.until(lambda: waits_for().get("waits") == "Evidence")
    world.want("serves")
    await world.until(lambda: world.reason("serves") == "Serving")
    assert "serves" not in waits_for()

    world.kube.remove(MODEL_DEPLOYMENTS, namespace="factory", name="waits")

    await world.until(lambda: "waits" not in waits_for())
    named = [
        sample.name
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("deployment") == "waits"
    ]
    assert named == []
