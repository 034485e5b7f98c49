import pytest
from hypothesis import settings

from linnet_operator.judge.compare import Detect, NodeCount, look
from linnet_operator.judge.learned import NodeHistory, learn

HISTORIES = 100_000


def pytest_addoption(parser):
    parser.addoption(
        "--histories", type=int, default=HISTORIES, help=f"small histories, default {HISTORIES}"
    )


settings.register_profile("judge", deadline=None, max_examples=40)
settings.load_profile("judge")


class Fleet:
    """Builds counts and histories of nodes that all do the same."""

    detect = Detect(factor=3, floor=0.01)

    def history(self, nodes=10, *, failures=2.0, requests=200.0, windows=6, recent=5):
        return [
            NodeHistory(
                node=f"edge-{index:02d}",
                windows=((failures, requests),) * windows,
                recent=((failures / 10, requests / 10),) * recent,
            )
            for index in range(nodes)
        ]

    def learned(self, nodes=10, **more):
        return learn(self.history(nodes, **more), interval_s=1, window_s=10)

    def count(self, index, failures, requests, seconds=60.0, domain=""):
        return NodeCount(
            node=f"edge-{index:02d}",
            failures=failures,
            requests=requests,
            seconds=seconds,
            domain=domain,
        )

    def look(self, candidates, stable, *, learned=None, steps=4, detect=None):
        return look(
            learned or self.learned(),
            candidates,
            stable,
            alpha=0.01,
            steps=steps,
            detect=detect or self.detect,
        )


@pytest.fixture(scope="session")
def fleet():
    return Fleet()


@pytest.fixture
def histories(pytestconfig):
    return pytestconfig.getoption("--histories", default=HISTORIES)
