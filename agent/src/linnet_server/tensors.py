"""Tensors of the Open Inference Protocol and NumPy arrays, both ways.

- A value that the datatype cannot hold is refused: no silent cut, wrap or NaN.
- JSON data may be flat or nested; nested, it must have exactly the declared shape.
- JSON has no NaN: an output that holds NaN or Inf has `null` there; binary outputs carry it as it
  is.
- Binary tensors are little-endian, row-major; BYTES elements have a 4-byte length each.

Source: Open Inference Protocol v2, `inference_rest.md`; Triton's `extension_binary_data.md`.
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from linnet_server.errors import BadRequestError

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

# Frames of BYTES and raw tensors are little-endian; every machine that onnxruntime has wheels for
# is.
assert sys.byteorder == "little"

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
    if not isinstance(shape, list) or not all(type(dim) is int and dim >= 0 for dim in shape):
        raise BadRequestError(f"input '{spec.name}': 'shape' must be a list of sizes, 0 or more")
    fits = len(shape) == len(spec.shape)
    if fits:
        for dim, wanted in zip(shape, spec.shape, strict=True):
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
    if not isinstance(data, list):
        raise BadRequestError(f"input '{spec.name}': 'data' must be a list")
    dtype = DTYPES[spec.datatype]
    try:
        raw = np.array(data, dtype=dtype if dtype.kind == "O" else None)
        if dtype == np.uint64 and raw.dtype.kind == "f":
            raw = _read_large_integers(data, raw)
    except (ValueError, OverflowError) as exc:
        raise BadRequestError(
            f"input '{spec.name}': 'data' is not a regular array of numbers"
        ) from exc
    if booleans and dtype.kind in "iuf" and _holds_booleans(data):
        raise BadRequestError(f"input '{spec.name}': 'data' does not hold {spec.datatype} values")
    count = math.prod(shape)
    if raw.shape != shape and (raw.ndim != 1 or raw.size != count):
        raise BadRequestError(
            f"input '{spec.name}': shape {list(shape)} needs {count} values, flat or nested; "
            f"'data' has {raw.size} in the form {list(raw.shape)}"
        )
    if count == 0:
        return np.zeros(shape, dtype)
    return _convert(spec, raw, dtype).reshape(shape)


def decode_binary(spec: TensorSpec, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Return the array of an input that came as raw bytes; numbers are a read-only view of ``raw``.

    Raises:
        BadRequestError: The bytes do not have the size that shape and datatype need.
    """
    count = math.prod(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
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
    """
    count = math.prod(shape)
    if len(data) != count:
        raise BadRequestError(
            f"input '{spec.name}': shape {list(shape)} needs {count} values; there are {len(data)}"
        )
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        return _to_strings(spec, data).reshape(shape)
    if dtype.kind in "iu":
        wide = np.fromiter(data, np.uint64 if dtype.kind == "u" else np.int64, count)
        return _convert(spec, wide, dtype).reshape(shape) if count else wide.astype(dtype)
    return np.fromiter(data, dtype, count).reshape(shape)


def encode_json(array: Array) -> Array | list[str]:
    """Return ``array`` flat, as something that orjson writes; NaN and Inf become `null` there."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind in "OUS":
        return [element if isinstance(element, str) else str(element) for element in flat.tolist()]
    return flat


def encode_binary(array: Array) -> bytes:
    """Return ``array`` as the raw bytes of the binary tensor extension."""
    if array.dtype.kind in "OUS":
        return b"".join(frame_bytes(element) for element in array.reshape(-1).tolist())
    return np.ascontiguousarray(array).tobytes()


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


def _convert(spec: TensorSpec, raw: Array, dtype: np.dtype[Any]) -> Array:
    wanted = {"b": "b", "i": "iu", "u": "iu", "f": "fiu", "O": "O"}[dtype.kind]
    if raw.dtype.kind not in wanted:
        raise BadRequestError(f"input '{spec.name}': 'data' does not hold {spec.datatype} values")
    match dtype.kind:
        case "f":
            if raw.dtype == dtype:
                return raw  # JSON has neither NaN nor Inf
            with np.errstate(over="ignore"):
                converted = raw.astype(dtype)
            if not np.isfinite(converted).all():
                raise BadRequestError(
                    f"input '{spec.name}': a value is beyond the range of {spec.datatype}"
                )
            return converted
        case "i" | "u":
            limits = np.iinfo(dtype)
            if int(raw.min()) < limits.min or int(raw.max()) > limits.max:
                raise BadRequestError(
                    f"input '{spec.name}': a value is beyond the range of {spec.datatype}"
                )
            return raw.astype(dtype, copy=False)
        case "O":
            if not all(isinstance(element, str) for element in raw.reshape(-1).tolist()):
                raise BadRequestError(f"input '{spec.name}': 'data' does not hold strings")
            return raw
        case _:
            return raw


def _holds_booleans(data: list[Any]) -> bool:
    return any(
        _holds_booleans(one) if isinstance(one, list) else isinstance(one, bool) for one in data
    )


def _read_large_integers(data: list[Any], guess: Array) -> Array:
    """Return integers above 2**63 exactly, where NumPy has guessed floats; or the guess."""
    exact = np.array(data, np.object_)
    if all(type(element) is int for element in exact.reshape(-1).tolist()):
        return exact.astype(np.uint64)
    return guess


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
