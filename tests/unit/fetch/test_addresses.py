import pytest

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.addresses import require_allowed

FORBIDDEN = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "0.0.0.0",  # noqa: S104 - not bound to
    "::",
    "224.0.0.1",
    "ff02::1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
]
ALLOWED = ["192.0.2.10", "10.0.0.1", "192.168.1.1", "fd00::1", "2001:db8::1", "64:ff9b::a00:1"]
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_registry_is_at_a_nodes_own_machinery(address):
    with pytest.raises(SourceNotFoundError, match="refused"):
        require_allowed("registry.local", [address], loopback=True)


@pytest.mark.parametrize("address", ALLOWED)
def test_a_registry_may_be_anywhere_else(address):
    require_allowed("registry.local", [address], loopback=False)


@pytest.mark.parametrize("address", LOOPBACK)
def test_this_machine_is_for_those_on_it(address):
    require_allowed("registry.local", [address], loopback=True)
    with pytest.raises(SourceNotFoundError, match="refused"):
        require_allowed("registry.local", [address], loopback=False)


def test_one_forbidden_address_among_good_ones_is_enough():
    with pytest.raises(SourceNotFoundError, match="refused"):
        require_allowed("registry.local", [*ALLOWED, FORBIDDEN[0]], loopback=True)
