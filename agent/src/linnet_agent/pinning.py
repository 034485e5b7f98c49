"""Whether policies are looser than others that were there; false alarms rather than none.

- A policy is surely narrower where fewer may sign, more must, more is revoked, or less is allowed,
  field by field, and everything else is the same.
- What is not plain to see counts as loosened: so does a field that is not known here.
- An alarm that comes later, or never, counts as loosened too.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from linnet_api.durations import parse_duration
from linnet_api.fields import ApiModel
from linnet_api.quantities import parse_quantity
from linnet_api.trust_policy import (
    Authority,
    Content,
    Freshness,
    Revoked,
    RevokedIdentity,
    Signature,
    TrustPolicySpec,
)

Policies = Mapping[str, TrustPolicySpec]

_Model = TypeVar("_Model", bound=ApiModel)
_Value = TypeVar("_Value", int, datetime)


def is_narrower(policies: Policies, *, than: Policies) -> bool:
    """Tell whether ``policies`` surely allow nothing that ``than`` did not; false in doubt."""
    return policies.keys() == than.keys() and all(
        _is_spec_narrower(spec, than[name]) for name, spec in policies.items()
    )


def _is_spec_narrower(spec: TrustPolicySpec, than: TrustPolicySpec) -> bool:
    parts = ("authorities", "require", "content", "freshness", "signature", "revoked")
    return (
        _same_but(spec, than, *parts)
        and _same_but(spec.require, than.require, "threshold", "of")
        and spec.require.threshold >= than.require.threshold
        and all(
            any(_is_authority_narrower(one, old) for old in _counted(than))
            for one in _counted(spec)
        )
        and _is_content_narrower(spec.content, than.content)
        and _is_freshness_narrower(spec.freshness, than.freshness)
        and _is_signature_narrower(spec.signature, than.signature)
        and _revokes_more(spec.revoked, than.revoked)
    )


def _counted(spec: TrustPolicySpec) -> list[Authority]:
    of = spec.require.of
    return [one for one in spec.authorities if not of or one.name in of]


def _is_authority_narrower(one: Authority, than: Authority) -> bool:
    if one == than:
        return True
    if one.key is not None and than.key is not None and one.key.valid_for is not None:
        old = than.key.valid_for
        return (
            _same_but(one, than, "key")
            and _same_but(one.key, than.key, "valid_for")
            and _is_least(one.key.valid_for.end, None if old is None else old.end)
            and _is_most(one.key.valid_for.start, None if old is None else old.start)
        )
    if one.keyless is not None and than.keyless is not None:
        return (
            _same_but(one, than, "keyless")
            and _same_but(one.keyless, than.keyless, "claims")
            and one.keyless.claims.items() >= than.keyless.claims.items()
        )
    return False


def _is_content_narrower(content: Content, than: Content) -> bool:
    files, old_files = set(content.allow_files), set(than.allow_files)
    return (
        _same_but(content, than, "allow_files", "max_bytes", "max_files")
        and (files == old_files or (bool(files) and files <= old_files))
        and _is_least(
            _maybe(parse_quantity, content.max_bytes), _maybe(parse_quantity, than.max_bytes)
        )
        and _is_least(content.max_files, than.max_files)
    )


def _is_freshness_narrower(freshness: Freshness, than: Freshness) -> bool:
    fields = ("max_trust_age", "max_signature_age")
    return _same_but(freshness, than, *fields) and all(
        _is_least(_seconds(getattr(freshness, one)), _seconds(getattr(than, one))) for one in fields
    )


def _is_signature_narrower(signature: Signature, than: Signature) -> bool:
    types, old_types = set(signature.predicate_types), set(than.predicate_types)
    return (
        _same_but(signature, than, "formats", "predicate_types", "transparency_log")
        and set(signature.formats) <= set(than.formats)
        and (not old_types or (bool(types) and types <= old_types))
        and signature.transparency_log in ("Required", than.transparency_log)
    )


def _revokes_more(revoked: Revoked, than: Revoked) -> bool:
    lists = ("key_ids", "certificates", "digests")
    return (
        _same_but(revoked, than, *lists, "identities", "on_active")
        and all(set(getattr(revoked, one)) >= set(getattr(than, one)) for one in lists)
        and all(
            any(_revokes_as_much(one, old) for one in revoked.identities) for old in than.identities
        )
        and revoked.on_active in ("Revert", than.on_active)
    )


def _revokes_as_much(one: RevokedIdentity, old: RevokedIdentity) -> bool:
    earlier = one.not_after is None or (
        old.not_after is not None and one.not_after <= old.not_after
    )
    return _same_but(one, old, "not_after") and earlier


def _same_but(one: _Model, than: _Model, *fields: str) -> bool:
    """Tell whether two are the same in every field but these."""
    return one.model_copy(update={name: getattr(than, name) for name in fields}) == than


def _is_least(limit: _Value | None, old: _Value | None) -> bool:
    return old is None or (limit is not None and limit <= old)


def _is_most(start: _Value | None, old: _Value | None) -> bool:
    return old is None or (start is not None and start >= old)


def _maybe(parse: Callable[[str], int], text: str | None) -> int | None:
    return None if text is None else parse(text)


def _seconds(text: str | None) -> int | None:
    return _maybe(lambda value: int(parse_duration(value).total_seconds()), text)
