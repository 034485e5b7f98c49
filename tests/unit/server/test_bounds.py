"""How much work one request may make: what is beyond is a 413 that says what to send instead."""

import numpy as np
import pytest

from linnet_server.errors import TooLargeError
from linnet_server.tensors import (
    STRINGS_LIMIT,
    TYPED_LIMIT,
    TensorSpec,
    decode_binary,
    decode_json,
    decode_typed,
)

STRINGS = TensorSpec("s", "BYTES", ("N",))
NUMBERS = TensorSpec("n", "INT64", ("N",))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["binary", "JSON", "typed"])
def test_strings(form):
    def decode(count):
        match form:
            case "binary":
                return decode_binary(STRINGS, (count,), memoryview(bytes(4 * count)))
            case "JSON":
                return decode_json(STRINGS, (count,), [""] * count)
            case _:
                return decode_typed(STRINGS, (count,), [b""] * count)

    assert decode(STRINGS_LIMIT).shape == (STRINGS_LIMIT,)
    with pytest.raises(TooLargeError, match="send fewer rows"):
        decode(STRINGS_LIMIT + 1)


@pytest.mark.slow
def test_typed_numbers():
    assert decode_typed(NUMBERS, (TYPED_LIMIT,), range(TYPED_LIMIT))[-1] == TYPED_LIMIT - 1
    with pytest.raises(TooLargeError, match="raw_input_contents"):
        decode_typed(NUMBERS, (TYPED_LIMIT + 1,), range(TYPED_LIMIT + 1))


def test_raw_numbers_are_bounded_by_the_body_alone():
    count = 4 * TYPED_LIMIT
    assert decode_binary(NUMBERS, (count,), memoryview(bytes(8 * count))).dtype == np.int64
