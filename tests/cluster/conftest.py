"""Beds for this tier: one with the cluster alone, one with everything.

LINNET_TEST_BED=<name> takes a bed that is up already, for quick rounds; it is left as it was.
"""

import os
from pathlib import Path

import pytest

from linnet_testbed import Settings, Testbed, TestbedUnavailableError
from linnet_testbed.progress import Progress

_PREFIX = "pytest-"


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, help="rounds of whole rollouts; also writes them down")


def _sweep(settings):
    """End the beds of test runs that were killed."""
    for name in settings.names():
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if name.startswith(_PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            Testbed.remove(name, forget=True, settings=settings, say=Progress(quiet=True))


def bed_name(what):
    return f"{_PREFIX}{os.getpid()}-{what}"


@pytest.fixture(scope="session")
def settings():
    """Settings without an offered cluster, and a machine without leftovers."""
    read = Settings.from_environment()
    found = Settings(read.state_home, read.cache_home, None, frozenset())
    _sweep(found)
    return found


@pytest.fixture(scope="session")
def up(settings):
    """Bring beds up, or skip with the one sentence; they are down at the end."""
    names = []

    def bring(what, **wanted):
        name = bed_name(what)
        names.append(name)
        try:
            return Testbed.up(name, **{"settings": settings, **wanted})
        except TestbedUnavailableError as error:
            pytest.skip(str(error))

    yield bring
    for name in dict.fromkeys(reversed(names)):
        Testbed.remove(name, settings=settings, say=Progress(quiet=True))


@pytest.fixture(scope="session")
def bed(up, settings):
    """An API server, Prometheus, a registry, and three nodes whose processes do not run."""
    if name := os.environ.get("LINNET_TEST_BED"):  # noqa: TID251 - a switch for developers
        return Testbed.attach(name, settings=settings)
    return up("bed", nodes=3, agents=False, operator=False)


@pytest.fixture(scope="session")
def fleet(up, settings):
    """Everything: three nodes with agent and server, and the operator."""
    if name := os.environ.get("LINNET_TEST_FLEET"):  # noqa: TID251 - a switch for developers
        return Testbed.attach(name, settings=settings)
    return up("fleet", nodes=3, agents=True, operator=True)
