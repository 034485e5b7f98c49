"""Request bodies that come compressed: `Content-Encoding: gzip` and `deflate`, as clients send it.

- What a body inflates to is bounded, whatever it claims: inflating holds up the loop.
- Answers are not compressed: on a node, the wire is shorter than the work.

Source: RFC 9110, section 8.4.1.
"""

import zlib
from typing import Final

from linnet_server.errors import BadRequestError, TooLargeError, UnsupportedCodingError

INFLATED_LIMIT_BYTES: Final = 16 << 20

_WINDOW_BITS: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def inflate(body: bytes, coding: bytes) -> bytes:
    """Return ``body`` without its content coding.

    Args:
        body: As it came.
        coding: The header `Content-Encoding`.

    Raises:
        UnsupportedCodingError: The coding is another one, or there are several.
        TooLargeError: It inflates to more than ``INFLATED_LIMIT_BYTES``.
        BadRequestError: It is not in that coding, or not whole.
    """
    coding = coding.strip().lower()
    if coding == b"identity":
        return body
    bits = _WINDOW_BITS.get(coding)
    if bits is None:
        named = coding[:40].decode("ascii", "replace")
        raise UnsupportedCodingError(f"content coding '{named}' is not read, gzip and deflate are")
    inflater = zlib.decompressobj(bits)
    try:
        inflated = inflater.decompress(body, INFLATED_LIMIT_BYTES + 1)
    except zlib.error as exc:
        raise BadRequestError(f"the body is not {coding.decode()}") from exc
    if len(inflated) > INFLATED_LIMIT_BYTES:
        raise TooLargeError(f"the body inflates to more than {INFLATED_LIMIT_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise BadRequestError(f"the body is not one whole {coding.decode()} stream")
    return inflated
