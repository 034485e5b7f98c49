"""Where a node may be led: no scheme but the one it came by, and no address of its own machinery.

- Link-local, multicast and unspecified addresses, and the metadata services of clouds, are refused;
  also where IPv6 wraps them.
- This machine itself is refused to whoever is not on this machine: a registry's redirect does not
  reach what listens on a node's loopback.
- What was looked up and judged is what is connected to: a name cannot mean another address later.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from linnet_agent.errors import SourceNotFoundError

_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google
        ),
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def require_allowed(host: str, addresses: Sequence[str], *, loopback: bool) -> None:
    """Refuse a host one of whose addresses may not be reached.

    Raises:
        SourceNotFoundError: One of them may not.
    """
    for text in addresses:
        if _is_forbidden(text) or (not loopback and is_loopback(text)):
            msg = f"{host} is {text}, where no registry may be: refused"
            raise SourceNotFoundError(msg)


def is_loopback(text: str) -> bool:
    """Return true for an address of this machine."""
    return bool(_address(text).is_loopback)


def _is_forbidden(text: str) -> bool:
    address = _address(text)
    return bool(
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address, or the IPv4 address that it wraps."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
