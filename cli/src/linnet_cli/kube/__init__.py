"""A small reader (and patcher) of the Kubernetes API.

- Nothing but the standard library and yaml: the ``kubernetes`` package costs 240 ms of start-up.
- What it does not understand (exec plugins, proxies, impersonation) goes through ``kubectl``.
"""

from datetime import datetime
from typing import Any, Protocol

Json = dict[str, Any]


class Kube(Protocol):
    """A cluster, seen as a tree of JSON objects."""

    @property
    def namespace(self) -> str:
        """The namespace of the context."""
        ...

    @property
    def server_time(self) -> datetime | None:
        """The API server's clock at the last answer; None where it is not known."""
        ...

    def get(self, path: str) -> Json:
        """Return the object or list at ``path``."""
        ...

    def post(self, path: str, body: Json) -> Json:
        """Create ``body`` in the collection at ``path``."""
        ...

    def merge_patch(self, path: str, body: Json) -> Json:
        """Merge ``body`` into the object at ``path``; a resourceVersion in it is a precondition."""
        ...
