"""A trusted root that rotates: followed in a TUF repository that lies in a directory.

- The first root is provisioned with the machine; each later one is signed by the one before: a node
  that has missed some catches up where the repository still has them all.
- What is trusted is kept in one file, written whole: metadata, the trusted root, until when it
  counts. Older metadata is refused, also after a restart.
- A repository that is broken, rolled back, tampered with or expired changes nothing: the root that
  is there is kept, and why is said. An expired one is an alarm, never a stop.
- python-tuf runs in a child that can write in a scratch directory alone; what it leaves there is
  read, and synced here.
"""

import base64
import binascii
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from linnet_agent.durable import make_directory, write_file
from linnet_agent.verify.strict_json import parse_json_object

log = logging.getLogger(__name__)

DEFAULT_BOOTSTRAP: Final = Path("/etc/linnet/tuf/root.json")

_CHILD: Final = (sys.executable, "-I", "-B", "-m", "linnet_agent.tuf_child")
_MAX_BYTES: Final = 32 << 20
_MAX_ROOT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TufState:
    """What the repository has said so far."""

    root: bytes | None = None
    """The trusted root (``trusted_root.json``); None: there was never one."""
    version: int | None = None
    """Of the TUF root."""
    expires: datetime | None = None
    """When the first of the metadata expires, as of the last time that all was well."""
    fault: str = ""
    """Why the last look brought nothing; empty: it did."""
    metadata: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    def is_stale(self, now: datetime) -> bool:
        """Return true where the repository has nothing that still counts: an alarm, no stop."""
        return self.expires is not None and now >= self.expires


class TufRepository:
    """One repository, and the file in which is kept what it has said."""

    def __init__(
        self,
        repository: Path,
        *,
        cache: Path,
        bootstrap: Path = DEFAULT_BOOTSTRAP,
        timeout_s: float = 60.0,
    ) -> None:
        """Say where all lies, and read what is kept.

        Args:
            repository: The directory: ``metadata/`` (or the metadata itself) and ``targets/``.
            cache: The file that is the agent's own.
            bootstrap: The first root, provisioned with the machine.
            timeout_s: For one look.
        """
        self._repository = repository
        self._cache = cache
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self.state = self._load()

    def refresh(self, now: datetime) -> TufState:
        """Look at the repository; takes half a second, so call it in a thread; never raises.

        Args:
            now: Known time.
        """
        before = self.state
        try:
            state = self._follow(now)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            state = replace(before, fault=str(error)[:400])
        if state.fault != before.fault:
            level = logging.ERROR if state.fault else logging.INFO
            log.log(level, "trust.tuf.followed", extra={"fault": state.fault})
        self.state = state
        if replace(state, fault="") != replace(before, fault=""):
            self._store(state)
        return state

    def _follow(self, now: datetime) -> TufState:
        bootstrap = self._bootstrap.read_bytes()
        with tempfile.TemporaryDirectory(prefix="linnet-tuf-") as name:
            scratch = Path(name)
            for part in ("metadata", "metadata/root_history", "targets"):
                (scratch / part).mkdir()
            for file, content in self.state.metadata.items():
                (scratch / "metadata" / file).write_bytes(content)
            answer = self._ask(scratch, bootstrap=bootstrap, now=now)
            # Also where it was refused: roots that were verified on the way stay trusted.
            metadata = _collect(scratch / "metadata")
            if "fault" in answer:
                return replace(self.state, metadata=metadata, fault=str(answer["fault"]))
            return TufState(
                root=_read_root(scratch / "targets" / "trusted_root.json"),
                version=int(answer["version"]),
                expires=datetime.fromisoformat(answer["expires"]),
                metadata=metadata,
            )

    def _ask(self, scratch: Path, *, bootstrap: bytes, now: datetime) -> dict[str, Any]:
        request = {
            "repository": str(self._repository.absolute()),
            "bootstrap": base64.b64encode(bootstrap).decode(),
            "now": now.isoformat(),
        }
        ended = subprocess.run(  # noqa: S603 - this program, by this interpreter
            [*_CHILD, str(os.getpid())],
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=scratch,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch)},
            timeout=self._timeout_s,
            check=False,
        )
        if ended.returncode != 0:
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
            msg = f"the child that follows TUF ended with {ended.returncode}: {''.join(last)}"
            raise ValueError(msg)
        return parse_json_object(ended.stdout, max_bytes=_MAX_ROOT_BYTES)

    def _load(self) -> TufState:
        try:
            document = json.loads(self._cache.read_bytes())
            return TufState(
                root=base64.b64decode(document["root"]) if document["root"] else None,
                version=document["version"],
                expires=_read_time(document["expires"]),
                metadata={
                    str(name): base64.b64decode(text) for name, text in document["metadata"].items()
                },
            )
        except FileNotFoundError:
            return TufState()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            # What was rolled back meanwhile cannot be told any more; the first root still holds.
            log.error("trust.tuf.unreadable", extra={"cause": repr(error)})  # noqa: TRY400 - expected
            return TufState(fault="what was kept of the TUF repository cannot be read")

    def _store(self, state: TufState) -> None:
        document = {
            "root": None if state.root is None else base64.b64encode(state.root).decode(),
            "version": state.version,
            "expires": None if state.expires is None else state.expires.isoformat(),
            "metadata": {
                name: base64.b64encode(content).decode()
                for name, content in sorted(state.metadata.items())
            },
        }
        try:
            make_directory(self._cache.parent)
            write_file(self._cache, json.dumps(document).encode(), mode=0o600)
        except OSError as error:  # a full disk: it stands in memory
            log.warning("trust.unwritten", extra={"file": self._cache.name, "cause": str(error)})


def _collect(directory: Path) -> dict[str, bytes]:
    """Return the plain files below ``directory`` by their path.

    Raises:
        ValueError: Together they are too large.
    """
    marks = {path: path.lstat() for path in directory.rglob("*.json")}
    plain = {path: mark.st_size for path, mark in marks.items() if stat.S_ISREG(mark.st_mode)}
    if sum(plain.values()) > _MAX_BYTES:
        msg = f"the metadata of the TUF repository is larger than {_MAX_BYTES} bytes"
        raise ValueError(msg)
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(plain)}


def _read_root(path: Path) -> bytes:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_ROOT_BYTES:
        msg = f"the {path.name} of the TUF repository is larger than {_MAX_ROOT_BYTES} bytes"
        raise ValueError(msg)
    raw = path.read_bytes()
    parse_json_object(raw, max_bytes=_MAX_ROOT_BYTES)
    return raw


def _read_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
