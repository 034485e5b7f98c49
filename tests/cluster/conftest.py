"""Beds for this tier: one with the cluster alone, one with everything.

LINNET_TEST_BED=<name> takes a bed that is up already, for quick rounds; it is left as it was.
"""

import contextlib
import os
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from linnet_testbed import Settings, Testbed, TestbedError, TestbedUnavailableError
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress

_PREFIX = "pytest-"
_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))  # test directories are no packages: for `releases`
_BEDS = []
"""Those of this run, in the order in which they came up."""


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, help="rounds of whole rollouts; also writes them down")


def pytest_collection_finish(session):
    """Build what is not in the cache yet: the first time it takes longer than a test may."""
    if session.config.option.collectonly:
        return
    if any(item.path.is_relative_to(_HERE) for item in session.items):
        capture = session.config.pluginmanager.getplugin("capturemanager")
        binaries = Binaries(_settings().cache_home, Progress())
        for build in (binaries.kube, binaries.kine, binaries.prometheus, binaries.registry):
            with capture.global_and_fixture_disabled(), contextlib.suppress(TestbedError):
                build()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Take all beds down after this tier's last test: those of other tiers want the machine."""
    if item is [each for each in item.session.items if each.path.is_relative_to(_HERE)][-1]:
        _take_down()


def _settings():
    """Return settings without an offered cluster."""
    read = Settings.from_environment()
    return Settings(read.state_home, read.cache_home, None, frozenset())


def _take_down():
    while _BEDS:
        Testbed.remove(_BEDS.pop(), settings=_settings(), say=Progress(quiet=True))


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
    found = _settings()
    _sweep(found)
    return found


@pytest.fixture(scope="session")
def up(settings):
    """Bring beds up, or skip with the one sentence; they are down at the end."""

    def bring(what, **wanted):
        name = bed_name(what)
        if name not in _BEDS:
            _BEDS.append(name)
        try:
            return Testbed.up(name, **{"settings": settings, **wanted})
        except TestbedUnavailableError as error:
            pytest.skip(str(error))

    yield bring
    _take_down()


@pytest.fixture(scope="session")
def connect():
    """Return clients of the API servers of beds, as their administrator; closed at the end."""
    with contextlib.ExitStack() as clients:

        def made(bed):
            config = yaml.safe_load(bed.kubeconfig.read_text())
            client = httpx.Client(
                base_url=config["clusters"][0]["cluster"]["server"],
                headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
                verify=False,  # noqa: S501 - loopback, and the certificate is the bed's own
                timeout=20,
            )
            return clients.enter_context(client)

        yield made


@pytest.fixture(scope="session")
def bed(up, settings):
    """An API server, Prometheus, a registry, and three nodes whose processes do not run."""
    if name := os.environ.get("LINNET_TEST_BED"):  # noqa: TID251 - a switch for developers
        return Testbed.attach(name, settings=settings)
    return up("bed", nodes=3, agents=False, operator=False)


@pytest.fixture(scope="session")
def lone(up):
    """One node with agent and server, and no operator."""
    return up("lone", nodes=1, agents=True, operator=False, heartbeat="1s")


@pytest.fixture(scope="session")
def fleet(up, settings):
    """Everything: three nodes with agent and server, and the operator."""
    if name := os.environ.get("LINNET_TEST_FLEET"):  # noqa: TID251 - a switch for developers
        return Testbed.attach(name, settings=settings)
    return up("fleet", nodes=3, agents=True, operator=True)
