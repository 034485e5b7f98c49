"""Each peer in an environment of its own, from a hashed lock, kept in `~/.cache/linnet/bench`.

- Keyed by the lock's content: another lock is another environment.
- Where a peer cannot be installed (no network), `MissingPeerError` says why and the bench goes on.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


class MissingPeerError(Exception):
    """A peer is not to be had here; the message says why."""


def environment(name, *, install=True):
    """Return the Python of the environment for ``bench/requirements/<name>.txt``.

    Args:
        name: The peer.
        install: Whether to install it where it is not.

    Raises:
        MissingPeerError: It is not there, and cannot or must not be installed.
    """
    lock = REQUIREMENTS / f"{name}.txt"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("LINNET_CACHE", Path.home() / ".cache" / "linnet"))
    place = cache / "bench" / f"{name}-{key}"
    python = place / "bin" / "python"
    if (place / ".complete").exists():
        return python
    if not install:
        raise MissingPeerError(f"{name} is not installed; `make bench-server` does it")
    shutil.rmtree(place, ignore_errors=True)
    print(f"   installing {name} into {place} (once)", flush=True)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for command in (
        [sys.executable, "-m", "venv", place],
        [python, *pip, "--require-hashes", "-r", lock],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingPeerError(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    (place / ".complete").touch()
    return python
