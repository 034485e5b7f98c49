"""Turns the API server's refusals into sentences that say what to do."""

from linnet_cli.contract import API_ROOT, GROUP
from linnet_cli.errors import (
    CliError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RejectedError,
    UnauthorizedError,
)
from linnet_cli.kube import Json


def refusal(*, code: int, status: Json, path: str, where: str) -> CliError:
    """Return the error for an answer of ``code``.

    Args:
        code: The HTTP status code, 400 and above.
        status: The ``metav1.Status`` of the answer; empty where the answer was none.
        path: What was asked for.
        where: The server and where its address came from, for people.
    """
    message = str(status.get("message", "")) or f"HTTP {code} for {path}"
    match code:
        case 401:
            return UnauthorizedError(
                f"the API server at {where} does not know you (401): log in again, or check the "
                f"user of this context with `kubectl auth whoami`"
            )
        case 403:
            return ForbiddenError(
                f"{message}; ask who runs the cluster for a role that may do it "
                f"(see `kubectl auth can-i --list`)"
            )
        case 404 if _is_unknown_kind(status, path):
            return NotInstalledError(
                f"the cluster at {where} does not know {GROUP}/v1alpha1: install Linnet's CRDs "
                f"first (`kubectl apply --server-side -f crds/`), or pick another --context"
            )
        case 404:
            return NotFoundError(message)
        case 409:
            return ConflictError(message)
        case 400 | 422:
            return RejectedError(f"the API server refused it: {message}")
        case _:
            return CliError(f"the API server at {where} answered {code}: {message}; try again")


def _is_unknown_kind(status: Json, path: str) -> bool:
    """Tell a missing kind from a missing object: only the latter's answer names the object."""
    details = status.get("details") or {}
    return path.startswith(API_ROOT) and not details.get("name")
