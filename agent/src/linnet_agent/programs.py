"""Programs of the user's own, for the runtime Files: told of a swap, and asked for health.

    - model: factory/defects                # namespace/deployment, as the ModelDeployment is named
      reload: {command: [/usr/bin/systemctl, reload, defects], timeout: 30s}
      health: {url: "http://127.0.0.1:9000/healthz", timeout: 2s}     # or a command that exits 0

- The file comes with the machine (``/etc/linnet/programs.yaml``): no hub can name a command. One
  that others may write is not believed.
- ``reload`` runs after ``current`` was swapped, forwards or back, and may run twice for one swap: a
  kill may have come in between. It finds the model in ``LINNET_MODEL``.
- A command that fails, or does not end in time, is a verdict; so is a program that is not well
  when its soak ends.
- No entry: nobody is told, and nobody is asked; the program watches ``current`` itself.
"""

import asyncio
import contextlib
import os
import signal
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self

import httpx
import pydantic

from linnet_agent.errors import HookFailedError
from linnet_agent.store import ModelKey
from linnet_api.durations import parse_duration

DEFAULT_PATH: Final = Path("/etc/linnet/programs.yaml")

_MAX_FILE_BYTES: Final = 1 << 20
_LAST_WORDS_BYTES: Final = 2 << 10
_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _read_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


_Timeout = Annotated[
    timedelta,
    pydantic.BeforeValidator(_read_duration),
    pydantic.Field(ge=timedelta(milliseconds=100), le=timedelta(minutes=10)),
]
_Command = Annotated[
    tuple[Annotated[str, pydantic.Field(max_length=4096)], ...],
    pydantic.Field(min_length=1, max_length=64),
]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class _Runs(_Strict):
    @pydantic.field_validator("command", check_fields=False)
    @classmethod
    def _require_absolute(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if command is not None and not command[0].startswith("/"):
            raise ValueError("a command begins with an absolute path")
        return command


class Reload(_Runs):
    """What is run after a swap."""

    command: _Command
    timeout: _Timeout = timedelta(seconds=30)


class Health(_Runs):
    """What is asked whether the program is well."""

    url: Annotated[str, pydantic.Field(pattern=r"^http://", max_length=2048)] | None = None
    command: _Command | None = None
    timeout: _Timeout = timedelta(seconds=5)

    @pydantic.model_validator(mode="after")
    def _require_one(self) -> Self:
        if (self.url is None) == (self.command is None):
            raise ValueError("health asks either a url or a command")
        return self


class Program(_Strict):
    """One entry: whose model it is, and how its program is told and asked."""

    model: Annotated[str, pydantic.Field(pattern=r"^[^/]+/[^/]+$", max_length=512)]
    reload: Reload | None = None
    health: Health | None = None


_ENTRIES: Final = pydantic.TypeAdapter(tuple[Program, ...])


@dataclass(frozen=True, slots=True)
class Handed:
    """What a program is told about: the environment of its commands."""

    key: ModelKey
    revision: str
    model: Path
    """``current/model``: the same path for every revision."""

    def environment(self) -> Mapping[str, str]:
        """Return it as environment variables, and nothing of the agent's own."""
        return {
            "PATH": _SEARCH_PATH,
            "LINNET_NAMESPACE": self.key.namespace,
            "LINNET_DEPLOYMENT": self.key.deployment,
            "LINNET_REVISION": self.revision,
            "LINNET_MODEL": str(self.model),
        }


class Programs:
    """The node's entries; the file is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int], Mapping[str, Program]] | None = None

    def find(self, key: ModelKey) -> Program | None:
        """Return the entry for a deployment; None where there is none.

        Raises:
            HookFailedError: The file cannot be used.
        """
        return self._entries().get(f"{key.namespace}/{key.deployment}")

    def has_hook(self, key: ModelKey) -> bool:
        """Tell whether a program is to be told of swaps; so it is where the file is broken."""
        try:
            program = self.find(key)
        except HookFailedError:
            return True
        return program is not None and program.reload is not None

    async def reload(self, handed: Handed) -> None:
        """Tell the program that its model has changed.

        Raises:
            HookFailedError: Its command failed, or did not end in time.
        """
        program = self.find(handed.key)
        if program is not None and program.reload is not None:
            await _run(program.reload.command, handed, limit=program.reload.timeout, what="reload")

    async def ask_health(self, handed: Handed) -> str:
        """Return what is wrong with the program; empty where it is well, or cannot be asked."""
        try:
            program = self.find(handed.key)
            if program is None or program.health is None:
                return ""
            health = program.health
            if health.command is not None:
                await _run(health.command, handed, limit=health.timeout, what="health")
            else:
                assert health.url is not None
                await _ask(health.url, limit=health.timeout)
        except HookFailedError as error:
            return str(error)
        return ""

    def _entries(self) -> Mapping[str, Program]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HookFailedError(f"{self._path} cannot be read: {error.strerror}") from error
        version = (found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != version:
            self._read = version, _read_entries(self._path, found)
        return self._read[1]


def _read_entries(path: Path, found: os.stat_result) -> Mapping[str, Program]:
    import yaml  # noqa: PLC0415 - a mebibyte that a node without programs can spare

    if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_FILE_BYTES:
        raise HookFailedError(f"{path} is not a file of at most {_MAX_FILE_BYTES} bytes")
    if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
        raise HookFailedError(f"{path} can be written by others: it may name no commands")
    try:
        programs = _ENTRIES.validate_python(yaml.safe_load(path.read_bytes()) or ())
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HookFailedError(f"{path}: {where}: {first['msg']}") from error
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise HookFailedError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    entries = {program.model: program for program in programs}
    if len(entries) < len(programs):
        raise HookFailedError(f"{path} names a model twice")
    return entries


async def _run(command: tuple[str, ...], handed: Handed, *, limit: timedelta, what: str) -> None:
    """Run a command; what it starts in the background lives on where it ends well."""
    with tempfile.TemporaryFile() as words:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                cwd="/",
                env=handed.environment(),
            )
        except (OSError, ValueError) as error:
            raise HookFailedError(f"{what}: {command[0]} cannot be run: {error}") from error
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await process.wait()
        except TimeoutError as error:
            seconds = limit.total_seconds()
            raise HookFailedError(
                f"{what}: {command[0]} did not end within {seconds:g} s"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            words.seek(max(0, words.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
            said = words.read().decode(errors="replace").strip().splitlines()[-1:]
            last = said[0][:300] if said else "it said nothing"
            raise HookFailedError(f"{what}: {command[0]} ended with {process.returncode}: {last}")


async def _ask(url: str, *, limit: timedelta) -> None:
    seconds = limit.total_seconds()
    transport = httpx.AsyncHTTPTransport(verify=False)  # no TLS, no roots
    try:
        async with (
            httpx.AsyncClient(transport=transport, timeout=seconds, trust_env=False) as client,
            asyncio.timeout(seconds),
            client.stream("GET", url) as answer,
        ):
            if not answer.is_success:
                raise HookFailedError(f"health: {url} answered {answer.status_code}")
    except TimeoutError as error:
        raise HookFailedError(f"health: {url} did not answer within {seconds:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise HookFailedError(f"health: {url} does not answer: {type(error).__name__}") from error
