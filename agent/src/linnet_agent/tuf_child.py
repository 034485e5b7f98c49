"""The child that follows a TUF repository; the one place that imports ``tuf``.

- It works in the current directory, where its parent has laid the metadata that is trusted so far,
  and leaves there what is trusted afterwards: python-tuf writes only what it has verified.
- The repository is a directory, which anybody may have written: before the child looks at it, it
  gives up network, processes and all files but those, Python's own, and the current directory.
- What has expired is judged by the node's known time, not by its clock.

``python -m linnet_agent.tuf_child PARENT`` reads one request from stdin and writes one answer to
stdout: ``tuf`` is the other side of it.
"""

# ruff: noqa: SLF001 - tuf 7 has no other way to be told the time

import base64
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from linnet_agent.confine import confine, limit_data

TARGET: Final = "trusted_root.json"
_BASE: Final = "directory:/"
_NOT_FOUND: Final = 404
_CHUNK_BYTES: Final = 1 << 16
_MAX_FILE_BYTES: Final = 16 << 20
_MAX_CPU_S: Final = 60
_MEMORY_BYTES: Final = 256 << 20
"""Above what the imports take."""
_MAX_SENTENCE: Final = 400


class Directory(FetcherInterface):
    """Serves the files of one directory, and nothing that is not a plain file in it."""

    def __init__(self, root: Path) -> None:
        """Keep where it is."""
        self._root = root

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_BASE))
        path = self._root / name
        if ".." in path.parts or not path.is_relative_to(self._root):
            raise DownloadHTTPError(f"{name} lies elsewhere", _NOT_FOUND)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DownloadHTTPError(f"{name}: {error.strerror}", _NOT_FOUND) from error
        with open(file, "rb") as opened:  # noqa: PTH123 - a descriptor, so that no link is followed
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise DownloadHTTPError(f"{name} is not a plain file", _NOT_FOUND)
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk


def follow(repository: Path, *, bootstrap: bytes, now: datetime) -> dict[str, Any]:
    """Bring the metadata in the current directory up to date, and return what it says.

    Raises:
        Exception: The repository cannot be believed; the metadata is as far as it could be.
    """
    inner = "metadata/" if (repository / "metadata").is_dir() else ""
    updater = Updater(
        metadata_dir="metadata",
        metadata_base_url=f"{_BASE}{inner}",
        target_dir="targets",
        target_base_url=f"{_BASE}targets/",
        fetcher=Directory(repository),
        bootstrap=bootstrap,
    )
    updater._trusted_set.reference_time = now
    updater.refresh()
    target = updater.get_targetinfo(TARGET)
    if target is None:
        raise LookupError(f"the repository has no target {TARGET}")
    updater.download_target(target, filepath=f"targets/{TARGET}")
    known = updater._trusted_set
    roles = (known.root, known.timestamp, known.snapshot, known.targets)
    return {
        "version": known.root.version,
        "expires": min(role.expires for role in roles).isoformat(),
    }


def main(arguments: Sequence[str]) -> int:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    repository = Path(request["repository"])
    layers = _confine(repository, parent=int(arguments[0]))
    try:
        answer = follow(
            repository,
            bootstrap=base64.b64decode(request["bootstrap"]),
            now=datetime.fromisoformat(request["now"]),
        )
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is an answer
        answer = {"fault": f"{type(error).__name__}: {error}"[:_MAX_SENTENCE]}
    sys.stdout.write(json.dumps(answer | {"layers": layers}))
    return 0


def _confine(repository: Path, *, parent: int) -> tuple[str, ...]:
    limit_data(_MEMORY_BYTES)
    code = [Path(place) for place in sys.path if place]  # some of it is imported at first use
    return confine(
        parent=parent,
        readable=[repository, *code],
        cpu_s=_MAX_CPU_S,
        new_user=os.geteuid() != 0 or _is_roots(repository),
        scratch=Path.cwd(),
        file_bytes=_MAX_FILE_BYTES,
    )


def _is_roots(path: Path) -> bool:
    try:
        return path.stat().st_uid == 0
    except OSError:
        return False  # it is said when it is looked at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
