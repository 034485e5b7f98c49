"""What linnet-server said last, and for how long it has said nothing."""

import contextlib
from collections.abc import Callable
from time import monotonic

from linnet_agent.errors import ServerUnavailableError
from linnet_agent.server import Abilities, ServerClient, ServerView


class ServerMonitor:
    """The last answer of the server, and for how long there has been none."""

    def __init__(self, client: ServerClient, *, on_change: Callable[[], None]) -> None:
        self.client = client
        self._on_change = on_change
        self.view: ServerView | None = None
        self.abilities: Abilities | None = None
        """What the server can run, as it said last; None: it has never said."""
        self._gone_since: float | None = monotonic()

    @property
    def gone_s(self) -> float:
        """Seconds since the server was last seen, counted from the first miss."""
        return 0.0 if self._gone_since is None else monotonic() - self._gone_since

    async def refresh(self) -> ServerView | None:
        """Ask the server; None where it does not answer."""
        before = _shape(self.view)
        try:
            self.view = await self.client.read()
            if self._gone_since is not None or self.abilities is None:
                with contextlib.suppress(ServerUnavailableError):  # one that is older cannot say
                    self.abilities = await self.client.read_abilities()
            self._gone_since = None
        except ServerUnavailableError:
            self.view = None
            if self._gone_since is None:
                self._gone_since = monotonic()
        if _shape(self.view) != before:
            self._on_change()
        return self.view


def _shape(view: ServerView | None) -> object:
    """Return what workers act on: not the counts."""
    if view is None:
        return None
    return {key: (f.active, f.loading, f.staged) for key, f in view.models.items()}
