"""Golden samples: inputs whose outputs the publisher knows, shipped and signed with the model.

    {"inputs":  {"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}},
     "outputs": {"y": {"datatype": "FP32", "shape": [1, 4], "data": [2, 4, 6, 8]}},
     "tolerance": 1e-3, "deterministic": true}

- The file is bounded and read strictly: it comes from outside, as the model does.
- ``tolerance`` is a number for both, or ``{"absolute": .., "relative": ..}``; an output may have
  its own. A value is right within ``absolute + relative * |golden|``; all but floats are exact.
- "NaN", "Infinity", "-Infinity" stand for what JSON has no word for; all else must be finite.
- ``deterministic: false`` says that two runs may differ, within the tolerance.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from linnet_agent.errors import SelfTestFailedError
from linnet_agent.verify.strict_json import as_object, parse_json_object

GOLDEN: Final = "golden.json"
MAX_BYTES: Final = 16 << 20
"""What is read of it must not count as the model's memory."""

_MAX_ELEMENTS: Final = 1 << 24

Tensor = NDArray[Any]
Tensors = Mapping[str, Tensor]

DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""The words of the Open Inference Protocol, and numpy's."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may be from its golden value."""

    absolute: float = 1e-3
    relative: float = 1e-3


@dataclass(frozen=True, slots=True)
class Golden:
    """One sample, and what its outputs shall be."""

    inputs: Tensors
    outputs: Tensors
    tolerances: Mapping[str, Tolerance]
    deterministic: bool = True


def read_golden(raw: bytes) -> Golden:
    """Return the sample that ``golden.json`` holds.

    Raises:
        SelfTestFailedError: It cannot be read, or would test nothing.
    """
    try:
        document = parse_json_object(raw, max_bytes=MAX_BYTES)
        inputs = _members(document, "inputs")
        outputs = _members(document, "outputs")
        overall = _read_tolerance(document.get("tolerance"), Tolerance())
        golden = Golden(
            inputs={name: _read_tensor(item) for name, item in inputs.items()},
            outputs={name: _read_tensor(item) for name, item in outputs.items()},
            tolerances={
                name: _read_tolerance(item.get("tolerance"), overall)
                for name, item in outputs.items()
            },
            deterministic=_read_flag(document.get("deterministic", True)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise SelfTestFailedError(f"{GOLDEN} cannot be read: {error!r}"[:400]) from error
    if not golden.outputs:
        raise SelfTestFailedError(f"{GOLDEN} names no outputs, so it says nothing")
    return golden


def check_outputs(golden: Golden, got: Tensors) -> None:
    """Require that every golden output is as it shall be.

    Raises:
        SelfTestFailedError: One is not.
    """
    for name, want in golden.outputs.items():
        _check_output(name, got[name], want, golden.tolerances[name])


def fingerprint(output: Tensor) -> bytes:
    """Return what two outputs have in common only where they are the same, bit for bit."""
    plain = output.dtype.kind != "O"
    digest = hashlib.sha256(repr((output.dtype.str, output.shape)).encode())
    digest.update(np.ascontiguousarray(output).data if plain else repr(output.tolist()).encode())
    return digest.digest()


def _check_output(name: str, got: Tensor, want: Tensor, tolerance: Tolerance) -> None:
    if got.shape != want.shape or got.dtype != want.dtype:
        raise SelfTestFailedError(
            f"output {name!r} is {got.dtype}{list(got.shape)}, "
            f"golden is {want.dtype}{list(want.shape)}"
        )
    if want.dtype.kind != "f":
        if not _equal(got, want):
            raise SelfTestFailedError(f"output {name!r} is not its golden value")
        return
    wide_got, wide_want = got.astype("f8"), want.astype("f8")
    finite = np.isfinite(wide_want)
    if not _equal(np.where(finite, 0, wide_want), np.where(np.isfinite(wide_got), 0, wide_got)):
        raise SelfTestFailedError(
            f"output {name!r} holds NaN or Inf where its golden value differs"
        )
    off = np.abs(np.subtract(wide_got, wide_want, where=finite, out=np.zeros_like(wide_want)))
    allowed = tolerance.absolute + tolerance.relative * np.abs(np.where(finite, wide_want, 0))
    over = off - allowed
    if over.size and over.max() > 0:
        at = int(over.argmax())
        raise SelfTestFailedError(
            f"output {name!r} is off its golden value by {off.flat[at]:.3g} "
            f"where {allowed.flat[at]:.3g} is allowed"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _members(document: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    members = as_object(document[name])
    if members is None or not all(isinstance(item, dict) for item in members.values()):
        raise ValueError(f"{name} is no object of tensors")
    return members


def _read_tensor(item: Mapping[str, Any]) -> Tensor:
    shape = item["shape"]
    sound = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sound or math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"no shape: {str(shape)[:80]}")
    return np.array(item["data"], dtype=DATATYPES[item["datatype"]]).reshape(shape)


def _read_tolerance(value: object, otherwise: Tolerance) -> Tolerance:
    if value is None:
        return otherwise
    both = as_object(value)
    if both is None:
        both = {"absolute": value, "relative": value}
    if not both.keys() <= {"absolute", "relative"}:
        raise ValueError(f"no tolerance: {sorted(both)}")
    return Tolerance(
        absolute=_read_bound(both.get("absolute", 0.0)),
        relative=_read_bound(both.get("relative", 0.0)),
    )


def _read_bound(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"no tolerance: {value!r}")
    return float(value)


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("deterministic is true or false")  # noqa: TRY004 - a fault of the file, not of a caller
    return value
