from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from linnet_agent.verify.fulcio import _utf8_string, read_identity

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_ARC = "1.3.6.1.4.1.57264.1."
_KEY = ec.generate_private_key(ec.SECP256R1())
_URI = x509.UniformResourceIdentifier("https://ci.testbed/release.yml@refs/heads/main")


def _utf8(text):
    content = text.encode()
    assert len(content) < 128
    return bytes([0x0C, len(content)]) + content


def _certificate(*names, **extensions):
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(_KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOON)
        .not_valid_after(NOON)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    for number, value in extensions.items():
        oid = x509.ObjectIdentifier(_ARC + number.removeprefix("oid"))
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(_KEY, hashes.SHA256())


@pytest.mark.parametrize(
    "issuers",
    [
        pytest.param({"oid1": b"https://i"}, id="the old form"),
        pytest.param({"oid8": _utf8("https://i")}, id="the new form"),
        pytest.param({"oid1": b"https://i", "oid8": _utf8("https://i")}, id="both"),
    ],
)
def test_the_issuer_stands_in_one_of_two_forms(issuers):
    assert read_identity(_certificate(_URI, **issuers)).issuer == "https://i"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        (x509.RFC822Name("release@factory.testbed"), "release@factory.testbed"),
        (_URI, "https://ci.testbed/release.yml@refs/heads/main"),
        (x509.OtherName(x509.ObjectIdentifier(_ARC + "7"), _utf8("some one")), "some one"),
    ],
    ids=["an e-mail address", "a URI", "Fulcio's other name"],
)
def test_a_subject_has_one_of_three_forms(name, subject):
    assert read_identity(_certificate(name, oid1=b"i")).subject == subject


def test_claims_are_read_by_their_documented_names():
    identity = read_identity(
        _certificate(
            _URI, oid1=b"i", oid3=b"af785b6d", oid12=_utf8("https://git/x"), oid999=_utf8("unknown")
        )
    )

    assert identity.claims == {
        "githubWorkflowSHA": "af785b6d",
        "sourceRepositoryURI": "https://git/x",
    }


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(_certificate(_URI), id="no issuer"),
        pytest.param(_certificate(_URI, oid1=b"one", oid8=_utf8("other")), id="two issuers"),
        pytest.param(_certificate(oid1=b"i"), id="no subject"),
        pytest.param(_certificate(_URI, _URI, oid1=b"i"), id="two subjects"),
        pytest.param(_certificate(_URI, x509.RFC822Name("a@b"), oid1=b"i"), id="two kinds"),
        pytest.param(_certificate(x509.DNSName("factory"), oid1=b"i"), id="a host name"),
        pytest.param(
            _certificate(x509.OtherName(x509.ObjectIdentifier("1.2.3"), _utf8("x")), oid1=b"i"),
            id="somebody else's other name",
        ),
        pytest.param(_certificate(_URI, oid1=b""), id="an empty issuer"),
        pytest.param(_certificate(_URI, oid1=b"a\nb"), id="an issuer on two lines"),
        pytest.param(_certificate(_URI, oid1=b"\xff"), id="an issuer that is no text"),
        pytest.param(_certificate(_URI, oid1=b"x" * 1025), id="an issuer without measure"),
        pytest.param(_certificate(_URI, oid8=b"bare"), id="a bare text where DER stands"),
        pytest.param(_certificate(_URI, oid8=_utf8("i") + b"x"), id="something after the text"),
    ],
)
def test_a_certificate_that_does_not_name_one_is_refused(certificate):
    with pytest.raises(ValueError, match=r"\w"):
        read_identity(certificate)


@given(st.binary(max_size=64))
def test_an_extension_is_a_text_or_refused(content):
    try:
        text = _utf8_string(content)
    except ValueError:
        return

    assert content.endswith(text.encode())
    assert content[0] == 0x0C


@given(st.text(min_size=1, max_size=1000).filter(str.isprintable))
def test_every_text_is_read_whole(text):
    content = text.encode()
    size = len(content)
    head = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")

    assert _utf8_string(b"\x0c" + head + content) == text
