"""Seeds of the fleet simulator: printed when a run fails, and replayed with --sim-seed."""

import pytest

SEEDS = 25


def pytest_addoption(parser):
    parser.addoption("--sim-seed", type=int, default=None, help="replay this one seed")
    parser.addoption("--sim-runs", type=int, default=SEEDS, help=f"how many seeds, default {SEEDS}")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("--sim-seed", default=None)
        runs = metafunc.config.getoption("--sim-runs", default=SEEDS)
        metafunc.parametrize("seed", [one] if one is not None else range(runs))


@pytest.fixture(autouse=True)
def replay_hint(request):
    """Print how to replay a failing seed."""
    yield
    if hasattr(request.node, "callspec"):
        seed = request.node.callspec.params.get("seed")
        print(f"replay with: pytest {request.node.path.name} --sim-seed={seed}")
