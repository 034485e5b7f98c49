"""JSON from outside, read without leniency.

- A key that stands twice in an object is refused: two readers could see two documents.
- Size and depth are bounded before and after parsing; NaN and Infinity are refused.
"""

import json
from typing import Any, Final, NoReturn, cast

MAX_DEPTH: Final = 32


def parse_json_object(raw: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Return the object that ``raw`` holds.

    Raises:
        ValueError: It is too large, too deep, not UTF-8, not JSON, or not an object.
    """
    if len(raw) > max_bytes:
        msg = f"{len(raw)} bytes, more than {max_bytes}"
        raise ValueError(msg)
    try:
        document = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except RecursionError:
        document = None
        deep = True
    else:
        deep = _deeper_than(document, MAX_DEPTH)
    if deep:
        msg = f"nested deeper than {MAX_DEPTH}"
        raise ValueError(msg)
    found = as_object(document)
    if found is None:
        msg = "not a JSON object"
        raise ValueError(msg)
    return found


def as_object(value: object) -> dict[str, Any] | None:
    """Return ``value`` where it is a JSON object, else None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    """Return ``value`` where it is a JSON list, else None."""
    return cast("Any", value) if isinstance(value, list) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        msg = "a key stands twice in one object"
        raise ValueError(msg)
    return document


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _deeper_than(document: object, limit: int) -> bool:
    level: list[object] = [document]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(parent: object) -> list[Any]:
    if (members := as_object(parent)) is not None:
        return list(members.values())
    return as_list(parent) or []
