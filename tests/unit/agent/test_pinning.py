import pytest

from linnet_agent.pinning import is_narrower
from linnet_api.trust_policy import TrustPolicySpec

PEMS = [f"-----BEGIN PUBLIC KEY-----\n{name * 64}" for name in "abc"]
CI = {"issuer": "https://i", "identity": "me"}
DIGEST = "sha256:" + "1" * 64


def spec(**change):
    whole = {
        "match": {"models": ["factory/*"]},
        "authorities": [
            *({"name": f"a{n}", "key": {"publicKeyPEM": pem}} for n, pem in enumerate(PEMS[:2])),
            {"name": "ci", "keyless": CI},
        ],
        **change,
    }
    return TrustPolicySpec.model_validate(whole, extra="forbid")


def key(number=0, **valid):
    return {"name": f"a{number}", "key": {"publicKeyPEM": PEMS[number]} | valid}


def window(start=None, end=None):
    return {"validFor": {k: v for k, v in (("start", start), ("end", end)) if v}}


EARLY, LATE = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
ME = {"issuer": "https://i", "subject": "me"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({}, {"require": {"threshold": 2}}, id="more must sign"),
        pytest.param({}, {"authorities": [key()]}, id="fewer may"),
        pytest.param({}, {"require": {"of": ["a0"]}}, id="fewer count"),
        pytest.param(
            {"authorities": [key()]}, {"authorities": [key(**window(end=LATE))]}, id="end"
        ),
        pytest.param(
            {"authorities": [key(**window(EARLY))]},
            {"authorities": [key(**window(LATE))]},
            id="a later start",
        ),
        pytest.param(
            {"authorities": [{"name": "ci", "keyless": CI}]},
            {"authorities": [{"name": "ci", "keyless": CI | {"claims": {"a": "b"}}}]},
            id="a claim",
        ),
        pytest.param({}, {"content": {"maxBytes": "1Gi", "maxFiles": 9}}, id="limits"),
        pytest.param(
            {"content": {"allowFiles": ["*.a", "*.b"], "maxBytes": "1Gi"}},
            {"content": {"allowFiles": ["*.a"], "maxBytes": "1023Mi"}},
            id="fewer files, fewer bytes",
        ),
        pytest.param(
            {"signature": {"formats": ["OMS", "Cosign"]}},
            {
                "signature": {
                    "formats": ["OMS"],
                    "predicateTypes": ["x"],
                    "transparencyLog": "Required",
                }
            },
            id="fewer signatures",
        ),
        pytest.param({}, {"freshness": {"maxTrustAge": "7d"}}, id="an alarm"),
        pytest.param(
            {"freshness": {"maxTrustAge": "7d"}}, {"freshness": {"maxTrustAge": "6d"}}, id="sooner"
        ),
        pytest.param(
            {"revoked": {"onActive": "KeepServing"}},
            {"revoked": {"keyIds": ["a" * 64], "certificates": ["b" * 64], "digests": [DIGEST]}},
            id="revocations",
        ),
        pytest.param(
            {"revoked": {"identities": [ME | {"notAfter": LATE}]}},
            {"revoked": {"identities": [ME | {"notAfter": EARLY}]}},
            id="an earlier end of an identity",
        ),
        pytest.param({}, {"revoked": {"identities": [ME]}}, id="an identity"),
    ],
)
def test_what_is_narrower_in_one_direction_is_not_in_the_other(old, new):
    assert is_narrower({"p": spec(**new)}, than={"p": spec(**old)})
    assert not is_narrower({"p": spec(**old)}, than={"p": spec(**new)})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"match": {"models": ["**"]}}, id="more models"),
        pytest.param(
            {"match": {"models": ["factory/x"]}}, id="fewer models: others may be uncovered"
        ),
        pytest.param({"content": {"allowFiles": ["*.pkl"]}}, id="files that carry code"),
        pytest.param({"authorities": [key(2)]}, id="another key"),
        pytest.param({"authorities": [key() | {"name": "other"}]}, id="another name"),
        pytest.param({"trustRoots": [{"name": "x", "trustedRootJSON": "{}"}]}, id="a root"),
        pytest.param({"revoked": {"onActive": "KeepServing"}}, id="a revocation softened"),
        pytest.param(
            {"authorities": [{"name": "ci", "keyless": CI | {"trustRoot": "x"}}]}, id="another root"
        ),
    ],
)
def test_what_is_not_plain_to_see_is_loosened(change):
    assert not is_narrower({"p": spec(**change)}, than={"p": spec()})


def test_the_same_is_narrower():
    assert is_narrower({"p": spec()}, than={"p": spec()})


def test_a_policy_more_or_less_is_not_narrower():
    assert not is_narrower({"p": spec(), "q": spec()}, than={"p": spec()})
    assert not is_narrower({}, than={"p": spec()})
