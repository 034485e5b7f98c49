"""The operator's settings: one frozen model, from flags and ``LINNET_OPERATOR_*``.

Rules:
- A flag beats the environment, the environment beats the default.
- What users decide is in the kinds, not here.
- Every duration is in seconds and says so in its name.
- No password is ever shown, neither where the settings are printed nor where one cannot be used.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from linnet_operator.errors import SettingsError

_PREFIX: Final = "LINNET_OPERATOR_"
_MIRRORS: Final = "LINNET_REGISTRY_MIRRORS"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseModel):
    """What a process of the operator is told at its start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: Annotated[
        str | None,
        Field(description="Path of a kubeconfig. Absent: the cluster that the pod runs in."),
    ] = None
    prometheus: Annotated[
        dict[str, str],
        Field(description="Prometheus servers, name=url; a bare url is 'default'."),
    ] = {}
    prometheus_auth: Annotated[
        dict[str, str],
        Field(
            description="Credentials of Prometheus servers, name=directory with files as in a "
            "Secret: username and password, or token; tls.crt and tls.key; ca.crt. Read again "
            "when they change."
        ),
    ] = {}
    prometheus_timeout_s: Annotated[
        Seconds, Field(description="How long one query may take. Default 10.")
    ] = 10
    registry_mirrors: Annotated[
        dict[str, str],
        Field(
            description="Mirrors of registries, host=url; plain http only where the url says so."
        ),
    ] = {}
    metrics: Annotated[
        str, Field(description="Address of /metrics and /healthz, host:port; port 0: any.")
    ] = "127.0.0.1:9464"
    resync_s: Annotated[
        Seconds, Field(description="Longest pause between two turns of a deployment. Default 30.")
    ] = 30
    relist_s: Annotated[
        Seconds,
        Field(
            description="Pause between full lists, which find what a watch has missed. Default 300."
        ),
    ] = 300
    lease_poll_s: Annotated[
        Seconds,
        Field(description="Pause between lists of heartbeats while a rollout runs. Default 10."),
    ] = 10
    soak_s: Annotated[
        int,
        Field(ge=0, le=86_400, description="Soak of an activation on a node, seconds. Default 5."),
    ] = 5
    writes_per_s: Annotated[
        float, Field(gt=0, le=10_000, description="Writes to the API server a second. Default 50.")
    ] = 50
    writes_burst: Annotated[
        int, Field(ge=1, le=100_000, description="Writes that may go out at once. Default 100.")
    ] = 100
    judge_workers: Annotated[
        int, Field(ge=1, le=64, description="Worker processes of the judge. Default 1.")
    ] = 1
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @pydantic.field_validator("prometheus", "prometheus_auth", "registry_mirrors", mode="before")
    @classmethod
    def _read_pairs(cls, value: object, info: pydantic.ValidationInfo) -> object:
        if not isinstance(value, str | list | tuple):
            return value
        texts = value.split(",") if isinstance(value, str) else value
        bare = "" if info.field_name == "registry_mirrors" else "default"
        pairs = [_pair(str(text).strip(), bare=bare) for text in texts if str(text).strip()]
        return dict(pairs)

    @pydantic.model_validator(mode="after")
    def _check_addresses(self) -> Self:
        host, colon, port = self.metrics.rpartition(":")
        if not host or not colon or not port.isdecimal():
            raise ValueError(f"metrics: {self.metrics!r} is not host:port")
        if "" in self.registry_mirrors:
            raise ValueError("registry_mirrors: write host=url")
        for url in self.registry_mirrors.values():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not an http(s) URL")
        for name, url in self.prometheus.items():
            _check_prometheus(name, url, has_auth=name in self.prometheus_auth)
        unknown = sorted(set(self.prometheus_auth) - set(self.prometheus))
        if unknown:
            raise ValueError(f"prometheus_auth: there is no Prometheus {unknown[0]!r}")
        if "" in self.prometheus:
            raise ValueError("prometheus: a name is missing before '='")
        return self

    @pydantic.field_serializer("prometheus")
    def _mask(self, urls: dict[str, str]) -> dict[str, str]:
        """Show no password, wherever the settings are shown."""
        return {name: without_credentials(url) for name, url in urls.items()}

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of the metrics server."""
        host, _, port = self.metrics.rpartition(":")
        return host, int(port)


def without_credentials(url: str) -> str:
    """Return an address that may be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _check_prometheus(name: str, url: str, *, has_auth: bool) -> None:
    # A sentence about an address that cannot be read does not repeat it: it may hold a password.
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"prometheus {name!r} is not an http(s) URL")
    if not _is_prefix(url):
        raise ValueError(
            f"prometheus {name!r} is not http(s)://host:port/prefix; what belongs to a query "
            "cannot be in it, and a user and password are better off in prometheus_auth"
        )
    if "@" in url and has_auth:
        raise ValueError(
            f"prometheus {name!r} has a user in its URL and prometheus_auth besides; keep one"
        )


def _is_prefix(url: str) -> bool:
    try:
        parts = urlsplit(url)
        found = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return bool(found) and not parts.query and not parts.fragment and "@" not in parts.path


def _pair(text: str, *, bare: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    # A bare URL may hold an equals sign of its own, behind its scheme.
    if not equals or "://" in name:
        return bare, text
    return name, url


def parse_arguments(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """Return the settings in force, and whether they are only to be printed.

    Raises:
        SettingsError: A value cannot be used; the message names the setting.
        SystemExit: The command line cannot be read (argparse has said why).
    """
    parser = argparse.ArgumentParser(
        prog="linnet-operator", description="Decides which node runs which model when."
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print what is in force, and exit"
    )
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-").removesuffix("s" if name == "registry_mirrors" else "")
        repeatable = name in {"prometheus", "prometheus_auth", "registry_mirrors"}
        parser.add_argument(
            flag,
            dest=name,
            action="append" if repeatable else "store",
            help=(field.description or "").replace("%", "%%"),
        )
    given = vars(parser.parse_args(arguments))
    print_config = bool(given.pop("print_config"))
    flags = {name: value for name, value in given.items() if value is not None}
    return _validated(_from_environment(os.environ) | flags), print_config


def _from_environment(environment: "os._Environ[str]") -> dict[str, Any]:
    values: dict[str, Any] = {}
    if _MIRRORS in environment:
        values["registry_mirrors"] = environment[_MIRRORS]
    for name in Settings.model_fields:
        variable = _PREFIX + name.upper()
        if variable in environment:
            values[name] = environment[variable]
    return values


def _validated(values: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            for item in error.errors()
        )
        raise SettingsError(problems) from error
