"""The closed lists of reasons: what a condition, an event or a metric label may say.

- A reason is a stable word that people match on; sentences beside it may change.
- One list for each question: why a deployment waits, why a rollout ended, why a node refused.
"""

from enum import StrEnum


class WaitReason(StrEnum):
    """What a rollout or a deployment waits for; ``status.waitingFor.reason`` (rule 9)."""

    LEARNING = "Learning"
    ACTIVATING = "Activating"
    BAKING = "Baking"
    EVIDENCE = "Evidence"
    NO_DATA = "NoData"
    PARTIAL_DATA = "PartialData"
    FLEET_TROUBLE = "FleetTrouble"
    APPROVAL = "Approval"
    DECISION = "Decision"
    PAUSED = "Paused"
    WINDOW = "Window"
    BUDGET = "Budget"
    HELD_AT_ZERO = "HeldAtZero"
    REVERTING = "Reverting"
    UNLOADING = "Unloading"
    SILENT_NODES = "SilentNodes"
    DEFERRED_NODES = "DeferredNodes"
    NO_NODES = "NoNodes"
    FINISHING = "Finishing"
    SOURCE = "Source"
    METRICS_SOURCE = "MetricsSource"


class DeploymentReason(StrEnum):
    """Reasons of the conditions of a ModelDeployment, a RolloutPolicy and a TrustPolicy."""

    ACCEPTED = "Accepted"
    SERVING = "Serving"
    PROGRESSING = "Progressing"
    WAITING = "Waiting"
    PAUSED = "Paused"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    ABORTED = "Aborted"
    INVALID_SPEC = "InvalidSpec"
    POLICY_NOT_FOUND = "PolicyNotFound"
    SOURCE_NOT_RESOLVED = "SourceNotResolved"
    CONDEMNED = "Condemned"
    NO_NODES = "NoNodes"
    SERVING_NAME_TAKEN = "ServingNameTaken"


class NodeReason(StrEnum):
    """Why a NodeModel is in its state; the agent's whole vocabulary."""

    NONE = ""
    ACTIVE = "Active"
    STAGED = "Staged"
    WORKING = "Working"
    ABSENT = "Absent"
    # refused by trust: nothing was fetched that need not be
    UNSIGNED = "Unsigned"
    BAD_SIGNATURE = "BadSignature"
    UNTRUSTED_KEY = "UntrustedKey"
    WRONG_MODEL_NAME = "WrongModelName"
    COUNTER_TOO_LOW = "CounterTooLow"
    NO_TRUST_POLICY = "NoTrustPolicy"
    CEILING = "Ceiling"
    REVOKED = "Revoked"
    MALFORMED_BUNDLE = "MalformedBundle"
    CONTENT_NOT_SIGNED = "ContentNotSigned"
    NO_TRUST_ROOT = "NoTrustRoot"
    CLOCK_UNTRUSTED = "ClockUntrusted"
    KEYLESS_UNAVAILABLE = "KeylessUnavailable"
    # fetching
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    DIGEST_MISMATCH = "DigestMismatch"
    DISK_FULL = "DiskFull"
    DISK_FAULT = "DiskFault"
    UNSUPPORTED_ARTIFACT = "UnsupportedArtifact"
    WRONG_VARIANT = "WrongVariant"
    # activating
    CONTENT_REFUSED = "ContentRefused"
    NOT_ONNX = "NotOnnx"
    SELF_TEST_FAILED = "SelfTestFailed"
    SELF_TEST_TIMEOUT = "SelfTestTimeout"
    SELF_TEST_CRASHED = "SelfTestCrashed"
    SELF_TEST_UNAVAILABLE = "SelfTestUnavailable"
    NOT_DETERMINISTIC = "NotDeterministic"
    BUDGET_EXCEEDED = "BudgetExceeded"
    LOAD_FAILED = "LoadFailed"
    NO_MEMORY = "NoMemory"
    SERVER_UNAVAILABLE = "ServerUnavailable"
    SERVING_NAME_TAKEN = "ServingNameTaken"
    HOOK_FAILED = "HookFailed"
    SOAK_FAILED = "SoakFailed"
    LOOP_BREAKER = "LoopBreaker"
    CORRUPT = "Corrupt"
    # orders
    STALE_ORDER = "StaleOrder"
    WRONG_NODE = "WrongNode"
    INVALID_ORDER = "InvalidOrder"


class Verdict(StrEnum):
    """What a look at the evidence says; there is no boolean anywhere."""

    PASS = "Pass"  # noqa: S105 - a verdict, not a password
    FAIL = "Fail"
    UNDECIDED = "Undecided"
    NO_DATA = "NoData"
    PARTIAL = "Partial"
    NOT_MEASURED = "NotMeasured"
    FLEET_TROUBLE = "FleetTrouble"
    LEARNING = "Learning"


class RolloutPhase(StrEnum):
    """Where a ModelRollout is; the last six are its ends."""

    LEARNING = "Learning"
    STEPPING = "Stepping"
    BAKING = "Baking"
    WAITING = "Waiting"
    ROLLING_BACK = "RollingBack"
    FINISHING = "Finishing"
    COMPLETED = "Completed"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    SUPERSEDED = "Superseded"
    ABORTED = "Aborted"
    ABANDONED = "Abandoned"

    @property
    def ended(self) -> bool:
        """True where the rollout has ended and nothing more will happen to it."""
        return self in _ENDED


_ENDED = frozenset(
    {
        RolloutPhase.COMPLETED,
        RolloutPhase.ROLLED_BACK,
        RolloutPhase.REFUSED,
        RolloutPhase.SUPERSEDED,
        RolloutPhase.ABORTED,
        RolloutPhase.ABANDONED,
    }
)


class NodeState(StrEnum):
    """The states of one model on one node; frozen names, they stand in journals on disks."""

    PENDING = "Pending"
    VERIFYING = "Verifying"
    FETCHING = "Fetching"
    STAGED = "Staged"
    SELF_TESTING = "SelfTesting"
    ACTIVATING = "Activating"
    SOAKING = "Soaking"
    ACTIVE = "Active"
    FAILED = "Failed"
    REVERTED = "Reverted"
    REFUSED = "Refused"
    ABSENT = "Absent"

    @property
    def settled(self) -> bool:
        """True where the node waits for a new order."""
        return self in _SETTLED


_SETTLED = frozenset(
    {
        NodeState.ACTIVE,
        NodeState.FAILED,
        NodeState.REVERTED,
        NodeState.REFUSED,
        NodeState.ABSENT,
        NodeState.STAGED,
    }
)


class ActVerb(StrEnum):
    """What a person can decide about a running rollout."""

    APPROVE = "Approve"
    PAUSE = "Pause"
    RESUME = "Resume"
    ABORT = "Abort"
    PROMOTE = "Promote"
    RETRY = "Retry"
