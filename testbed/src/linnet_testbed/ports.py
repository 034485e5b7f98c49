"""Free TCP ports on loopback, remembered by name.

They lie below the ephemeral range, so that no outgoing connection takes one while its owner is down
for a moment.
"""

import socket
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from linnet_testbed import files
from linnet_testbed.errors import TestbedError

FIRST, LAST = 20000, 32000


def is_free(port: int) -> bool:
    """Tell whether nobody listens on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _comes_free(port: int, patience: float = 1.0) -> bool:
    """Tell whether a port is free, or soon: a process that was just killed may hold it yet."""
    deadline = time.monotonic() + patience
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def any_free() -> int:
    """Return a port that nobody listens on now, and that nobody remembers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Tell whether somebody accepts connections on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def taken_by_others(state_home: Path, own: Path) -> set[int]:
    """Return the ports that other beds remember."""
    taken: set[int] = set()
    for path in state_home.glob("*/state.json"):
        if path.parent != own:
            taken |= set(((files.read_json(path) or {}).get("ports") or {}).values())
    return taken


def assign(
    names: Iterable[str],
    before: dict[str, int],
    keep: Callable[[str], bool],
    avoid: set[int],
    seed: str,
) -> dict[str, int]:
    """Give every name a port: the one it had where its owner still runs (`keep`) or it is free."""
    ports: dict[str, int] = {}
    wanted = list(names)
    for name in wanted:
        port = before.get(name)
        if port and (keep(name) or (port not in avoid and _comes_free(port))):
            ports[name] = port
    used = avoid | set(ports.values())
    span = LAST - FIRST
    offset = zlib.crc32(seed.encode()) % span
    candidates = (FIRST + (offset + step) % span for step in range(span))
    for name in wanted:
        if name in ports:
            continue
        for port in candidates:
            if port not in used and is_free(port):
                ports[name] = port
                used.add(port)
                break
        else:
            raise TestbedError(f"No free port between {FIRST} and {LAST} on 127.0.0.1.")
    return ports
