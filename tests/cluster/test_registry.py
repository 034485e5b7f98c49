"""The real registry keeps the contract that the fake one of the unit tests keeps."""

import importlib.util
from pathlib import Path

import pytest

from linnet_agent.fetch.oci import OciClient

_FILE = Path(__file__).parents[1] / "unit" / "fetch" / "registry_contract.py"
_SPEC = importlib.util.spec_from_file_location("registry_contract", _FILE)
contract = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(contract)
globals().update({name: rule for name, rule in vars(contract).items() if name.startswith("test_")})
model, push = contract.model, contract.push

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def registry_url(bed):
    return bed.registry_url


@pytest.fixture
async def client(registry_url):
    async with OciClient(mirrors={"registry.testbed": registry_url}) as made:
        yield made
