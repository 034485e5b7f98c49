"""Tensors of the Open Inference Protocol and NumPy arrays, both ways.

- A value that the datatype cannot hold is refused: no silent cut, wrap or NaN.
- JSON data may be flat or nested; nested, it must have exactly the declared shape.
- JSON has no NaN: an output that holds NaN or Inf has `null` there; binary outputs carry it as it
  is.
- Binary tensors are little-endian, row-major; BYTES elements have a 4-byte length each.

Source: Open Inference Protocol v2, `inference_rest.md`; Triton's `extension_binary_data.md`.
"""

import dataclasses
import itertools
import math
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from linnet_server.errors import BadRequestError, TooLargeError

Array = npt.NDArray[Any]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""The letters of `struct`, which packs a value exactly or raises; NumPy would cut or guess."""

# Frames of BYTES and raw tensors are little-endian; every machine that onnxruntime has wheels for
# is.
assert sys.byteorder == "little"

STRINGS_LIMIT: Final = 1 << 17
"""Elements of BYTES in a tensor: each is an object, and while they are made nobody is answered."""

TYPED_LIMIT: Final = 1 << 20
"""Values of a typed field: the same, but they are numbers."""

SIZE_LIMIT: Final = 2**31 - 1
"""Elements of a tensor, were none of its dimensions empty: NumPy has no empty array beyond."""

_LENGTH_BYTES: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model, as plain data.

    Attributes:
        name: The tensor's name in the graph.
        datatype: A word of the protocol, a key of `DTYPES`.
        shape: One entry a dimension: a size, or the symbol of a dynamic one.
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the tensor as the protocol describes it; a dynamic dimension is -1."""
        sizes = [dim if isinstance(dim, int) else -1 for dim in self.shape]
        return {"name": self.name, "datatype": self.datatype, "shape": sizes}


def check_shape(spec: TensorSpec, shape: object, symbols: dict[str, int]) -> tuple[int, ...]:
    """Return ``shape`` as a tuple, where it fits ``spec``.

    Args:
        spec: The model's input.
        shape: What the request says.
        symbols: The sizes that symbols have in this request; filled here. The same symbol in two
            inputs is one size.

    Raises:
        BadRequestError: It is no list of sizes, or it does not fit.
    """
    if type(shape) is not list:
        raise BadRequestError(f"input '{spec.name}': 'shape' must be a list of sizes, 0 or more")
    fits = len(shape) == len(spec.shape)
    for dim, wanted in zip(shape, spec.shape, strict=False):
        if type(dim) is not int or dim < 0:
            raise BadRequestError(
                f"input '{spec.name}': 'shape' must be a list of sizes, 0 or more"
            )
        if isinstance(wanted, int):
            fits = fits and dim == wanted
        elif symbols.setdefault(wanted, dim) != dim:
            raise BadRequestError(
                f"input '{spec.name}': dimension '{wanted}' is {dim}, in another place it is "
                f"{symbols[wanted]}"
            )
    if not fits:
        raise BadRequestError(
            f"input '{spec.name}': shape {shape!s:.200} does not fit {spec.metadata()['shape']}"
        )
    if 0 in shape and math.prod(filter(None, shape)) > SIZE_LIMIT:
        raise BadRequestError(f"input '{spec.name}': shape {shape!s:.200} is beyond all bounds")
    return tuple(shape)


def guess_shape(spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    """Return the shape of an input of ``size_bytes`` that came without one.

    Raises:
        BadRequestError: The model's metadata and the size leave more than one, or none.
    """
    count = size_bytes // DTYPES[spec.datatype].itemsize if spec.datatype != "BYTES" else 1
    known = math.prod(dim for dim in spec.shape if isinstance(dim, int))
    dynamic = sum(isinstance(dim, str) for dim in spec.shape)
    if dynamic > 1 or known == 0 or count % known:
        raise BadRequestError(
            f"input '{spec.name}': {size_bytes} raw bytes do not tell a shape of "
            f"{spec.metadata()['shape']}"
        )
    return tuple(dim if isinstance(dim, int) else count // known for dim in spec.shape)


def decode_json(
    spec: TensorSpec, shape: tuple[int, ...], data: object, *, booleans: bool = True
) -> Array:
    """Return the array of an input whose data came as JSON.

    Args:
        spec: The model's input.
        shape: Its shape, checked.
        data: What the request says.
        booleans: Whether there may be booleans in ``data``.

    Raises:
        BadRequestError: Wrong count, wrong nesting, or a value that the datatype cannot hold.
    """
    if type(data) is not list:
        raise BadRequestError(f"input '{spec.name}': 'data' must be a list")
    flat = _flatten(spec, shape, data) if data and type(data[0]) is list else data
    count = math.prod(shape)
    if len(flat) != count:
        raise BadRequestError(
            f"input '{spec.name}': shape {list(shape)} needs {count} values, flat or nested; "
            f"'data' has {len(flat)}"
        )
    match DTYPES[spec.datatype].kind:
        case "O":
            _check_strings(spec, count)
            if not all(type(value) is str for value in flat):
                raise _not_of(spec)
            array = np.empty(count, np.object_)
            array[:] = flat
            return array.reshape(shape)
        case "b":
            if not all(type(value) is bool for value in flat):
                raise _not_of(spec)
        case _:
            if booleans and any(type(value) is bool for value in flat):
                raise _not_of(spec)
    return _pack(spec, flat).reshape(shape)


def decode_binary(spec: TensorSpec, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Return the array of an input that came as raw bytes; numbers are a read-only view of ``raw``.

    Raises:
        BadRequestError: The bytes do not have the size that shape and datatype need.
        TooLargeError: More strings than are read.
    """
    count = math.prod(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        _check_strings(spec, count)
        return _decode_bytes_elements(spec, count, raw).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise BadRequestError(
            f"input '{spec.name}': shape {list(shape)} of {spec.datatype} needs "
            f"{count * dtype.itemsize} bytes; there are {len(raw)}"
        )
    if dtype.kind == "b" and bytes(raw).strip(b"\x00\x01"):
        raise BadRequestError(f"input '{spec.name}': a BOOL is one byte, 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def decode_typed(spec: TensorSpec, shape: tuple[int, ...], data: Sequence[Any]) -> Array:
    """Return the array of an input whose data came as a typed field of a message.

    Raises:
        BadRequestError: Wrong count, or a value that the datatype cannot hold.
        TooLargeError: More values than are read in this form.
    """
    count = math.prod(shape)
    if len(data) != count:
        raise BadRequestError(
            f"input '{spec.name}': shape {list(shape)} needs {count} values; there are {len(data)}"
        )
    if count > TYPED_LIMIT:
        raise TooLargeError(
            f"input '{spec.name}': {count} typed values, {TYPED_LIMIT} are read: send them in "
            "raw_input_contents"
        )
    if spec.datatype == "BYTES":
        _check_strings(spec, count)
        return _to_strings(spec, data).reshape(shape)
    return _pack(spec, data).reshape(shape)


def encode_json(array: Array) -> Array | list[str]:
    """Return ``array`` flat, as something that orjson writes; NaN and Inf become `null` there."""
    flat = array.ravel()
    if flat.dtype.kind in "OUS":
        return [element if isinstance(element, str) else str(element) for element in flat.tolist()]
    return flat


def encode_binary(array: Array) -> bytes:
    """Return ``array`` as the raw bytes of the binary tensor extension."""
    if array.dtype.kind in "OUS":
        return b"".join(frame_bytes(element) for element in array.reshape(-1).tolist())
    return array.tobytes()


def generate_example(spec: TensorSpec) -> Array:
    """Return an array that fits ``spec``, for a warm-up: dynamic dimensions are 1.

    Integers are 1, not 0: an integer division by zero is a signal, not an exception, and would end
    the process.
    """
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        return np.full(shape, "", dtype)
    return np.full(shape, 0.5 if dtype.kind == "f" else 1, dtype)


def _check_strings(spec: TensorSpec, count: int) -> None:
    if count > STRINGS_LIMIT:
        raise TooLargeError(
            f"input '{spec.name}': {count} strings, {STRINGS_LIMIT} are read: send fewer rows at "
            "once"
        )


def _flatten(spec: TensorSpec, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    level: list[Any] = [data]
    for size in shape:
        if not all(type(row) is list and len(row) == size for row in level):
            raise BadRequestError(
                f"input '{spec.name}': 'data' is nested, but not as shape {list(shape)} has it"
            )
        level = list(itertools.chain.from_iterable(level))
    return level


def _pack(spec: TensorSpec, values: Sequence[Any]) -> Array:
    try:
        packed = struct.pack(f"<{len(values)}{_FORMATS[spec.datatype]}", *values)
    except (struct.error, OverflowError) as exc:
        raise _not_of(spec) from exc
    return np.frombuffer(packed, DTYPES[spec.datatype])


def _not_of(spec: TensorSpec) -> BadRequestError:
    return BadRequestError(
        f"input '{spec.name}': a value is not of {spec.datatype}, or beyond its range"
    )


def _decode_bytes_elements(spec: TensorSpec, count: int, raw: memoryview) -> Array:
    elements: list[memoryview] = []
    at = 0
    while at < len(raw) and len(elements) < count:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            break
        elements.append(raw[start:at])
    if len(elements) != count or at != len(raw):
        raise BadRequestError(
            f"input '{spec.name}': the bytes do not hold {count} elements with their lengths"
        )
    return _to_strings(spec, elements)


def _to_strings(spec: TensorSpec, elements: Sequence[bytes | memoryview]) -> Array:
    array = np.empty(len(elements), np.object_)
    for position, element in enumerate(elements):
        try:
            array[position] = str(element, "utf-8")
        except UnicodeDecodeError as exc:
            raise BadRequestError(f"input '{spec.name}': element {position} is not UTF-8") from exc
    return array


def frame_bytes(element: str | bytes) -> bytes:
    """Return an element of BYTES with its length before it."""
    payload = element.encode() if isinstance(element, str) else element
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


def total_elements(arrays: Iterable[Array]) -> int:
    """Return how many elements ``arrays`` hold together."""
    return sum(array.size for array in arrays)
