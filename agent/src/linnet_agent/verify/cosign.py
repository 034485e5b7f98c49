"""What cosign v3 signs over an OCI artifact: a statement about a manifest's digest.

- The statement has the predicate type of `cosign sign` and one subject with one sha256.
- Name and release counter come with `-a linnet.dev/model=...`; text only, bounded.

Source: cosign `specs/BUNDLE_SPEC.md`; `cosign sign --new-bundle-format`, version 3.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import STATEMENT_TYPE, parse_object
from linnet_agent.verify.strict_json import as_list, as_object

PREDICATE_TYPE: Final = "https://sigstore.dev/cosign/sign/v1"
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CosignStatement:
    """What somebody has signed with `cosign sign`."""

    artifact_digest: str
    """``sha256:<hex>`` of the manifest."""
    annotations: Mapping[str, str]


def parse_cosign_statement(payload: bytes) -> CosignStatement:
    """Read the statement that `cosign sign` has signed.

    Raises:
        MalformedBundleError: It is not about exactly one sha256 digest.
    """
    document = parse_object(payload, what="the statement")
    if document.get("_type") != STATEMENT_TYPE:
        msg = f"the statement's _type is {str(document.get('_type'))[:80]!r}"
        raise MalformedBundleError(msg)
    if document.get("predicateType") != PREDICATE_TYPE:
        msg = f"its predicateType is {str(document.get('predicateType'))[:80]!r}"
        raise MalformedBundleError(msg)
    subjects = as_list(document.get("subject")) or []
    subject = as_object(subjects[0]) if len(subjects) == 1 else None
    digest = (as_object((subject or {}).get("digest")) or {}).get("sha256")
    if subject is None or not isinstance(digest, str) or not _HEX_DIGEST.fullmatch(digest):
        msg = "it is not about exactly one sha256 digest"
        raise MalformedBundleError(msg)
    annotations = as_object(subject.get("annotations")) or {}
    return CosignStatement(
        artifact_digest=f"sha256:{digest}",
        annotations={name: text for name, text in annotations.items() if isinstance(text, str)},
    )
