"""The server's settings: flags first, then `LINNET_SERVER_*`, then defaults; read once, frozen.

- What users decide about a model (threads, instances) is in the ModelDeployment, not here.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic

from linnet_server.access import TlsFiles, is_loopback
from linnet_server.batching import BatchLimits

PREFIX: Final = "LINNET_SERVER_"
OTLP_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""OpenTelemetry's own; counts where ours says nothing."""

_HOST: Final = r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?"


def _check_address(address: str) -> str:
    found = re.fullmatch(rf"(\[[0-9a-fA-F:.]+\]|{_HOST}):([0-9]{{1,5}})", address)
    if found is None or int(found[2]) > 65535:
        raise ValueError(f"takes HOST:PORT, such as 127.0.0.1:8080, not {address!r}")
    return address


_Address = Annotated[str, pydantic.AfterValidator(_check_address)]


class Settings(pydantic.BaseModel):
    """What one server process needs to know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    root: Path = pydantic.Field(
        default=Path("/var/lib/linnet"),
        description="The node's directory, shared with the agent; the server writes only below "
        "run and engines.",
    )
    http: _Address = pydantic.Field(
        default="127.0.0.1:8080",
        description="Where clients and Prometheus reach the server; port 0 takes a free one. "
        "Another address than loopback needs token_file, tls_client_ca or allow_network.",
    )
    grpc: _Address | None = pydantic.Field(
        default=None,
        description="Where clients reach the server over gRPC; port 0 takes a free one. Default: "
        "nowhere, which saves 10 MiB.",
    )
    control: Path | None = pydantic.Field(
        default=None,
        description="The agent's Unix socket (mode 0600); default <root>/run/server.sock, "
        "none with --model.",
    )
    port_file: Path | None = pydantic.Field(
        default=None,
        description="Where to write the port, once the server listens; with --grpc its port stands "
        "in a second line.",
    )
    threads: int = pydantic.Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=1024,
        description="Upper bound on the threads of one run; default: the machine's cores. "
        "A model asks for its own number, usually less.",
    )
    max_queue: int = pydantic.Field(
        default=128,
        ge=0,
        le=100_000,
        description="Requests that may wait for one model; more are refused with 503.",
    )
    max_batch: int = pydantic.Field(
        default=1,
        ge=1,
        le=4096,
        description="Rows that may run as one batch, for models whose inputs and outputs all have "
        "a dynamic first dimension. Default 1: off, since a batch mixes requests.",
    )
    batch_delay_s: float = pydantic.Field(
        default=0.0,
        ge=0,
        le=1,
        description="Seconds that a request waits for others to make a batch; 0: only what has "
        "piled up while all instances were busy.",
    )
    deadline_s: float = pydantic.Field(
        default=30.0, gt=0, le=3600, description="Seconds until a run is given up with 504."
    )
    drain_s: float = pydantic.Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that requests under way get when the server stops, and those of a "
        "revision that was swapped out; then they are stopped.",
    )
    load_timeout_s: float = pydantic.Field(
        default=300.0,
        gt=0,
        le=3600,
        description="Seconds until a model that is still loading is refused. Shorter than the "
        "agent's patience of 600.",
    )
    replace: bool = pydantic.Field(
        default=False,
        description="For models that no agent orders, where two revisions do not fit into memory: "
        "take the old one out first, with 503 meanwhile. Default: refuse the new one.",
    )
    max_memory_bytes: int | None = pydantic.Field(
        default=None,
        ge=64 * 2**20,
        description="Private memory that the process may have; a model that asks for more gets an "
        "error. Default: what the machine or the container has; with a GPU, no limit.",
    )
    max_body_bytes: int = pydantic.Field(
        default=64 * 2**20, ge=1024, description="Bytes of a request's body; more is 413."
    )
    token_file: Path | None = pydantic.Field(
        default=None,
        description="Bearer tokens, one a line; requests over HTTP and gRPC need one of them. "
        "Liveness and readiness do not.",
    )
    tls_certificate: Path | None = pydantic.Field(
        default=None, description="PEM: the server's certificate chain, for HTTP and gRPC."
    )
    tls_key: Path | None = pydantic.Field(default=None, description="PEM: its private key.")
    tls_client_ca: Path | None = pydantic.Field(
        default=None, description="PEM: clients need a certificate that one of these has issued."
    )
    allow_network: bool = pydantic.Field(
        default=False,
        description="Listen on the network although anybody may ask: something else keeps them "
        "off, such as the chart's NetworkPolicy.",
    )
    access_log: bool = pydantic.Field(
        default=False,
        description="A line for each request. Off: at full load it is the larger half of the work.",
    )
    otlp_endpoint: str | None = pydantic.Field(
        default=None,
        pattern=r"^https?://[A-Za-z0-9.:\[\]_-]+(/[^?#\s]*)?$",
        description="Base URL of the collector that gets spans, as OTLP over HTTP: of requests in "
        "a trace that the client records. Needs the extra 'tracing'. Default: what "
        "OTEL_EXPORTER_OTLP_ENDPOINT says, else nowhere.",
    )
    engine_cache: Path | None = pydantic.Field(
        default=None,
        description="Where engines are kept that are built for this node's GPU; default "
        "<root>/engines, with --model ~/.cache/linnet.",
    )
    model: dict[str, Path] = pydantic.Field(
        default={},
        description="NAME=PATH: serve a bare file or directory, without an agent. Its revision and "
        "digest are 'unverified', in answers and metrics.",
    )
    variant: str = pydantic.Field(
        default="onnx",
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="What the models of --model run on: onnx, onnx-cuda, onnx-tensorrt, tensorrt.",
    )
    allow_unverified: bool = pydantic.Field(
        default=False, description="Needed with --model: nothing has verified that file."
    )

    @pydantic.model_validator(mode="after")
    def _refuse_unverified(self) -> Self:
        if self.model and not self.allow_unverified:
            raise ValueError("--model needs --allow-unverified: nothing has verified that file")
        return self

    @pydantic.model_validator(mode="after")
    def _refuse_open_network(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key come together")
        if self.tls_client_ca is not None and self.tls_key is None:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        guarded = self.token_file or self.tls_client_ca or self.allow_network
        for address in (self.http, self.grpc):
            if address is not None and not guarded and not is_loopback(address):
                raise ValueError(
                    f"{address} is not loopback: that needs --token-file, --tls-client-ca, or "
                    "--allow-network where something else keeps strangers off"
                )
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """What HTTP and gRPC speak TLS with; None where they do not."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def standalone(self) -> bool:
        """Whether the server runs bare files instead of an agent's."""
        return bool(self.model)

    @property
    def standalone_threads(self) -> int:
        """Threads of one run of a bare model: those that were named, else one."""
        return self.threads if "threads" in self.model_fields_set else 1

    @property
    def engine_directory(self) -> Path:
        """Where engines are kept."""
        if self.engine_cache is not None:
            return self.engine_cache
        return Path.home() / ".cache" / "linnet" if self.standalone else self.root / "engines"

    @property
    def control_path(self) -> Path | None:
        """The path of the control socket; None where there is none."""
        if self.control is None and not self.standalone:
            return self.root / "run" / "server.sock"
        return self.control

    @property
    def batch_limits(self) -> BatchLimits | None:
        """How requests are put together; None where they are not."""
        if self.max_batch == 1:
            return None
        return BatchLimits(max_rows=self.max_batch, delay_s=self.batch_delay_s)

    @property
    def http_address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.http.rpartition(":")
        return host.strip("[]"), int(port)


def read_settings(
    flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of this process.

    Args:
        flags: What the command line says, by field; None where it says nothing.
        environ: The environment; this process's where None.

    Raises:
        pydantic.ValidationError: A value is out of bounds.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {
        name: environ[PREFIX + name.upper()]
        for name in Settings.model_fields
        if environ.get(PREFIX + name.upper())
    }
    if environ.get(OTLP_ENDPOINT):
        values.setdefault("otlp_endpoint", environ[OTLP_ENDPOINT])
    values |= {name: value for name, value in flags.items() if value is not None}
    if "model" in values:
        values["model"] = _read_models(values["model"])
    return Settings.model_validate(values)


def name_source(field: str, flags: Mapping[str, object]) -> str:
    """Return where the value of ``field`` was said: its flag, or else its variable."""
    if flags.get(field) is not None:
        return f"--{field}".replace("_", "-")
    ours = PREFIX + field.upper()
    return OTLP_ENDPOINT if field == "otlp_endpoint" and not os.environ.get(ours) else ours


def _read_models(value: object) -> dict[str, str]:
    pairs = value.split(",") if isinstance(value, str) else value
    assert isinstance(pairs, list), pairs
    models: dict[str, str] = {}
    for pair in pairs:
        name, separator, path = str(pair).partition("=")
        if not (name and separator and path):
            raise ValueError(f"--model takes NAME=PATH, not {pair!r}")
        if name in models:
            raise ValueError(f"--model names {name!r} twice")
        models[name] = path
    return models
