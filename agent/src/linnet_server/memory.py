"""How much memory there is, how much the process has, and how much it may have.

- A revision is loaded beside others only where all fit: `needed_bytes` against `available_bytes`.
  Where the kernel says nothing, nothing is refused.
- The process has a limit of its own (`limit_memory`): a model that asks for more than the machine
  or the container has gets an error from its allocator. Without it, the kernel would kill the
  process and with it every other model of the node.
"""

import ctypes
import resource
from pathlib import Path
from typing import Final

from linnet_server.runtimes.targets import GPU_FILES

_BESIDE_BYTES: Final = 32 << 20
"""What a session takes beside its weights."""

_TIMES_SIZE: Final = 1.25
"""A file of 407 MB peaked at 512 MB while it was loaded."""

_GROUP: Final = Path("/sys/fs/cgroup")


def needed_bytes(model_path: Path) -> int:
    """Return what it takes to load the model, external data included: an upper estimate."""
    files = [path for path in model_path.parent.rglob("*") if path.is_file()]
    return _BESIDE_BYTES + int(_TIMES_SIZE * sum(path.stat().st_size for path in files))


def available_bytes() -> int | None:
    """Return the memory that can be had; None where nobody says."""
    found = [_read_kib("/proc/meminfo", "MemAvailable")]
    limit, used = _read_number(_GROUP / "memory.max"), _read_number(_GROUP / "memory.current")
    if limit is not None and used is not None:
        found.append(limit - used)
    own = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if own != resource.RLIM_INFINITY:
        found.append(own - (_read_kib("/proc/self/status", "VmData") or 0))
    known = [size for size in found if size is not None]
    return max(0, min(known)) if known else None


def resident_bytes() -> int:
    """Return the process's resident memory; 0 where nobody says."""
    return _read_kib("/proc/self/status", "VmRSS") or 0


def limit_memory(limit_bytes: int | None) -> int | None:
    """Let the process's private memory never grow beyond a limit, and return it.

    Args:
        limit_bytes: The limit; None: what the machine or the container has. With a GPU there is
            then none: its driver maps as private what it never touches.
    """
    if limit_bytes is None and any(path.exists() for path in GPU_FILES):
        return None
    if limit_bytes is None:
        found = [_read_kib("/proc/meminfo", "MemTotal"), _read_number(_GROUP / "memory.max")]
        limit_bytes = min((size for size in found if size is not None), default=None)
    if limit_bytes is None:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, hard))
    return limit_bytes


def trim() -> None:
    """Give back to the system what the allocator keeps."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return


def _read_kib(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group; "max" is no limit
        return None
