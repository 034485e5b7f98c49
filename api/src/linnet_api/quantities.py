"""Amounts as Kubernetes writes them: ``512Mi``, ``2G``, ``1.5Gi``.

- Ki, Mi, Gi, Ti are powers of 1024; k, M, G, T of 1000.
- A fraction of a byte rounds up.
"""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

QUANTITY_PATTERN: Final = r"^[0-9]{1,12}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$"

_PARTS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS: Final = {
    None: 1,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}


def parse_quantity(text: str) -> int:
    """Return the bytes that ``text`` names.

    Raises:
        ValueError: The text is no quantity; the message shows one that is.
    """
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not a quantity; write for example 512Mi or 2Gi")
    size = Decimal(parts[1]) * _UNITS[parts[2]]
    return int(size.to_integral_value(ROUND_CEILING))
