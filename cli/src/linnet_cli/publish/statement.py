"""What is signed: a statement that names a model, its release counter and all its files.

- The same files, name and counter give the same bytes; nothing of the publisher's machine is in
  them.
- Files stand in the order of their names; the subject's digest is over theirs.

Source: OMS specification v1.0, sections 5 and 6.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet_agent.verify.directory import hash_directory, hash_file
from linnet_agent.verify.envelope import PAYLOAD_TYPE, STATEMENT_TYPE
from linnet_agent.verify.manifest import BUNDLE_TYPE
from linnet_agent.verify.oms import PREDICATE_TYPE
from linnet_api.names import COUNTER_ANNOTATION


def hash_model(model: Path) -> dict[str, str]:
    """Return the digest of every file of a directory, or of the one file: name to ``sha256:...``.

    Raises:
        ContentRefusedError: It holds what a model may not hold.
        OSError: It cannot be read.
    """
    if model.is_dir():
        return hash_directory(model.resolve(), private=False)
    return {model.name: hash_file(model)}


def build_statement(
    files: Mapping[str, str], *, model: str, counter: int | None, ignored: Sequence[str] = ()
) -> bytes:
    """Return the payload that is signed: canonical JSON.

    Args:
        files: Name to ``sha256:<hex>``.
        model: The name under which nodes may serve it, such as ``factory/defects``.
        counter: The release counter, 0 or more; nodes refuse to go below the one they have. None
            names none, as other tools do.
        ignored: Paths that the signer has left out, for the record; nodes ignore it.
    """
    names = sorted(files)
    digests = {name: files[name].removeprefix("sha256:") for name in names}
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in names)).hexdigest()
    subject: dict[str, Any] = {"name": model, "digest": {"sha256": root}}
    if counter is not None:
        subject["annotations"] = {COUNTER_ANNOTATION: str(counter)}
    how: dict[str, Any] = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    if ignored:
        how["ignore_paths"] = list(ignored)
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [subject],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names
            ],
            "serialization": how,
        },
    }
    return canonical_json(document)


def build_bundle(payload: bytes, *, signature: bytes, key_id: str) -> bytes:
    """Return a sigstore bundle v0.3 of the key method around a signed payload."""
    document = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return canonical_json(document)


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """Return JSON that depends on nothing but what it says."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
