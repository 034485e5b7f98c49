"""When the keys and certificates of a trusted root counted.

- Every log, certificate authority and timestamp authority has a start, and may have an end; both
  are part of its window.
- A signature is judged by what was valid when it was made, at every time that it claims.
- What is left of the root then has no windows any more: no clock is asked a second time.
- A root with a member without a start, or with a time that cannot be read, is no root.

Source: sigstore protobuf-specs, `sigstore_trustroot.proto`: a ``TimeRange`` is a closed interval.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from linnet_agent.verify.strict_json import as_list, as_object, parse_json_object

MAX_ROOT_BYTES: Final = 1 << 20
_LOGS: Final = frozenset({"tlogs", "ctlogs"})
_AUTHORITIES: Final = frozenset({"certificateAuthorities", "timestampAuthorities"})
_ALWAYS: Final[Mapping[str, str]] = {"start": "1970-01-01T00:00:00Z"}


def parse_root(raw: bytes) -> dict[str, Any]:
    """Return a trusted root whose windows can all be read.

    Raises:
        ValueError: It is not JSON, has no lists of logs and authorities, or a window is not one.
    """
    root = parse_json_object(raw, max_bytes=MAX_ROOT_BYTES)
    root.setdefault("timestampAuthorities", [])
    for name in _LOGS | _AUTHORITIES:
        members = as_list(root.get(name))
        if members is None or not all(as_object(member) is not None for member in members):
            msg = f"it has no list of {name}"
            raise ValueError(msg)
        for member in members:
            _window(_window_holder(name, member))
    return root


def valid_at(root: Mapping[str, Any], times: Sequence[datetime]) -> dict[str, Any]:
    """Return ``root`` with those members only that were valid at all ``times``, for ever.

    Without times that is all of them: good to tell why a signature does not count, for nothing
    else.
    """
    return {
        name: [_for_ever(name, one) for one in members if _spans(_window_holder(name, one), times)]
        if name in _LOGS | _AUTHORITIES
        else members
        for name, members in root.items()
    }


def _window_holder(name: str, member: Mapping[str, Any]) -> Mapping[str, Any]:
    """A log has its window at its key, an authority at itself."""
    return (as_object(member.get("publicKey")) or {}) if name in _LOGS else member


def _for_ever(name: str, member: Mapping[str, Any]) -> dict[str, Any]:
    opened = {**_window_holder(name, member), "validFor": dict(_ALWAYS)}
    return {**member, "publicKey": opened} if name in _LOGS else opened


def _spans(holder: Mapping[str, Any], times: Sequence[datetime]) -> bool:
    start, end = _window(holder)
    return all(start <= time and (end is None or time <= end) for time in times)


def _window(holder: Mapping[str, Any]) -> tuple[datetime, datetime | None]:
    window = as_object(holder.get("validFor"))
    if window is None or set(window) - {"start", "end"}:
        msg = "a key or certificate has no validFor, or one that is no window"
        raise ValueError(msg)
    end = window.get("end")
    return _time(window.get("start")), None if end is None else _time(end)


def _time(text: object) -> datetime:
    time = datetime.fromisoformat(text) if isinstance(text, str) else None
    if time is None or time.tzinfo is None:
        msg = f"{str(text)[:40]!r} is not a time with a zone"
        raise ValueError(msg)
    return time
