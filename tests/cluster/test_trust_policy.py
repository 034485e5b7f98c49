"""TrustPolicies on the real API server: what the schema takes whole, and what it refuses."""

import uuid

import pytest

from linnet_cli.publish.keys import generate_key
from linnet_testbed.errors import TestbedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
CI = {"issuer": "https://issuer.example", "identity": "ci@example.org"}


@pytest.fixture
def name(bed):
    made = f"trust-{uuid.uuid4().hex[:6]}"
    yield made
    bed.kubectl("delete", "trustpolicy", made, "--ignore-not-found")


def trust(name, *authorities, **spec):
    return {
        "apiVersion": "linnet.dev/v1alpha1",
        "kind": "TrustPolicy",
        "metadata": {"name": name},
        # Of nobody's models: other tests share the bed.
        "spec": {
            "match": {"models": ["nobody/*"]},
            "authorities": [
                {"name": f"a{n}", **authority} for n, authority in enumerate(authorities)
            ],
        }
        | spec,
    }


def key(**valid):
    return {"key": {"publicKeyPEM": generate_key()[1].decode(), "validFor": valid}}


def test_everything_that_a_policy_can_say_comes_back_as_it_was_said(bed, name):
    regexp = {"issuer": CI["issuer"], "identityRegexp": r"https://git\.example/.*"}
    said = trust(
        name,
        key(start="2026-01-01T00:00:00Z", end="2027-01-01T00:00:00Z"),
        {"keyless": CI | {"trustRoot": "site7", "claims": {"sourceRepositoryRef": "refs/tags/v1"}}},
        {"keyless": regexp},
        require={"threshold": 2, "of": ["a0", "a1"]},
        trustRoots=[{"name": "site7", "trustedRootJSON": "{}"}],
        content={"allowFiles": ["*.onnx"], "maxBytes": "20Gi", "maxFiles": 10},
        freshness={"maxTrustAge": "90d", "maxSignatureAge": "365d"},
        signature={
            "formats": ["OMS", "Cosign"],
            "predicateTypes": ["https://sigstore.dev/cosign/sign/v1"],
            "transparencyLog": "Required",
        },
        revoked={
            "keyIds": ["a" * 64],
            "certificates": ["b" * 64],
            "digests": ["sha256:" + "c" * 64],
            "identities": [
                {"issuer": "https://i", "subject": "**", "notAfter": "2026-06-01T00:00:00Z"}
            ],
            "onActive": "KeepServing",
        },
    )
    bed.apply(said)

    assert _kept(said["spec"], bed.get("trustpolicy", name)["spec"])


def _kept(said, found):
    """Tell whether all that was said is there; defaults may stand beside it."""
    if isinstance(said, dict):
        return all(name in found and _kept(value, found[name]) for name, value in said.items())
    if isinstance(said, list):
        return len(said) == len(found) and all(map(_kept, said, found))
    return said == found


@pytest.mark.parametrize(
    ("authority", "says"),
    [
        pytest.param(
            {"keyless": {"issuer": "https://i"}}, "either identity or identityRegexp", id="neither"
        ),
        pytest.param(
            {"keyless": CI | {"identityRegexp": ".*"}},
            "either identity or identityRegexp",
            id="both",
        ),
        pytest.param({}, "either a key or a keyless identity", id="nobody"),
        pytest.param(
            key(start="2027-01-01T00:00:00Z", end="2026-01-01T00:00:00Z"),
            "ends before it starts",
            id="a validity that is none",
        ),
        pytest.param(key(start="tomorrow"), "date-time", id="no time"),
        pytest.param(
            {"keyless": CI | {"claims": {f"c{n}": "x" for n in range(17)}}},
            "at most 16",
            id="many claims",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(bed, name, authority, says):
    with pytest.raises(TestbedError) as refused:
        bed.apply(trust(name, authority))

    assert says in str(refused.value)
