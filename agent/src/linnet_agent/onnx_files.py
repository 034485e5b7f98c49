"""Which other files an ONNX file reads, found by walking its bytes, without loading it.

- Only lengths are followed; tensor data is stepped over, so that a file of gigabytes costs its
  structure.
- Every reference must be a plain relative path inside the model's own directory, to a plain file
  that is there under this name alone: all that is there was signed. ONNX Runtime itself refuses the
  rest from 1.24.1 on, but never hard links.
- Depth and counts are bounded: the file is not trusted yet.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from linnet_agent.errors import ContentRefusedError, NotOnnxError

_MAX_DEPTH: Final = 64
_MAX_REFERENCES: Final = 100_000

_Fields = Mapping[int, "str"]

# Message type to the fields that may hold, at some depth, a TensorProto (onnx.proto of ONNX 1.20).
_CHILDREN: Final[Mapping[str, _Fields]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}

_LENGTH_DELIMITED: Final = 2
_FIXED: Final[Mapping[int, int]] = {1: 8, 5: 4}


def check_external_data(directory: Path, file: str) -> None:
    """Require that what ``file`` reads besides itself lies in ``directory``.

    Raises:
        NotOnnxError: It is not an ONNX file.
        ContentRefusedError: It points outside, or to a file that is not there.
    """
    for location in sorted(set(read_locations(directory / file))):
        path = PurePosixPath(location)
        plain = location and not path.is_absolute() and ".." not in path.parts
        if not plain or "\\" in location or "\0" in location:
            raise ContentRefusedError(f"{file} reads {location!r}, outside of the model")
        home = (directory / file).parent.resolve()
        target = home / path
        if target.resolve() != target:
            raise ContentRefusedError(f"{file} reads {location!r}, by way of a link")
        if not target.is_file():
            raise ContentRefusedError(f"{file} reads {location!r}, which the model does not hold")
        if target.stat().st_nlink != 1:
            raise ContentRefusedError(f"{file} reads {location!r}, which has a second name")


def read_locations(path: Path) -> list[str]:
    """Return every external-data location that an ONNX file names.

    Raises:
        NotOnnxError: It is not an ONNX file: its bytes are not a protobuf message with a graph.
    """
    if path.stat().st_size == 0:
        raise NotOnnxError(f"{path.name} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            kinds = {number for number, *_ in _walk_fields(data, 0, len(data))}
            if 7 not in kinds:
                raise NotOnnxError(f"{path.name} is not an ONNX file: it has no graph")
            return list(_find(data, "Model", 0, len(data), depth=0))
        except (ValueError, IndexError) as error:
            raise NotOnnxError(f"{path.name} is not an ONNX file: {error}") from error


def _find(data: mmap.mmap, kind: str, start: int, end: int, *, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    children = _CHILDREN[kind]
    count = 0
    for number, wire, begin, stop in _walk_fields(data, start, end):
        child = children.get(number)
        if child is None or wire != _LENGTH_DELIMITED:
            continue
        if child == "Entry":
            key, value = _read_entry(data, begin, stop)
            if key == "location":
                count += 1
                if count > _MAX_REFERENCES:
                    raise ValueError("it names too many files")
                yield value
        else:
            yield from _find(data, child, begin, stop, depth=depth + 1)


def _read_entry(data: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for number, wire, begin, stop in _walk_fields(data, start, end):
        if number in texts and wire == _LENGTH_DELIMITED:
            texts[number] = data[begin:stop].decode()
    return texts[1], texts[2]


def _walk_fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, begin and end of each field of a message."""
    at = start
    while at < end:
        tag, at = _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"no field 0 at byte {at}")
        if wire == 0:
            begin, (_, at) = at, _read_varint(data, at, end)
        elif wire == _LENGTH_DELIMITED:
            length, begin = _read_varint(data, at, end)
            at = begin + length
        elif wire in _FIXED:
            begin, at = at, at + _FIXED[wire]
        else:
            raise ValueError(f"unknown wire type {wire} at byte {at}")
        if at > end:
            raise ValueError(f"a field ends after its message at byte {begin}")
        yield number, wire, begin, at


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError(f"a number does not end at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
