"""What can go wrong, by whose fault it is; each ends as one sentence on stderr.

The tree::

    CliError
    +-- UsageError           the command line makes no sense (exit 2)
    +-- KubeconfigError      the kubeconfig cannot be used
    +-- UnreachableError     nobody answers at the API server's address
    +-- UnauthorizedError    the API server does not know the caller
    +-- ForbiddenError       it does, and says no
    +-- NotInstalledError    the cluster does not know Linnet's kinds
    +-- NotFoundError        no such object
    +-- ConflictError        the object changed between reading and writing
    +-- RejectedError        the API server refused what was written
    +-- NotNowError          the act makes no sense in the rollout's state
    +-- CaseError            a file for `linnet judge` is not a case
"""

from linnet_cli.exits import Exit


class CliError(Exception):
    """Something a person can act on.

    Attributes:
        reason: A stable word.
        exit: The exit code of the command.
    """

    reason = "Error"
    exit = Exit.ERROR


class UsageError(CliError):
    """The command line makes no sense."""

    reason = "Usage"
    exit = Exit.USAGE


class KubeconfigError(CliError):
    """The kubeconfig cannot be used."""

    reason = "Kubeconfig"


class UnreachableError(CliError):
    """Nobody answers at the API server's address."""

    reason = "Unreachable"


class UnauthorizedError(CliError):
    """The API server does not know the caller."""

    reason = "Unauthorized"


class ForbiddenError(CliError):
    """The API server knows the caller and says no."""

    reason = "Forbidden"


class NotInstalledError(CliError):
    """The cluster does not know Linnet's kinds."""

    reason = "NotInstalled"


class NotFoundError(CliError):
    """No such object."""

    reason = "NotFound"


class ConflictError(CliError):
    """The object changed between reading and writing."""

    reason = "Conflict"


class RejectedError(CliError):
    """The API server refused what was written."""

    reason = "Rejected"


class NotNowError(CliError):
    """The act makes no sense in the state that the rollout is in."""

    reason = "NotNow"


class CaseError(CliError):
    """A file for ``linnet judge`` is not a case, or holds what cannot be a measurement."""

    reason = "InvalidCase"
