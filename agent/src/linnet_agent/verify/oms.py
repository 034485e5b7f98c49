"""OpenSSF Model Signing: read the statement about a model's files.

- A statement names every file with its sha256; shards, other hashes and followed links are refused.
- What the signer says it has ignored does not matter: a model is exactly the files that are named.

Source: OMS specification v1.0, sections 4 to 6 and 8.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import STATEMENT_TYPE, parse_object
from linnet_agent.verify.paths import names_fault
from linnet_agent.verify.strict_json import as_list, as_object
from linnet_api.names import COUNTER_ANNOTATION

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"

_MAX_COUNTER: Final = 2**53
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_COUNTER: Final = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody has signed: a name, a release counter, and files with their digests."""

    model: str
    counter: int | None
    files: Mapping[str, str]
    """File name to ``sha256:<hex>``."""
    model_digest: str
    """``sha256:<hex>`` of the signed payload; the store's key."""


def parse_statement(payload: bytes) -> Statement:
    """Read the statement that a bundle carries.

    Raises:
        MalformedBundleError: It is not a statement about whole files with sha256 and safe names.
    """
    document = parse_object(payload, what="the statement")
    if document.get("_type") != STATEMENT_TYPE:
        _refuse(f"the statement's _type is {document.get('_type')!r}, not {STATEMENT_TYPE}")
    if document.get("predicateType") != PREDICATE_TYPE:
        _refuse(f"its predicateType is {document.get('predicateType')!r}, not {PREDICATE_TYPE}")
    predicate = _object(document, "predicate")
    _require_plain_serialization(_object(predicate, "serialization"))
    files = _files(predicate.get("resources"))
    subject = _subject(document.get("subject"))
    root = hashlib.sha256(
        b"".join(bytes.fromhex(files[name].removeprefix("sha256:")) for name in sorted(files))
    ).hexdigest()
    if _object(subject, "digest").get("sha256") != root:
        _refuse("the subject's digest is not that of its files")
    return Statement(
        model=_model_name(subject.get("name")),
        counter=_counter(subject.get("annotations")),
        files=files,
        model_digest="sha256:" + hashlib.sha256(payload).hexdigest(),
    )


def _refuse(fact: str) -> NoReturn:
    raise MalformedBundleError(fact)


def _object(parent: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = as_object(parent.get(field))
    if value is None:
        _refuse(f"it has no object {field!r}")
    return value


def _require_plain_serialization(how: Mapping[str, Any]) -> None:
    if how.get("method") != "files" or "shard_size" in how:
        _refuse(f"its serialization is {str(how.get('method'))[:40]!r}; only 'files' is accepted")
    if how.get("hash_type") != "sha256":
        _refuse(f"its hash_type is {str(how.get('hash_type'))[:40]!r}; only 'sha256' is accepted")
    if how.get("allow_symlinks") is not False:
        _refuse("it was signed with symbolic links followed")


def _files(value: object) -> dict[str, str]:
    resources = as_list(value)
    if resources is None:
        _refuse("it has no list of resources")
    files: dict[str, str] = {}
    for resource in (as_object(one) or {} for one in resources):
        name = resource.get("name")
        if not isinstance(name, str) or name in files:
            _refuse(f"it has a resource without a name, or twice: {str(name)[:200]!r}")
        digest = resource.get("digest")
        if (
            resource.get("algorithm") != "sha256"
            or not isinstance(digest, str)
            or not _HEX_DIGEST.fullmatch(digest)
        ):
            _refuse(f"the digest of {name[:200]!r} is not a sha256")
        files[name] = f"sha256:{digest}"
    if (fault := names_fault(files)) is not None:
        _refuse(fault)
    return files


def _subject(value: object) -> dict[str, Any]:
    subjects = as_list(value) or []
    subject = as_object(subjects[0]) if len(subjects) == 1 else None
    if subject is None:
        _refuse("it does not have exactly one subject")
    return subject


def _model_name(name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 512 or not name.isprintable():
        _refuse("its subject has no name")
    return name


def _counter(value: object) -> int | None:
    if value is None:
        return None
    annotations = as_object(value)
    return parse_counter("" if annotations is None else annotations.get(COUNTER_ANNOTATION))


def parse_counter(text: object) -> int | None:
    """Return the release counter that an annotation names; None: there is no such annotation.

    Raises:
        MalformedBundleError: It is not a decimal number.
    """
    if text is None:
        return None
    if not isinstance(text, str) or not _COUNTER.fullmatch(text) or int(text) > _MAX_COUNTER:
        _refuse(f"its {COUNTER_ANNOTATION} is not a decimal number of at most 16 digits")
    return int(text)
