"""A node without a hub, and what it needs, as fixtures; the parts are in ``crashlab``."""

import contextlib
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crashlab.node import Node, Publisher, wait_until
from crashlab.scenarios import Lab

from linnet_testbed import TestbedUnavailableError
from linnet_testbed.registry import running_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """The URL of a real registry."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(running_registry(tmp_path_factory.mktemp("registry")))
        except TestbedUnavailableError as error:
            pytest.skip(str(error))
        yield url


@pytest.fixture(scope="session")
def publisher(tmp_path_factory, registry):
    return Publisher(tmp_path_factory.mktemp("models"), registry)


@pytest.fixture
def make_node(tmp_path, publisher):
    made = []

    def make(name="node", *, copy_of=None, root=None):
        home = tmp_path / name
        if copy_of is not None:
            shutil.copytree(copy_of.root, home / "root", symlinks=True)
        node = Node(home, publisher, root)
        made.append(node)
        return node

    yield make
    for node in made:
        node.stop()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, publisher):
    """Makes nodes for scenarios."""
    lab = Lab(tmp_path_factory.mktemp("lab"), publisher)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def settled(tmp_path_factory, publisher):
    """A node that serves r1, at rest; to be copied."""
    node = Node(tmp_path_factory.mktemp("settled"), publisher)
    revision = node.order("r1", 2.0, sequence=10)
    node.start_server()
    node.start_agent()
    node.wait_active(revision)
    node.stop()
    return node


@pytest.fixture
def node(make_node):
    return make_node()


def _number(names):
    seen, out = Counter(), []
    for name in names:
        seen[name] += 1
        out.append(f"{name}:{seen[name]}")
    return out


@pytest.fixture
def numbered():
    """Turns names into ``name:n``, n counting the times that a name came."""
    return _number


@pytest.fixture(name="wait_until")
def wait_until_fixture():
    """Polls a condition, and fails with its name."""
    return wait_until
