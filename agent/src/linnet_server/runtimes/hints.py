"""What a publisher says about running a model: `runtime.json` beside the ONNX file, signed with it.

    {"profiles": {"x": {"min": [1, 3, 64, 64], "opt": [8, 3, 64, 64], "max": [32, 3, 64, 64]}},
     "workspaceBytes": 1073741824, "optimizationLevel": 3, "ioBinding": false, "strict": false}

- Only TensorRT asks for more than a batch: an engine is built for ranges of shapes, and nobody but
  the publisher knows them. On a CPU the first runs are of the best shape, and that is all.
- The file is optional, bounded and read strictly, wherever the model runs: a word that is not known
  is refused.
"""

import math
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic
from pydantic.alias_generators import to_camel

from linnet_server.errors import WrongHintsError

HINTS_FILE: Final = "runtime.json"
_MAX_BYTES: Final = 1 << 20
_MAX_ELEMENTS: Final = 64 << 20

_Shape = Annotated[
    tuple[Annotated[int, pydantic.Field(ge=0, le=2**31 - 1)], ...], pydantic.Field(max_length=8)
]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
    )


class Profile(_Strict):
    """The shapes of one input that an engine is built for."""

    min: _Shape
    opt: _Shape
    max: _Shape

    @pydantic.model_validator(mode="after")
    def _grow(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max have as many dimensions each")
        sizes = zip(self.min, self.opt, self.max, strict=True)
        if not all(low <= best <= high for low, best, high in sizes):
            raise ValueError("no dimension may shrink from min over opt to max")
        if math.prod(self.opt) > _MAX_ELEMENTS:
            raise ValueError(f"opt is what the first runs have: at most {_MAX_ELEMENTS} elements")
        return self


class Hints(_Strict):
    """What the publisher says.

    Attributes:
        profiles: By input: the shapes that a TensorRT engine is built for, and first run with.
        workspace_bytes: GPU memory that the build may use for scratch; None: what TensorRT takes.
        optimization_level: How long TensorRT searches, 0 to 5; None: its own default.
        io_binding: Let ONNX Runtime bind tensors to the GPU's memory; it pays where outputs are
            large.
        strict: Refuse a graph that has nodes which would run on the CPU beside the GPU.
    """

    profiles: dict[str, Profile] = {}
    workspace_bytes: Annotated[int, pydantic.Field(ge=1 << 20, le=1 << 40)] | None = None
    optimization_level: Annotated[int, pydantic.Field(ge=0, le=5)] | None = None
    io_binding: bool = False
    strict: bool = False


def read_hints(directory: Path) -> Hints:
    """Return what is said in ``directory``, or nothing where there is no such file.

    Raises:
        WrongHintsError: It cannot be read.
    """
    try:
        with (directory / HINTS_FILE).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise WrongHintsError(f"{HINTS_FILE} is larger than {_MAX_BYTES} bytes")
        return Hints.model_validate_json(raw)
    except FileNotFoundError:
        return Hints()
    except OSError as exc:
        raise WrongHintsError(f"{HINTS_FILE} cannot be read: {exc.strerror}") from exc
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WrongHintsError(f"{HINTS_FILE}: {where}: {first['msg']}") from exc
