"""Every case of sigstore-conformance, through the agent's own verifier, offline.

The data lie outside the project, in ``../shared/conformance`` or ``LINNET_CONFORMANCE_DATA``.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from linnet_testbed.keyless import HereVerifier

_NEAR = Path(__file__).parents[3] / "shared" / "conformance"
DATA = Path(os.environ.get("LINNET_CONFORMANCE_DATA", str(_NEAR))) / "sigstore" / "bundle-verify"  # noqa: TID251 - a switch for where data lie
CLIENT = Path(__file__).with_name("sigstore-client")
CASES = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []

NOT_PASSED = {
    "intoto-with-custom-trust-root": "its log entry is of the retired kind intoto/0.0.2, which "
    "sigstore-python does not read; neither OMS v1.0 nor cosign v3 writes it",
}
"""Told in docs/conformance.md, too."""

_IDENTITY = (
    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/"
    "workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
)
_ISSUER = "https://token.actions.githubusercontent.com"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="no conformance data: set LINNET_CONFORMANCE_DATA"
)


@pytest.fixture(scope="module")
def client():
    loader = SourceFileLoader("sigstore_client", str(CLIENT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def _arguments(case, *, by_digest=False):
    folder = DATA / case
    file = folder / "artifact" if (folder / "artifact").exists() else DATA / "a.txt"
    what = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" if by_digest else str(file)
    arguments = ["verify-bundle", "--bundle", str(folder / "bundle.sigstore.json")]
    if (folder / "key.pub").exists():
        arguments += ["--key", str(folder / "key.pub")]
    else:
        arguments += ["--certificate-identity", _told(folder / "identity", _IDENTITY)]
        arguments += ["--certificate-oidc-issuer", _told(folder / "issuer", _ISSUER)]
    if (folder / "trusted_root.json").exists():
        arguments += ["--trusted-root", str(folder / "trusted_root.json")]
    return [*arguments, what]


def _told(path, otherwise):
    return path.read_text().strip() if path.exists() else otherwise


@pytest.mark.parametrize("by_digest", [False, True], ids=["path", "digest"])
@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_suite(client, case, by_digest):
    code = client.main(_arguments(case, by_digest=by_digest), verifier=HereVerifier)

    wanted = 1 if case.endswith("_fail") or case in NOT_PASSED else 0
    assert code == wanted


def test_a_case_is_not_passed_by_accident(client):
    arguments = _arguments("happy-path-v0.3-new-mediaType")
    wrong = {"identity": [*arguments], "issuer": [*arguments], "file": [*arguments]}
    wrong["identity"][wrong["identity"].index(_IDENTITY)] = _IDENTITY + "x"
    wrong["issuer"][wrong["issuer"].index(_ISSUER)] = "https://elsewhere"
    wrong["file"][-1] = f"sha256:{'0' * 64}"

    assert client.main(arguments, verifier=HereVerifier) == 0
    assert {what: client.main(line, verifier=HereVerifier) for what, line in wrong.items()} == {
        "identity": 1,
        "issuer": 1,
        "file": 1,
    }


def test_the_table_of_misses_is_in_the_documentation():
    told = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()

    assert [case for case in NOT_PASSED if case not in told] == []
    assert [case for case in NOT_PASSED if case not in CASES] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "code"),
    [("happy-path-v0.2", 0), ("rekor2-happy-path", 0), ("signature-mismatch_fail", 1)],
)
def test_the_script_says_the_same_through_the_child(case, code):
    done = subprocess.run(
        [sys.executable, CLIENT, *_arguments(case)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == code, done.stderr
