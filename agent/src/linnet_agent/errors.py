"""Everything that can go wrong on a node, as one tree.

::

    AgentError
    +-- FetchError                      the way to the bytes
    |   +-- SourceNotFoundError         the registry says no (4xx)
    |   +-- RegistryUnavailableError    the registry says nothing, or 5xx (transient)
    |   +-- SourceUnavailableError      a directory or a medium is not there now (transient)
    |   +-- DigestMismatchError         the bytes are not those that were named
    |   +-- DiskFullError               no room (transient)
    |   +-- DiskFaultError              the disk does not read or write (transient)
    |   +-- UnsupportedArtifactError    not something that this agent can fetch or read
    |   +-- WrongVariantError           no variant of it is for this node
    +-- TrustError                      what the node trusts, or is asked to trust
    |   +-- CeilingError                the node's own ceiling cannot be read
    |   +-- MalformedBundleError        a signature bundle is not one
    |   +-- ClockUntrustedError         nobody can tell if a signature is in time (transient)
    |   +-- KeylessUnavailableError     keyless signatures cannot be verified now (transient)
    |   +-- UntrustedCertificateError   it is signed by a certificate that does not count
    +-- ContentRefusedError             a directory holds what a model may not hold
    +-- ActivationError                 the model, or what it is to run on
    |   +-- NotOnnxError                no file of the artifact can be run
    |   +-- SelfTestFailedError         it loads or answers wrongly
    |   +-- SelfTestTimeoutError        it does not end in time
    |   +-- SelfTestCrashedError        it takes its process down
    |   +-- SelfTestUnavailableError    the test itself could not begin (transient)
    |   +-- NotDeterministicError       it answers otherwise the second time
    |   +-- BudgetExceededError         it takes more memory or time than it was given
    |   +-- LoadFailedError             the server cannot load it
    |   +-- NoMemoryError               it does not fit into memory beside what serves
    |   +-- HookFailedError             the program that uses the files did not take it
    |   +-- ServingNameTakenError       another deployment serves under its name
    |   +-- ServerUnavailableError      the server does not answer (transient)
    +-- HubError                        the way to the API server
        +-- HubUnavailableError         it does not answer, or cannot now (transient)
        +-- HubRefusedError             it says no

- ``reason`` is a word of the closed list; it ends up in conditions, events and metrics.
- ``remedy`` is a sentence for a person; DEPLOYMENT in it stands for the deployment's name.
- ``transient`` is true where trying again later, unchanged, can help.
- A signature that does not satisfy is a decision (``verify.policy.Decision``), not an exception.
"""

from typing import ClassVar

from linnet_api.reasons import NodeReason


class AgentError(Exception):
    """Root of the tree."""

    reason: ClassVar[NodeReason] = NodeReason.NONE
    remedy: ClassVar[str] = ""
    transient: ClassVar[bool] = False


class FetchError(AgentError):
    """The bytes of an artifact could not be had."""


class SourceNotFoundError(FetchError):
    """The registry answers, and says that it has no such thing or does not let us have it."""

    reason = NodeReason.SOURCE_NOT_FOUND
    remedy = (
        "Check the source, its digest, and that the node's registry credentials may read it; then "
        "linnet retry DEPLOYMENT tries again, and linnet abort DEPLOYMENT goes back."
    )


class RegistryUnavailableError(FetchError):
    """The registry does not answer, or answers with an error of its own."""

    reason = NodeReason.REGISTRY_UNAVAILABLE
    remedy = "Check that the node reaches the registry; the agent tries again by itself."
    transient = True


class SourceUnavailableError(FetchError):
    """A directory of this node is not there, or cannot be read: a medium that is not in."""

    reason = NodeReason.SOURCE_UNAVAILABLE
    remedy = "Insert or mount what holds the model; the agent tries again by itself."
    transient = True


class DigestMismatchError(FetchError):
    """What came is not what was named."""

    reason = NodeReason.DIGEST_MISMATCH
    remedy = (
        "The registry or something on the way changes bytes: push the artifact again; then linnet "
        "retry DEPLOYMENT tries again, and linnet abort DEPLOYMENT goes back."
    )


class DiskFullError(FetchError):
    """There is no room for the artifact."""

    reason = NodeReason.DISK_FULL
    remedy = "Free space below the agent's root directory; the agent tries again by itself."
    transient = True


class DiskFaultError(FetchError):
    """The disk, or what stands between us and it, does not do what it must."""

    reason = NodeReason.DISK_FAULT
    remedy = (
        "See the node's kernel log and its limit of open files; the agent tries again by itself."
    )
    transient = True


class UnsupportedArtifactError(FetchError):
    """The source or the artifact is of a kind that this agent cannot use."""

    reason = NodeReason.UNSUPPORTED_ARTIFACT
    remedy = "Push the model with `linnet push`, which writes what agents can read."


class WrongVariantError(FetchError):
    """The artifact has no variant that was asked for and that this node can run."""

    reason = NodeReason.WRONG_VARIANT
    remedy = (
        "Push a variant for such nodes, name it in spec.variants, or select other nodes with "
        "spec.nodes."
    )


class TrustError(AgentError):
    """What the node trusts, or is asked to trust, cannot be read."""


class CeilingError(TrustError):
    """The node's own ceiling is there and cannot be used; nothing may be activated."""

    reason = NodeReason.CEILING
    remedy = "Repair the node's trust file; until then nothing new is activated."


class MalformedBundleError(TrustError):
    """A signature bundle does not have the form that it must have."""

    reason = NodeReason.MALFORMED_BUNDLE
    remedy = "Sign the model again with `linnet sign`."


class UntrustedCertificateError(TrustError):
    """A bundle is signed under certificates that do not lead to a root that counts."""

    reason = NodeReason.UNTRUSTED_KEY
    remedy = "Sign with a valid code-signing certificate of an authority that is trusted."


class ClockUntrustedError(TrustError):
    """The decision hinges on the time, and the node's clock is not to be believed."""

    reason = NodeReason.CLOCK_UNTRUSTED
    remedy = "Set the node's clock, or let it reach the API server; it is decided again by itself."
    transient = True


class KeylessUnavailableError(TrustError):
    """The process that verifies keyless signatures does not do its work."""

    reason = NodeReason.KEYLESS_UNAVAILABLE
    remedy = (
        "Check that the agent is installed with `linnet[keyless]`; it is tried again by itself."
    )
    transient = True


class ContentRefusedError(AgentError):
    """A directory holds what a model may not hold: links, odd modes, unsafe or unsigned names."""

    reason = NodeReason.CONTENT_REFUSED
    remedy = "A model is a tree of plain files, exactly those that were signed."


class ActivationError(AgentError):
    """The model cannot be run here."""


class NotOnnxError(ActivationError):
    """The artifact has no file that this node can run."""

    reason = NodeReason.NOT_ONNX
    remedy = "Ship one .onnx file at the top of the artifact, or a model.onnx."


class SelfTestFailedError(ActivationError):
    """The model does not load, or does not answer as it should."""

    reason = NodeReason.SELF_TEST_FAILED
    remedy = "Run the model with the same onnxruntime where it was made, on its golden samples."


class SelfTestTimeoutError(ActivationError):
    """The self-test did not end in time."""

    reason = NodeReason.SELF_TEST_TIMEOUT
    remedy = "The model is too slow for this node, or never ends; try a smaller variant."


class SelfTestCrashedError(ActivationError):
    """The self-test's process died."""

    reason = NodeReason.SELF_TEST_CRASHED
    remedy = "The model brings its runtime down; run it with the same onnxruntime elsewhere."


class SelfTestUnavailableError(ActivationError):
    """The self-test did not come as far as the model: nothing is known of that."""

    reason = NodeReason.SELF_TEST_UNAVAILABLE
    remedy = (
        "Free memory and processes on the node, and check that the agent is installed whole; it is "
        "tried again by itself."
    )
    transient = True


class NotDeterministicError(ActivationError):
    """The same input gives two answers."""

    reason = NodeReason.NOT_DETERMINISTIC
    remedy = "Export it with fixed seeds, or say `deterministic: false` in its golden.json."


class BudgetExceededError(ActivationError):
    """The model takes more memory or more time than it was given."""

    reason = NodeReason.BUDGET_EXCEEDED
    remedy = "Raise spec.resources of the deployment, or ship a smaller variant."


class LoadFailedError(ActivationError):
    """The server cannot load the model."""

    reason = NodeReason.LOAD_FAILED
    remedy = "See the server's log on this node."


class NoMemoryError(ActivationError):
    """The model does not fit into memory, or not beside what serves; that serves on."""

    reason = NodeReason.NO_MEMORY
    remedy = (
        "Give the node more memory, or ship a smaller variant; or allow some seconds of 503 at "
        "each change with spec.swap: Replace. Then linnet retry DEPLOYMENT tries again."
    )


class HookFailedError(ActivationError):
    """The program that uses the files could not be told, or did not take the model."""

    reason = NodeReason.HOOK_FAILED
    remedy = "Run its command by hand on the node, and see /etc/linnet/programs.yaml there."


class ServingNameTakenError(ActivationError):
    """Another deployment on this node serves under that name; it keeps it."""

    reason = NodeReason.SERVING_NAME_TAKEN
    remedy = (
        "Give one of the two deployments another spec.serving.name; or linnet abort DEPLOYMENT. If "
        "the other one was deleted with removal: Keep, its model serves on here (orphans in the "
        "status of the node's ModelHost): to unload it, apply that ModelDeployment again, of the "
        "same name and namespace and with removal: Unload, and delete it once it is Ready."
    )


class ServerUnavailableError(ActivationError):
    """The server does not answer on its control socket."""

    reason = NodeReason.SERVER_UNAVAILABLE
    remedy = "Check that linnet-server runs on this node; the agent tries again by itself."
    transient = True


class HubError(AgentError):
    """The API server could not be asked."""


class HubUnavailableError(HubError):
    """The API server does not answer, or says that it cannot now."""

    remedy = "Nothing to do: the node works on, and reports when it can."
    transient = True


class HubRefusedError(HubError):
    """The API server says no; ``status`` is what it said."""

    remedy = "Check the agent's token and its role."

    def __init__(self, message: str, *, status: int) -> None:
        """Keep the HTTP status."""
        super().__init__(message)
        self.status = status
