"""Whom a keyless certificate names.

- Exactly one subject: an e-mail address, a URI or Fulcio's other name; anything else is refused.
- The issuer is what the certificate says in either of its two forms; two that differ are refused.
- The other things that the issuer said are claims, by their documented names.

Source: Fulcio `docs/oid-info.md`; the claims' names are those of sigstore-go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

_ARC: Final = "1.3.6.1.4.1.57264.1."
_OTHER_NAME: Final = x509.ObjectIdentifier(_ARC + "7")
_ISSUER_RAW, _ISSUER = 1, 8
_RAW_CLAIMS: Final[Mapping[int, str]] = {
    2: "githubWorkflowTrigger",
    3: "githubWorkflowSHA",
    4: "githubWorkflowName",
    5: "githubWorkflowRepository",
    6: "githubWorkflowRef",
}
_CLAIMS: Final[Mapping[int, str]] = {
    9: "buildSignerURI",
    10: "buildSignerDigest",
    11: "runnerEnvironment",
    12: "sourceRepositoryURI",
    13: "sourceRepositoryDigest",
    14: "sourceRepositoryRef",
    15: "sourceRepositoryIdentifier",
    16: "sourceRepositoryOwnerURI",
    17: "sourceRepositoryOwnerIdentifier",
    18: "buildConfigURI",
    19: "buildConfigDigest",
    20: "buildTrigger",
    21: "runInvocationURI",
    22: "sourceRepositoryVisibilityAtSigning",
}
"""By the last number of the OID; the first five are bare text, the others a DER UTF8String."""
_MAX_TEXT: Final = 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says; it is worth what its chain is worth."""

    issuer: str
    subject: str
    certificate: str
    """Hex sha256 of the DER certificate."""
    claims: Mapping[str, str]


def read_identity(certificate: x509.Certificate) -> Identity:
    """Return whom ``certificate`` names.

    Raises:
        ValueError: It names nobody, several, or in a form that cannot be read.
    """
    texts: dict[int, str] = {}
    for extension in certificate.extensions:
        oid, value = extension.oid.dotted_string, extension.value
        last = oid.removeprefix(_ARC)
        if (
            oid.startswith(_ARC)
            and last.isdigit()
            and isinstance(value, x509.UnrecognizedExtension)
        ):
            number = int(last)
            if number == _ISSUER_RAW or number in _RAW_CLAIMS:
                texts[number] = _plain(value.value)
            elif number == _ISSUER or number in _CLAIMS:
                texts[number] = _utf8_string(value.value)
    issuers = {texts[number] for number in (_ISSUER_RAW, _ISSUER) if number in texts}
    if len(issuers) != 1:
        msg = f"the certificate names {len(issuers)} issuers"
        raise ValueError(msg)
    names = {**_RAW_CLAIMS, **_CLAIMS}
    return Identity(
        issuer=issuers.pop(),
        subject=_subject(certificate),
        certificate=certificate.fingerprint(hashes.SHA256()).hex(),
        claims={names[number]: text for number, text in texts.items() if number in names},
    )


def _subject(certificate: x509.Certificate) -> str:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        msg = "the certificate names no subject"
        raise ValueError(msg) from error
    match list(extension.value):
        case [x509.RFC822Name(value=text) | x509.UniformResourceIdentifier(value=text)]:
            return _plain(text.encode())
        case [x509.OtherName(type_id=kind, value=der)] if kind == _OTHER_NAME:
            return _utf8_string(der)
        case names:
            msg = f"the certificate names {len(names)} subjects, or one of an unknown kind"
            raise ValueError(msg)


def _utf8_string(der: bytes) -> str:
    """Return the text of a DER UTF8String that is all of ``der``."""
    if len(der) < 2 or der[0] != 0x0C:
        msg = "an extension of the certificate is not a UTF8String"
        raise ValueError(msg)
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if len(der) != start + size:
        msg = "an extension of the certificate has a length that is not its own"
        raise ValueError(msg)
    return _plain(der[start:])


def _plain(content: bytes) -> str:
    text = content.decode()
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        msg = "an extension of the certificate is empty, too long or not printable"
        raise ValueError(msg)
    return text
