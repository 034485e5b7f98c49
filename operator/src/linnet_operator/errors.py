"""The errors of the operator, by whose fault they are.

Drawn as a tree::

    OperatorError
    +-- SettingsError            the operator was started wrongly: it exits
    +-- KubeError                the API server did not do what was asked
    |   +-- KubeConflictError         somebody else wrote first: read again, plan again
    |   +-- KubeNotFoundError         the object (or its kind) is not there
    |   +-- KubeRefusedError          the object is invalid, or we may not write it
    |   +-- KubeUnavailableError      no answer, or too many tries: later
    +-- SourceError              the source of a model does not resolve
        +-- SourceMalformedError      it is no source
        +-- SourceNotFoundError       the registry answers that it is not there
        +-- SourceUnavailableError    the registry does not answer as it should: later

Rules:
- Each class has a ``reason`` from a closed list and a ``remedy``, a sentence that says what to do.
- A user's bad YAML is a condition, not an exception.
"""

from typing import ClassVar


class OperatorError(Exception):
    """Any error that the operator knows."""

    reason: ClassVar[str] = "OperatorError"
    remedy: ClassVar[str] = "See the operator's log."


class SettingsError(OperatorError):
    """A flag or a variable of the environment cannot be used."""

    reason = "InvalidSettings"
    remedy = "Run `linnet-operator --print-config` to see what is in force."


class KubeError(OperatorError):
    """The API server did not do what was asked."""

    reason = "KubeError"
    remedy = "Check that the API server is up and that the operator's ClusterRole is installed."

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubeConflictError(KubeError):
    """Somebody else wrote first."""

    reason = "Conflict"
    remedy = "Nothing: the operator reads again and plans again."


class KubeNotFoundError(KubeError):
    """The object, or its kind, is not there."""

    reason = "NotFound"
    remedy = "Install the CRDs of this release."


class KubeRefusedError(KubeError):
    """The API server refused the object: invalid, or forbidden."""

    reason = "Refused"
    remedy = "Install the CRDs and the ClusterRole of this release; they fit together."


class KubeUnavailableError(KubeError):
    """No usable answer, after several tries."""

    reason = "Unavailable"
    remedy = "Nothing: the operator tries again."


class SourceError(OperatorError):
    """The source of a model does not resolve."""

    reason = "SourceNotResolved"
    remedy = "Check spec.source, and that the operator can reach the registry."


class SourceMalformedError(SourceError):
    """The text is no source."""

    remedy = "Write oci://registry/path:tag, or oci://registry/path@sha256:<64 hex>."


class SourceNotFoundError(SourceError):
    """The registry answers that there is no such artifact."""

    remedy = "Check the name and the tag, and push the artifact with `linnet push`."


class SourceUnavailableError(SourceError):
    """The registry does not answer as it should."""

    remedy = "Nothing, if the registry comes back: the operator tries again."
