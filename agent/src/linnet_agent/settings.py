"""The agent's settings: flags, then ``LINNET_AGENT_*``, then the in-cluster defaults; frozen.

- What users decide about a model is in the cluster's kinds, not here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import pydantic

from linnet_agent.fetch.directory import DEFAULT_FILE_ROOTS
from linnet_agent.fetch.references import parse_mirrors
from linnet_agent.programs import DEFAULT_PATH as DEFAULT_PROGRAMS
from linnet_agent.trust import DEFAULT_ROOTS
from linnet_api.durations import parse_duration
from linnet_api.quantities import parse_quantity

PREFIX: Final = "LINNET_AGENT_"
MIRRORS_VARIABLE: Final = "LINNET_REGISTRY_MIRRORS"
"""Shared by every process that talks to a registry."""

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_Address = Annotated[
    str, pydantic.Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")
]


def _read_seconds(value: object) -> object:
    return parse_duration(value).total_seconds() if isinstance(value, str) else value


def _read_bytes(value: object) -> object:
    return parse_quantity(value) if isinstance(value, str) else value


def _read_paths(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


_Seconds = Annotated[float, pydantic.BeforeValidator(_read_seconds)]


class Settings(pydantic.BaseModel):
    """What one agent process needs to know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    root: Path = pydantic.Field(
        default=Path("/var/lib/linnet"), description="The node's directory; the agent owns it."
    )
    node: str = pydantic.Field(min_length=1, max_length=253, description="Name of this Node.")
    api_server: str = pydantic.Field(
        default="https://kubernetes.default.svc",
        pattern=r"^https?://",
        description="Address of the API server.",
    )
    token_file: Path | None = pydantic.Field(
        default=_SERVICE_ACCOUNT / "token",
        description="Bearer token bound to this Node; read again when it is renewed.",
    )
    ca_file: Path | None = pydantic.Field(
        default=_SERVICE_ACCOUNT / "ca.crt", description="Who the API server's certificate is from."
    )
    server_socket: Path | None = pydantic.Field(
        default=None,
        description="linnet-server's control socket; default <root>/run/server.sock.",
    )
    metrics: _Address = pydantic.Field(
        default="127.0.0.1:9464", description="Where metrics are served; port 0 takes a free one."
    )
    ceiling: Path = pydantic.Field(
        default=Path("/etc/linnet/trust.yaml"),
        description="The node's own trust, provisioned with the machine; no file: none.",
    )
    programs: Path = pydantic.Field(
        default=DEFAULT_PROGRAMS,
        description="Which programs of the machine's own use the files of which models: what is "
        "run after a swap, and asked for health. It comes with the machine; no file: none.",
    )
    trust_roots: Path = pydantic.Field(
        default=DEFAULT_ROOTS,
        description="Directory of sigstore trusted roots, <name>.json; they come with the machine.",
    )
    tuf_directory: Path | None = pydantic.Field(
        default=None,
        description="A TUF repository in a directory; its trusted_root.json is the root named tuf, "
        "its first root is /etc/linnet/tuf/root.json. None: none is followed.",
    )
    heartbeat: _Seconds = pydantic.Field(
        default=10.0,
        ge=0.2,
        le=600,
        description="Seconds between heartbeats; the Lease outlives three that got lost.",
    )
    retry_max: _Seconds = pydantic.Field(
        default=60.0, ge=0.1, le=3600, description="Longest wait before something is tried again."
    )
    self_test_timeout: _Seconds = pydantic.Field(
        default=120.0, ge=1, le=3600, description="Seconds that a model's self-test may take."
    )
    registry_mirrors: dict[str, str] = pydantic.Field(
        default={}, description="Registry host to the address that is asked instead."
    )

    docker_config: Path | None = pydantic.Field(
        default=None,
        description="A Docker config.json with the node's registry credentials; none: anonymous. "
        "It is mounted into the agent, which may read no Secrets.",
    )
    file_roots: Annotated[tuple[Path, ...], pydantic.BeforeValidator(_read_paths)] = pydantic.Field(
        default=DEFAULT_FILE_ROOTS,
        description="Directories below which file:// sources may lie, such as a USB stick's.",
    )
    fetch_rate: Annotated[int, pydantic.BeforeValidator(_read_bytes)] = pydantic.Field(
        default=0,
        ge=0,
        le=2**40,
        description="Bytes a second that all fetches of this node may take together; 0: no limit.",
    )
    fetch_spread: _Seconds = pydantic.Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="Seconds over which a fleet's nodes spread the start of a fetch, each at a "
        "place of its own. The default is 0, because the operator's budget.maxDownloads bounds how "
        "many nodes fetch at once: a node knows only of itself.",
    )
    rehash_interval: _Seconds = pydantic.Field(
        default=86_400.0,
        ge=1,
        le=31_536_000,
        description="Seconds between two looks at every byte on the disk, beside the one at each "
        "start. A look is slow: it takes 0.4 % of a core.",
    )

    @property
    def socket(self) -> Path:
        """The server's control socket."""
        return self.server_socket or self.root / "run" / "server.sock"

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.metrics.rpartition(":")
        return host.strip("[]"), int(port)


def read_settings(
    flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of this process.

    Args:
        flags: What the command line says, by field; None where it says nothing.
        environ: The environment; this process's where None.

    Raises:
        ValueError: A value is missing or out of bounds; pydantic's error is one.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {
        name: environ[PREFIX + name.upper()]
        for name in Settings.model_fields
        if environ.get(PREFIX + name.upper())
    }
    values |= {name: value for name, value in flags.items() if value is not None}
    mirrors = values.pop("registry_mirrors", None) or environ.get(MIRRORS_VARIABLE)
    if mirrors:
        text = mirrors if isinstance(mirrors, str) else ",".join(map(str, _as_list(mirrors)))
        values["registry_mirrors"] = parse_mirrors(text)
    return Settings.model_validate(values)


def _as_list(value: object) -> list[object]:
    assert isinstance(value, list), value
    return value
