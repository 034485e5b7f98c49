"""The child that verifies keyless bundles; the one place that imports ``sigstore``.

- It imports what it needs, gives up network, processes and all files but Python's own, and only
  then reads a bundle.
- It knows the trusted roots that it is handed, never a cache, never a mirror.
- Logs, authorities and timestamps count where they were valid at the verified signing time.
- A good signature from after the node's own time is the clock's fault, not the signer's.
- Whatever goes wrong with a bundle is a verdict about that bundle, in the closed list of reasons.

``python -m linnet_agent.verify.keyless_child PARENT CPU_S`` reads one request from stdin and writes
a line for itself and then one for each bundle: ``keyless`` is the other side of it.
"""

# ruff: noqa: SLF001 - sigstore 4.5 shows neither its models nor the times that it has verified
# pyright: reportPrivateUsage=false

import base64
import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from pydantic import ValidationError
from sigstore._internal.trust import KeyringPurpose
from sigstore.errors import CertValidationError
from sigstore.hashes import Hashed
from sigstore.models import Bundle, InvalidBundle, TransparencyLogEntry, TrustedRoot
from sigstore.verify import Verifier
from sigstore_models.bundle.v1 import Bundle as AnyBundle
from sigstore_models.common.v1 import HashAlgorithm
from sigstore_models.trustroot.v1 import TrustedRoot as RootModel

from linnet_agent.confine import confine, limit_data
from linnet_agent.verify.envelope import MAX_BUNDLE_BYTES, PAYLOAD_TYPE
from linnet_agent.verify.fulcio import read_identity
from linnet_agent.verify.log_entry import SignedThing, logged_key
from linnet_agent.verify.manifest import BUNDLE_TYPE
from linnet_agent.verify.strict_json import parse_json_object
from linnet_agent.verify.windows import parse_root, valid_at
from linnet_api.reasons import NodeReason

MAX_REQUEST_BYTES: Final = 32 << 20
_MEMORY_BYTES: Final = 256 << 20
"""Above the 55 MiB that the imports take."""
_CLOCK_SKEW: Final = timedelta(minutes=10)
_MAX_SENTENCE: Final = 400
_TELLING: Final = (
    NodeReason.CLOCK_UNTRUSTED,
    NodeReason.BAD_SIGNATURE,
    NodeReason.UNTRUSTED_KEY,
    NodeReason.MALFORMED_BUNDLE,
    NodeReason.NO_TRUST_ROOT,
)


class RefusedError(Exception):
    """A bundle proves nothing; ``reason`` is of the closed list."""

    def __init__(self, reason: NodeReason, message: str) -> None:
        """Keep the reason."""
        super().__init__(message)
        self.reason = reason


_NO_ROOT: Final = RefusedError(NodeReason.NO_TRUST_ROOT, "there is no trusted root")


def main(arguments: Sequence[str]) -> int:
    """Answer the request on stdin."""
    parent, cpu_s = arguments
    logging.disable()
    limit_data(_MEMORY_BYTES)
    code = [Path(place) for place in sys.path if place]  # some of it is imported at first use
    layers = confine(parent=int(parent), readable=code, cpu_s=int(cpu_s))
    try:
        request = parse_json_object(
            sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1), max_bytes=MAX_REQUEST_BYTES
        )
        now = datetime.fromisoformat(request["now"])
        roots = {name: text.encode() for name, text in request["roots"].items()}
        _write({"layers": layers})
        for item in request["bundles"]:
            digest = item["digest"]
            verdict = answer(
                base64.b64decode(item["bundle"]),
                roots=roots,
                now=now,
                artifact_sha256=None if digest is None else bytes.fromhex(digest),
            )
            _write(verdict)
    except Exception as error:  # noqa: BLE001 - nobody else could tell: there is no file to write to
        _write({"fault": f"{type(error).__name__}: {error}"[:_MAX_SENTENCE]})
        return 1
    return 0


def _write(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def answer(
    raw: bytes, *, roots: Mapping[str, bytes], now: datetime, artifact_sha256: bytes | None
) -> dict[str, Any]:
    """Return the verdict about one bundle, in the form that ``keyless`` reads; never raises.

    Args:
        raw: The bundle.
        roots: Trusted roots by name; one proof for each under which the bundle is good.
        now: What the node takes for the time.
        artifact_sha256: What a bundle without a statement of its own is to be about.
    """
    proofs: list[dict[str, Any]] = []
    refusals: list[RefusedError] = []
    for name, root in roots.items():
        try:
            proofs.append(
                _prove(raw, root, now=now, artifact_sha256=artifact_sha256) | {"root": name}
            )
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a verdict
            refusals.append(_refusal(error))
    if proofs:
        return {"proofs": proofs}
    telling = min(refusals, key=lambda refusal: _TELLING.index(refusal.reason), default=_NO_ROOT)
    return {"reason": telling.reason, "message": str(telling)}


def _refusal(error: Exception) -> RefusedError:
    sentence = " ".join(f"{error}".split())[:_MAX_SENTENCE]
    if isinstance(error, RefusedError):
        return RefusedError(error.reason, sentence)
    if isinstance(error, InvalidBundle):
        return RefusedError(NodeReason.MALFORMED_BUNDLE, sentence)
    if isinstance(error, CertValidationError):
        return RefusedError(NodeReason.UNTRUSTED_KEY, sentence)
    return RefusedError(NodeReason.BAD_SIGNATURE, f"{sentence} ({type(error).__name__})")


def _prove(
    raw: bytes, raw_root: bytes, *, now: datetime, artifact_sha256: bytes | None
) -> dict[str, Any]:
    try:
        root = parse_root(raw_root)
    except ValueError as error:
        message = f"the trusted root cannot be read: {error}"
        raise RefusedError(NodeReason.NO_TRUST_ROOT, message) from error
    bundle = _read_bundle(raw)
    times = _claimed_times(bundle)
    if not times:
        raise RefusedError(NodeReason.BAD_SIGNATURE, "nothing says when it was signed")
    try:
        proof = _verify(bundle, valid_at(root, times), artifact_sha256=artifact_sha256)
    except Exception as error:
        _verify(bundle, valid_at(root, ()), artifact_sha256=artifact_sha256)
        message = (
            f"it was signed at {max(times):%Y-%m-%dT%H:%M:%SZ}, when a log or an authority behind "
            "it was not valid"
        )
        raise RefusedError(NodeReason.UNTRUSTED_KEY, message) from error
    if proof.signed_at > now + _CLOCK_SKEW:
        message = (
            f"it is good and was signed at {proof.signed_at:%Y-%m-%dT%H:%M:%SZ}; this node's clock "
            f"says {now:%Y-%m-%dT%H:%M:%SZ}"
        )
        raise RefusedError(NodeReason.CLOCK_UNTRUSTED, message)
    return proof.document


class _KeyBundle(Bundle):
    """A bundle by a key that somebody keeps; sigstore itself reads those by certificate only."""

    def _verify(self) -> None:
        if self._inner.media_type != BUNDLE_TYPE:
            raise InvalidBundle(f"unsupported bundle format: {self._inner.media_type}")
        entries = self._inner.verification_material.tlog_entries
        if len(entries) != 1:
            raise InvalidBundle("expected exactly one log entry in bundle")
        self._log_entry = TransparencyLogEntry(entries[0])


class _Anyone:
    """Who may have signed is the policy's matter."""

    def verify(self, cert: x509.Certificate) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Proof:
    signed_at: datetime
    document: dict[str, Any]


def _read_bundle(raw: bytes) -> Bundle:
    try:
        parse_json_object(raw, max_bytes=MAX_BUNDLE_BYTES)  # strict where sigstore is not
        document = AnyBundle.from_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidBundle(f"its {place} is not what it must be: {first['msg']}") from error
    except ValueError as error:
        raise InvalidBundle(f"it is not readable: {error}") from error
    envelope = document.dsse_envelope
    if envelope is not None and envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidBundle(f"its payloadType is {envelope.payload_type[:80]!r}")
    by_key = document.verification_material.public_key is not None
    return _KeyBundle(document) if by_key else Bundle(document)


def _claimed_times(bundle: Bundle) -> list[datetime]:
    """Return all times that the bundle claims; which of them are proved comes out later."""
    entry = bundle.log_entry._inner
    stamps = bundle.verification_material.timestamp_verification_data
    times = [] if stamps is None else [one.tst_info.gen_time for one in stamps.rfc3161_timestamps]
    if entry.integrated_time and entry.inclusion_promise:
        times.append(datetime.fromtimestamp(entry.integrated_time, tz=UTC))
    return times


def _verify(bundle: Bundle, root: Mapping[str, Any], *, artifact_sha256: bytes | None) -> _Proof:
    trusted = TrustedRoot(RootModel.from_json(json.dumps(root)))
    verifier = Verifier(trusted_root=trusted)
    envelope = bundle._dsse_envelope
    who: dict[str, Any]
    if isinstance(bundle, _KeyBundle):
        bundle.log_entry._verify(trusted.rekor_keyring(KeyringPurpose.VERIFY))
        who = {"key": _logged_key(bundle, artifact_sha256=artifact_sha256)}
    else:
        if envelope is not None:
            verifier.verify_dsse(bundle, _Anyone())
        elif artifact_sha256 is not None:
            hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=artifact_sha256)
            verifier.verify_artifact(hashed, bundle, _Anyone())
        else:
            message = "it signs a file, and is no statement about a model"
            raise RefusedError(NodeReason.MALFORMED_BUNDLE, message)
        who = {"identity": dataclasses.asdict(read_identity(bundle.signing_certificate))}
    times = [result.time for result in verifier._establish_time(bundle)]
    if not times:
        raise RefusedError(NodeReason.BAD_SIGNATURE, "nothing proves when it was signed")
    document = {
        "signedAt": max(times).isoformat(),
        "logIndex": bundle.log_entry._inner.log_index,
        "payloadSha256": None
        if envelope is None
        else hashlib.sha256(envelope._inner.payload).hexdigest(),
    }
    return _Proof(max(times), document | who)


def _logged_key(bundle: Bundle, *, artifact_sha256: bytes | None) -> str:
    entry, envelope = bundle.log_entry._inner, bundle._dsse_envelope
    payload = None if envelope is None else envelope._inner.payload
    return logged_key(
        entry.canonicalized_body,
        kind=entry.kind_version.kind,
        version=entry.kind_version.version,
        thing=SignedThing(bundle.signature, payload, artifact_sha256),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
