"""Inputs for a model that ships no golden samples: made up from what it declares.

- A dimension without a size is 1, then another size; the same name has the same size everywhere.
- Floats are drawn between 0 and 1, integers are 0 or 1 (a token must be in its table), texts are
  empty; the seed is fixed, so that every node sees the same.
- Where there is more than one dimension to choose, a model may refuse a choice: that says nothing
  about it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from linnet_agent.errors import SelfTestFailedError
from linnet_agent.golden import Tensor

_MAX_ELEMENTS: Final = 1 << 26
_SEED: Final = 20_260_101
_BATCH: Final = 3
_OTHER_SIZES: Final = (8, 32, 64, 224)
"""Where 1 is too small: convolutions and pools want room."""

DTYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "object",
}
"""ONNX Runtime's words, and numpy's."""


@dataclass(frozen=True, slots=True)
class Declared:
    """An input or output, as the model declares it; a size that is free is its name, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Numpy's type.

        Raises:
            SelfTestFailedError: It is none that can be served.
        """
        if self.type not in DTYPES:
            raise SelfTestFailedError(f"{self.name!r} is {self.type}, which cannot be served")
        return np.dtype(DTYPES[self.type])


Sizes = Mapping[str, int]


def free_dimensions(inputs: Sequence[Declared]) -> dict[str, bool]:
    """Return the names of all dimensions without a size; True where one counts samples."""
    found: dict[str, bool] = {}
    for value in inputs:
        for place, size in enumerate(value.shape):
            if not isinstance(size, int):
                name = _dimension(value, place)
                found[name] = found.get(name, False) or place == 0
    return found


def choices(free: Mapping[str, bool]) -> Iterator[Sizes]:
    """Yield the sizes to try until the model takes one, the plainest first."""
    yield dict.fromkeys(free, 1)
    for size in _OTHER_SIZES if free else ():
        yield {name: 1 if batch and len(free) > 1 else size for name, batch in free.items()}


def larger(free: Mapping[str, bool], taken: Sizes) -> Sizes | None:
    """Return ``taken`` with more samples; None where their count is fixed."""
    if not any(free.values()):
        return None
    return {name: _BATCH if free[name] else size for name, size in taken.items()}


def make_inputs(inputs: Sequence[Declared], sizes: Sizes) -> dict[str, Tensor]:
    """Return one value for each input.

    Raises:
        SelfTestFailedError: One is of a type that cannot be served, or too large to make up.
    """
    draw = np.random.default_rng(_SEED)
    made: dict[str, Tensor] = {}
    for value in inputs:
        shape = [
            size if isinstance(size, int) else sizes[_dimension(value, place)]
            for place, size in enumerate(value.shape)
        ]
        if math.prod(shape) > _MAX_ELEMENTS:
            raise SelfTestFailedError(
                f"input {value.name!r} has {math.prod(shape)} elements: ship golden samples"
            )
        made[value.name] = _draw(draw, value.dtype, shape)
    return made


def _draw(draw: np.random.Generator, dtype: "np.dtype[Any]", shape: Sequence[int]) -> Tensor:
    if dtype.kind == "O":
        return np.full(shape, "", dtype=object)
    if dtype.kind == "f":
        return draw.random(shape).astype(dtype)
    return draw.integers(0, 2, shape).astype(dtype)


def _dimension(value: Declared, place: int) -> str:
    """Return the name of a free dimension; one without a name is like no other."""
    size = value.shape[place]
    return size if isinstance(size, str) and size else f"{value.name}[{place}]"
