"""What is in memory: a revision that is loaded, and a deployment with its revisions.

- A revision knows who is using it: it is freed when nobody does.
- Only the loop's thread touches these.
"""

import asyncio
import dataclasses
from typing import Any, Final

from linnet_server.errors import ControlError
from linnet_server.feedback import RecentAnswers
from linnet_server.lane import Lane
from linnet_server.metrics import Outcome, RevisionMetrics
from linnet_server.records import DeploymentKey, RevisionFiles, ServingRecord
from linnet_server.sessions import Session


class LoadedRevision:
    """A revision in memory: its session, its lane, and who is using it."""

    metrics: RevisionMetrics
    """Bound when the revision is activated: where it is merely staged it has no series."""
    answers: RecentAnswers
    """The memory of its deployment, from the activation on."""

    session: Session
    lane: Lane
    load_s: float
    memory_bytes: int
    """Set when it is loaded: a lane may tell a revision what it does."""

    def __init__(self, files: RevisionFiles) -> None:
        record = files.record
        self.files: Final = files
        self.record: Final = record
        self.requests = 0
        self.failures = 0
        self.duration_s = 0.0
        self.head: Final = {
            "model_name": record.serving_name,
            "model_version": record.revision,
            "parameters": {"revision": record.revision, "model_digest": record.model_digest},
        }
        self.headers: Final = (
            (b"linnet-revision", record.revision.encode()),
            (b"linnet-model-digest", record.model_digest.encode()),
        )
        self._holders = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def holders(self) -> int:
        """How many requests are using the revision."""
        return self._holders

    def hold(self) -> None:
        """Keep the revision in memory until `release`."""
        self._holders += 1
        self._unused.clear()

    def release(self) -> None:
        """Let go of the revision."""
        self._holders -= 1
        if self._holders == 0:
            self._unused.set()

    async def wait_unused(self) -> None:
        """Return when nobody holds the revision."""
        await self._unused.wait()

    def count(self, outcome: Outcome, took_s: float) -> None:
        """Count one request; a rejected one is not the model's and stays out of `requests`."""
        self.metrics.requests[outcome].inc()
        self.metrics.durations[outcome].observe(took_s)
        if outcome is not Outcome.REJECTED:
            self.requests += 1
            self.failures += outcome is Outcome.FAILURE
            self.duration_s += took_s

    def metadata(self) -> dict[str, Any]:
        """Return the model as the protocol describes it."""
        return {
            "name": self.record.serving_name,
            "versions": [self.record.revision],
            "platform": self.session.platform,
            "inputs": [spec.metadata() for spec in self.session.signature.inputs.values()],
            "outputs": [spec.metadata() for spec in self.session.signature.outputs.values()],
            "parameters": self.head["parameters"],
        }

    def has_version(self, version: str) -> bool:
        """Tell whether ``version`` means this revision: its hash, or its number."""
        return version in (self.record.revision, str(self.record.number))


@dataclasses.dataclass(slots=True)
class Deployment:
    """A deployment on this node.

    Attributes:
        key: Namespace and name.
        lock: Held while its revisions change.
        answers: The memory for feedback, across revisions.
        active: What serves.
        staged: What is loaded beside it.
        record: What `current` says while it loads, or where it failed to.
        failure: Why `current` could not be loaded.
        taken_out: What served until it had to make room for what is staged.

    A deployment that is removed stays, empty: somebody may be waiting for its lock.
    """

    key: DeploymentKey
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    answers: RecentAnswers = dataclasses.field(default_factory=RecentAnswers)
    active: LoadedRevision | None = None
    staged: LoadedRevision | None = None
    record: ServingRecord | None = None
    failure: ControlError | None = None
    taken_out: RevisionFiles | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is anything to say about it, beside what is staged."""
        return bool(self.active or self.record or self.failure)

    def describe(self) -> dict[str, Any]:
        """Return what serves, or why nothing does, as the control API says it."""
        if self.active is not None:
            return self._identity(self.active.record) | {
                "state": "Ready",
                "requests": self.active.requests,
                "failures": self.active.failures,
                "durationSeconds": round(self.active.duration_s, 6),
            }
        state: dict[str, Any] = {"state": "Loading", "requests": 0, "failures": 0}
        if self.failure is not None:
            state |= {
                "state": "Failed",
                "reason": self.failure.reason,
                "message": str(self.failure),
            }
        elif self.taken_out is not None:
            state |= {"state": "Replacing", "message": "it has made room for another revision"}
        return self._identity(self.record) | state

    def describe_staged(self) -> dict[str, Any] | None:
        """Return what is loaded beside, as the control API says it."""
        if self.staged is None:
            return None
        return self._identity(self.staged.record) | {"loadSeconds": self.staged.load_s}

    def _identity(self, record: ServingRecord | None) -> dict[str, Any]:
        return {
            "namespace": self.key.namespace,
            "deployment": self.key.deployment,
            "servingName": record.serving_name if record else None,
            "revision": record.revision if record else None,
            "number": record.number if record else None,
            "modelDigest": record.model_digest if record else None,
        }
