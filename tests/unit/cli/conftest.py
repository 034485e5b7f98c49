"""Canned objects, built from the contract's own models, and a cluster of JSON in memory.

The fake cluster keeps what the contract tests of a Kube demand (see test_kube_contract.py).
"""

import copy
import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from linnet_api import conditions as cond
from linnet_api.fields import NodeSelector, WaitingFor
from linnet_api.model_deployment import (
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    NodeCounts,
    RevisionStatus,
)
from linnet_api.model_rollout import (
    Decision,
    DeploymentRef,
    ModelRolloutSpec,
    ModelRolloutStatus,
    RevisionRef,
    StepStatus,
)
from linnet_api.node_model import (
    Desired,
    NodeModelSpec,
    NodeModelStatus,
    NodeRef,
    OnNode,
    RolloutRef,
    Verification,
)
from linnet_api.rollout_policy import Compare, Judge, RolloutPolicySpec, Step
from linnet_cli.app import main
from linnet_cli.errors import ConflictError
from linnet_cli.exits import Exit
from linnet_cli.kube.answers import refusal
from linnet_cli.world import World

NOW = datetime(2026, 3, 1, 9, 0, 0, tzinfo=UTC)
REVISIONS = {"1.0": "0f1e2d3c4b", "1.1": "5f7c9d0a1b", "2.0": "9d2c4e8f70"}
NUMBERS = {"1.0": 1, "1.1": 2, "2.0": 3}
SENTENCE = (
    "errors: 0 of 656 requests failed on 3 candidates, 0.1 expected from their own history and 7 "
    "stable nodes now (factor 0.87); a rise by 15 points is excluded. wrong: {} labelled answers "
    "were wrong on 3 candidates, {} expected; a rise by 28 points {}"
)
POLICY = RolloutPolicySpec(
    steps=(
        Step(nodes=1, bake="20s"),
        Step(nodes="30%", bake="20s"),
        Step(nodes="100%", bake="20s"),
    ),
    judge=Judge(
        compare=(Compare(name="errors", signal="Errors"), Compare(name="wrong", signal="Wrong"))
    ),
)


def digest_of(label):
    return "sha256:" + REVISIONS[label][:1] * 64


def source_of(label):
    return f"oci://registry.testbed/models/digits:{label}"


class Fleet:
    """Builds one deployment ``factory/digits`` and all that belongs to it."""

    def __init__(self, *, namespace="factory", name="digits"):
        self.namespace, self.name = namespace, name
        self.objects = {}
        self.leases = {}
        for label, revision in REVISIONS.items():
            self.objects["controllerrevisions", namespace, f"{name}-{revision}"] = {
                "data": {"sources": [source_of(label)]}
            }

    def deployment(
        self,
        *,
        wanted,
        stable=None,
        candidate=None,
        conditions=(),
        rollout=None,
        nodes=None,
        waiting=None,
        generation=2,
        observed=2,
        paused=False,
        step_short=None,
    ):
        def revision(label):
            return label and RevisionStatus(
                revision=REVISIONS[label], number=NUMBERS[label], digest=digest_of(label)
            )

        spec = ModelDeploymentSpec(
            source=source_of(wanted),
            nodes=NodeSelector(match_labels={"linnet.dev/fleet": "cameras"}),
            paused=paused,
        )
        status = ModelDeploymentStatus(
            observed_generation=observed,
            conditions=tuple(conditions),
            stable=revision(stable),
            candidate=revision(candidate),
            rollout=rollout,
            nodes=nodes or NodeCounts(),
            waiting_for=waiting,
            step_short=step_short,
        )
        self._put(
            "modeldeployments", self.name, "ModelDeployment", spec, status, generation=generation
        )
        return self

    def rollout(
        self,
        *,
        number,
        start,
        to,
        phase,
        step=0,
        steps=(),
        waiting=None,
        verdict="NotMeasured",
        ended_ago_s=None,
        message=None,
        reason=None,
        policy=POLICY,
        decisions=(),
    ):
        def ref(label):
            return label and RevisionRef(
                revision=REVISIONS[label], digest=digest_of(label), number=NUMBERS[label]
            )

        spec = ModelRolloutSpec(
            deployment=DeploymentRef(name=self.name, uid="d-1"),
            from_=ref(start),
            to=ref(to),
            policy=policy,
        )
        status = ModelRolloutStatus(
            observed_generation=1,
            phase=phase,
            step=step,
            steps=tuple(steps),
            verdict=verdict,
            waiting_for=waiting,
            started_at=NOW - timedelta(seconds=47),
            reason=reason,
            message=message,
            ended_at=None if ended_ago_s is None else NOW - timedelta(seconds=ended_ago_s),
            decisions=tuple(decisions),
        )
        self._put("modelrollouts", f"{self.name}-{number}", "ModelRollout", spec, status)
        return self

    def node(
        self,
        name,
        *,
        serves=None,
        wanted=None,
        state="Active",
        reason=None,
        message=None,
        step=0,
        sequence=10,
        observed=10,
        lost_s=None,
        refused=False,
        progress=None,
    ):
        wanted = wanted or serves
        spec = NodeModelSpec(
            deployment=self.name,
            node=NodeRef(name=name, uid=f"uid-{name}"),
            sequence=sequence,
            desired=Desired(
                state="Active",
                revision=REVISIONS[wanted],
                number=NUMBERS[wanted],
                source=source_of(wanted),
                artifact=digest_of(wanted),
            ),
            rollout=RolloutRef(name=f"{self.name}-3", uid="r-3", step=step),
        )
        status = NodeModelStatus(
            observed_generation=1,
            observed_sequence=observed,
            state=state,
            revision=REVISIONS[wanted],
            reason=reason,
            message=message,
            current=serves
            and OnNode(
                revision=REVISIONS[serves],
                artifact=digest_of(serves),
                model_digest=digest_of(serves),
                soaked=True,
            ),
            verification=Verification(decision="Refused", reason=reason, at=NOW)
            if refused
            else None,
            progress_bytes=progress,
            total_bytes=progress and 100,
        )
        self._put("nodemodels", f"{self.name}-{name}", "NodeModel", spec, status)
        renewed = NOW - timedelta(seconds=lost_s or 1)
        self.leases[name] = {
            "metadata": {"name": name},
            "spec": {
                "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "leaseDurationSeconds": 10,
            },
        }
        return self

    def kube(self, **options):
        kube = FakeKube(self.objects, **options)
        kube.leases = self.leases
        return kube

    def _put(self, plural, name, kind, spec, status, *, generation=1):
        self.objects[plural, self.namespace, name] = {
            "apiVersion": "linnet.dev/v1alpha1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "generation": generation,
                "resourceVersion": "100",
                "creationTimestamp": "2026-03-01T08:00:00Z",
            },
            "spec": spec.to_dict(),
            "status": status.to_dict(),
        }


class FakeKube:
    """A cluster in memory: gets, lists, merge patches with a resourceVersion as precondition."""

    def __init__(
        self, objects, *, namespace="factory", user="ana@example.org", installed=True, conflicts=0
    ):
        self.objects, self.namespace, self.user = objects, namespace, user
        self.installed, self.conflicts = installed, conflicts
        self.server_time = NOW
        self.leases = {}
        self.after_reads = []
        self.versions = itertools.count(101)

    def get(self, path):
        if path.startswith("/apis/coordination"):
            return {"items": list(self.leases.values())}
        plural, namespace, name = _parts(path)
        if name is None:
            found = [
                o
                for (p, n, _), o in sorted(self.objects.items())
                if p == plural and namespace in (None, n)
            ]
            if not self.installed:
                raise self._refusal(404, "the server could not find the requested resource", path)
            return {"items": copy.deepcopy(found)}
        found = self.objects.get((plural, namespace, name))
        if found is None:
            named = {"details": {"name": name}} if self.installed else {}
            raise self._refusal(404, f'{plural} "{name}" not found', path, **named)
        answer = copy.deepcopy(found)
        if plural == "modeldeployments" and self.after_reads:
            self.after_reads.pop(0)()
        return answer

    def post(self, path, body):
        assert path == "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        assert body["kind"] == "SelfSubjectReview"
        return {"status": {"userInfo": {"username": self.user}}}

    def merge_patch(self, path, body):
        path, _, query = path.partition("?")
        key = _parts(path)
        stored = self.objects[key]
        if self.conflicts:
            self.conflicts -= 1
            stored["metadata"]["resourceVersion"] = str(next(self.versions))
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, stored["metadata"]["resourceVersion"]):
            raise ConflictError("the object has been modified")
        answer = copy.deepcopy(stored)
        answer["spec"] |= copy.deepcopy(body["spec"])
        if "dryRun=All" not in query:
            answer["metadata"]["resourceVersion"] = str(next(self.versions))
            self.objects[key] = copy.deepcopy(answer)
        return answer

    @staticmethod
    def _refusal(code, message, path, **status):
        return refusal(
            code=code, status={"message": message, **status}, path=path, where="https://fake"
        )


def _parts(path):
    """Return (plural, namespace, name) of a path under an API group."""
    parts = path.split("/")[3 if path.startswith("/api/") else 4 :]
    namespace = None
    if parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    return parts[0], namespace, parts[1] if len(parts) > 1 else None


class Outcome:
    """What a command line did: its exit code, data and talk."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def linnet():
    """Run a command line on a cluster: ``linnet(kube, "status", "digits")``."""

    def run(kube, *argv, prog="linnet", sleep=None, monotonic=None):
        out, err = io.StringIO(), io.StringIO()
        clock = itertools.count()
        world = World(
            prog=prog,
            out=out,
            err=err,
            now=lambda: NOW,
            monotonic=monotonic or (lambda: float(next(clock))),
            sleep=sleep or (lambda _seconds: None),
            token=lambda: "0badcafe",
            connect=lambda _args: kube,
        )
        try:
            code = main(argv, world)
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def waits():
    def waiting(reason, short, message="", until_s=None):
        return WaitingFor(
            reason=reason,
            short=short,
            message=message,
            until=None if until_s is None else NOW + timedelta(seconds=until_s),
        )

    return waiting


@pytest.fixture
def stories(waits):
    """The situations that the golden files show, by name."""

    def baked(
        verdict="Undecided",
        message="",
        nodes=1,
        quota=1,
        seconds=20,
        control=0,
        began_s=12,
        running_s=None,
    ):
        return StepStatus(
            nodes=nodes,
            quota=quota,
            baked_seconds=seconds,
            verdict=verdict,
            message=message,
            control=control,
            started_at=NOW - timedelta(seconds=began_s),
            baking_since=running_s and NOW - timedelta(seconds=running_s),
        )

    def said(kind, reason, message):
        return cond.stamp(kind(reason=reason, message=message, generation=2), before=(), now=NOW)

    def first_rollout():
        waiting = waits("Activating", "1 of 1 nodes", "1 node still fetches 1.0.")
        f = Fleet().deployment(
            wanted="1.0",
            candidate="1.0",
            rollout="digits-1",
            waiting=waiting,
            nodes=NodeCounts(matched=3, eligible=3),
            conditions=said(cond.reconciling, "Progressing", waiting.message),
        )
        f.rollout(
            number=1,
            start=None,
            to="1.0",
            phase="Stepping",
            step=1,
            steps=[baked("NotMeasured", nodes=0, seconds=0)],
            waiting=waiting,
        )
        return f.node("edge-1", wanted="1.0", state="Fetching", progress=42, step=1)

    def baking():
        waiting = waits(
            "Baking", "Baking 12s of 20s", "Step 2 of 3 has baked 12s of 20s.", until_s=8
        )
        f = Fleet().deployment(
            wanted="2.0",
            stable="1.1",
            candidate="2.0",
            rollout="digits-3",
            waiting=waiting,
            nodes=NodeCounts(matched=10, eligible=10, on_candidate=3),
            conditions=said(cond.reconciling, "Progressing", waiting.message),
        )
        f.rollout(
            number=3,
            start="1.1",
            to="2.0",
            phase="Baking",
            step=2,
            verdict="Undecided",
            waiting=waiting,
            steps=[
                baked("Pass", SENTENCE.format("2 of 84", "2.3", "is excluded"), began_s=44),
                baked(
                    "Undecided",
                    SENTENCE.format("5 of 130", "3.9", "is not excluded yet"),
                    nodes=3,
                    quota=3,
                    seconds=4,
                    control=2,
                    running_s=8,
                ),
            ],
            decisions=[
                Decision(
                    n=1, at=NOW, step=1, verdict="Pass", action="Advance", message="x3 excluded"
                )
            ],
        )
        for number in range(1, 11):
            serves = "2.0" if number in (3, 7, 10) else "1.1"
            f.node(f"edge-{number}", serves=serves, step={3: 1, 7: 2, 10: 2}.get(number, 0))
        return f

    def rolled_back():
        message = (
            "Revision 9d2c4e8f70 was taken back at step 1: wrong 31 of 84, expected 2.3. All "
            "nodes serve "
            "5f7c9d0a1b. Set the source back in Git, or fix the model and give it a new tag."
        )
        f = Fleet().deployment(
            wanted="2.0",
            stable="1.1",
            rollout="digits-3",
            nodes=NodeCounts(matched=3, eligible=3),
            conditions=said(cond.stalled, "RolledBack", message),
        )
        f.rollout(
            number=3,
            start="1.1",
            to="2.0",
            phase="RolledBack",
            step=1,
            verdict="Fail",
            ended_ago_s=95,
            message=message,
            reason="RolledBack",
            steps=[baked("Fail", "wrong 31 of 84, expected 2.3", nodes=0, seconds=9)],
        )
        f.node("edge-1", serves="1.1", state="Reverted", message="back on 5f7c9d0a1b from disk")
        return f.node("edge-2", serves="1.1").node("edge-3", serves="1.1")

    def refused():
        message = "Every node that was asked refused 2.0: BadSignature. All serve 5f7c9d0a1b on."
        f = Fleet().deployment(
            wanted="2.0",
            stable="1.1",
            rollout="digits-3",
            nodes=NodeCounts(matched=2, eligible=2, refused=2),
            conditions=said(cond.stalled, "Refused", message),
        )
        f.rollout(
            number=3,
            start="1.1",
            to="2.0",
            phase="Refused",
            step=1,
            ended_ago_s=4,
            message=message,
            steps=[baked("NotMeasured", nodes=0, quota=2, seconds=0)],
        )
        for number in (1, 2):
            f.node(
                f"edge-{number}",
                serves="1.1",
                wanted="2.0",
                state="Refused",
                reason="BadSignature",
                refused=True,
                message="the signature of key 4f1b does not fit the statement",
            )
        return f

    def approval():
        waiting = waits(
            "Approval", "approval of step 2", "Step 2 begins when somebody approves it."
        )
        policy = POLICY.model_copy(
            update={
                "steps": (
                    POLICY.steps[0],
                    Step(nodes="30%", bake="20s", approval="BeforeStep"),
                    POLICY.steps[2],
                )
            }
        )
        f = Fleet().deployment(
            wanted="2.0",
            stable="1.1",
            candidate="2.0",
            rollout="digits-3",
            waiting=waiting,
            nodes=NodeCounts(matched=2, eligible=2, on_candidate=1),
            conditions=(
                *said(cond.reconciling, "Waiting", waiting.message),
                cond.stamp(
                    [cond.paused(reason="Waiting", message=waiting.message, generation=2)],
                    before=(),
                    now=NOW,
                )[0],
            ),
        )
        f.rollout(
            number=3,
            start="1.1",
            to="2.0",
            phase="Waiting",
            step=1,
            verdict="Pass",
            waiting=waiting,
            policy=policy,
            steps=[baked("Pass", "x3 excluded", began_s=44)],
        )
        return f.node("edge-1", serves="2.0", step=1).node("edge-2", serves="1.1")

    def completed_without_two():
        message = (
            "All 3 eligible nodes serve 5f7c9d0a1b; 2 deferred nodes catch up when they return."
        )
        f = Fleet().deployment(
            wanted="1.1",
            stable="1.1",
            rollout="digits-2",
            nodes=NodeCounts(matched=5, eligible=3, on_candidate=3, deferred=2),
            conditions=said(cond.settled, "Serving", message),
        )
        f.rollout(
            number=2,
            start="1.0",
            to="1.1",
            phase="Completed",
            step=3,
            verdict="Pass",
            ended_ago_s=30,
            message=message,
            steps=[baked("Pass", "x3 excluded", nodes=n, quota=n) for n in (1, 1, 3)],
        )
        for number in (1, 2, 3):
            f.node(f"edge-{number}", serves="1.1")
        for number in (4, 5):
            f.node(f"edge-{number}", serves="1.0", wanted="1.1", observed=9, lost_s=300)
        return f

    def a_thousand():
        waiting = waits("Baking", "12s of 20s", "Step 2 of 3 has baked 12s of 20s.", until_s=8)
        f = Fleet().deployment(
            wanted="2.0",
            stable="1.1",
            candidate="2.0",
            rollout="digits-3",
            waiting=waiting,
            nodes=NodeCounts(matched=1000, eligible=990, on_candidate=295, deferred=10),
            conditions=said(cond.reconciling, "Progressing", waiting.message),
        )
        f.rollout(
            number=3,
            start="1.1",
            to="2.0",
            phase="Baking",
            step=2,
            verdict="Undecided",
            waiting=waiting,
            steps=[
                baked("Pass", "x3 excluded", began_s=44),
                baked(nodes=295, quota=297, seconds=12, control=50),
            ],
        )
        for number in range(1, 1001):
            if number <= 295:
                f.node(f"edge-{number}", serves="2.0", step=2)
            elif number <= 297:
                f.node(
                    f"edge-{number}",
                    serves="1.1",
                    wanted="2.0",
                    state="Failed",
                    reason="SelfTestFailed",
                    message="output 0 differs by 0.4 from the golden sample",
                    step=2,
                )
            else:
                f.node(f"edge-{number}", serves="1.1", lost_s=400 if number > 990 else None)
        return f

    return {
        "first-rollout": first_rollout,
        "baking": baking,
        "rolled-back": rolled_back,
        "refused": refused,
        "waiting-for-approval": approval,
        "completed-without-two": completed_without_two,
        "a-thousand": a_thousand,
    }
