"""Everything that can go wrong on a node, as one tree.

::

    AgentError
    +-- FetchError                      the way to the bytes
    |   +-- SourceNotFoundError         the registry says no (4xx)
    |   +-- RegistryUnavailableError    the registry says nothing, or 5xx (transient)
    |   +-- DigestMismatchError         the bytes are not those that were named
    |   +-- DiskFullError               no room (transient)
    |   +-- UnsupportedArtifactError    not something that this agent can fetch or read
    +-- TrustError                      what the node trusts, or is asked to trust
    |   +-- CeilingError                the node's own ceiling cannot be read
    |   +-- MalformedBundleError        a signature bundle is not one
    +-- ContentRefusedError             a directory holds what a model may not hold

- ``reason`` is a word of the closed list; it ends up in conditions, events and metrics.
- ``remedy`` is a sentence for a person.
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
        "Check the source and its digest, and that the node's registry credentials may read it."
    )


class RegistryUnavailableError(FetchError):
    """The registry does not answer, or answers with an error of its own."""

    reason = NodeReason.REGISTRY_UNAVAILABLE
    remedy = "Check that the node reaches the registry; the agent tries again by itself."
    transient = True


class DigestMismatchError(FetchError):
    """What came is not what was named."""

    reason = NodeReason.DIGEST_MISMATCH
    remedy = "The registry or something on the way changes bytes; push the artifact again."


class DiskFullError(FetchError):
    """There is no room for the artifact."""

    reason = NodeReason.DISK_FULL
    remedy = "Free space below the agent's root directory; the agent tries again by itself."
    transient = True


class UnsupportedArtifactError(FetchError):
    """The source or the artifact is of a kind that this agent cannot use."""

    reason = NodeReason.UNSUPPORTED_ARTIFACT
    remedy = "Push the model with `linnet push`, which writes what agents can read."


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


class ContentRefusedError(AgentError):
    """A directory holds what a model may not hold: links, odd modes, unsafe or unsigned names."""

    reason = NodeReason.CONTENT_REFUSED
    remedy = "A model is a tree of plain files, exactly those that were signed."
