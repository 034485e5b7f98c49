"""What a bed remembers between processes."""

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class State:
    """What a bed remembers."""

    name: str
    cluster: str | None = None
    """The way to the cluster, once taken."""
    bare: bool = False
    """Whether there is only a cluster, without anything of Linnet's."""
    nodes: int = 0
    agents: bool = True
    operator: bool = True
    scrape_interval: str = "1s"
    heartbeat: str = "2s"
    ceiling: str | None = None
    token_seconds: int = 3600
    ports: dict[str, int] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, value: dict[str, Any]) -> "State":
        """Read what was saved, perhaps by another version."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})
