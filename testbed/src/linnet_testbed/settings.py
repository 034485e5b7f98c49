"""Settings of the testbed, read once from the environment."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from linnet_testbed.errors import TestbedError

NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the testbed keeps things, and which cluster it was offered."""

    state_home: Path
    cache_home: Path
    kubeconfig: Path | None
    allowed_contexts: frozenset[str]

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment: XDG directories, LINNET_KUBECONFIG and LINNET_ALLOW_CONTEXT."""
        home = Path.home()
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
        kubeconfig = os.environ.get("LINNET_KUBECONFIG")
        contexts = os.environ.get("LINNET_ALLOW_CONTEXT", "").split(",")
        return cls(
            state_home=state / "linnet" / "testbed",
            cache_home=cache / "linnet",
            kubeconfig=Path(kubeconfig) if kubeconfig else None,
            allowed_contexts=frozenset(c.strip() for c in contexts if c.strip()),
        )

    def directory(self, name: str) -> Path:
        """Return the state directory of the bed `name`."""
        if not NAME.match(name):
            raise TestbedError(
                f"{name!r} cannot name a testbed: use at most 32 of a-z, 0-9 and '-', "
                "beginning and ending with a letter or digit."
            )
        return self.state_home / name

    def names(self) -> list[str]:
        """Return the names of all beds that have state."""
        if not self.state_home.is_dir():
            return []
        return sorted(p.name for p in self.state_home.iterdir() if (p / "state.json").is_file())
