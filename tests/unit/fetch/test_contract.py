"""The fake registry keeps the contract that the real one keeps (tests/cluster/test_registry.py)."""

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).with_name("registry_contract.py")
_SPEC = importlib.util.spec_from_file_location("registry_contract", _FILE)
contract = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(contract)
globals().update({name: rule for name, rule in vars(contract).items() if name.startswith("test_")})
pytestmark = pytest.mark.slow
model, push = contract.model, contract.push


@pytest.fixture(params=["tags", "referrers", "referrers-filtered-in-pages"])
def registry_url(registry, request):
    registry.referrers_api = request.param != "tags"
    if registry.referrers_api and request.param != "referrers":
        registry.filters, registry.page_size = True, 1
    return registry.url
