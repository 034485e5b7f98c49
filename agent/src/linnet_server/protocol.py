"""The bodies of the Open Inference Protocol v2, REST: read an inference request, write its answer.

- Whatever is wrong with a request is a BadRequestError with a sentence, before the runtime sees
  anything.
- Binary tensors: the body is JSON, then raw tensors in the order of the inputs; the header
  `Inference-Header-Content-Length` gives the length of the JSON.
- Pure: no sockets, no sessions, no clock.

Source: Open Inference Protocol v2, `inference_rest.md`; Triton's `extension_binary_data.md`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from linnet_server.errors import BadRequestError
from linnet_server.tensors import (
    DTYPES,
    Array,
    TensorSpec,
    check_shape,
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
    total_elements,
)

EXTENSIONS: Final = ("binary_tensor_data", "linnet_feedback")

ID_LIMIT: Final = 256
"""Characters of a request id: the ids of recent requests are kept for feedback."""


@dataclasses.dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output that a request asks for."""

    name: str
    binary: bool


@dataclasses.dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request that fits the model.

    Attributes:
        id: The client's, or None.
        feeds: One array for each input of the model.
        outputs: What to answer, in the client's order; all of the model's where it names none.
        elements: How many elements the feeds hold together: a measure of the work.
    """

    id: str | None
    feeds: Mapping[str, Array]
    outputs: Sequence[WantedOutput]
    elements: int


def parse_infer(
    body: bytes,
    *,
    json_bytes: int | None,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> InferRequest:
    """Return the request in ``body``.

    Args:
        body: The whole HTTP body.
        json_bytes: The value of `Inference-Header-Content-Length`; None where the body is JSON
            alone.
        inputs: The model's inputs by name.
        outputs: The model's outputs by name.

    Raises:
        BadRequestError: It is no request, or it does not fit the model.
    """
    document, raw = _split(body, json_bytes)
    feeds = _read_inputs(document.get("inputs"), raw, inputs)
    parameters = _parameters(document, "the request")
    return InferRequest(
        id=_read_id(document.get("id")),
        feeds=feeds,
        outputs=_read_outputs(
            document.get("outputs"), outputs, binary=parameters.get("binary_data_output") is True
        ),
        elements=total_elements(list(feeds.values())),
    )


def render_infer(
    head: Mapping[str, Any],
    *,
    request_id: str,
    specs: Mapping[str, TensorSpec],
    wanted: Sequence[WantedOutput],
    arrays: Sequence[Array],
) -> tuple[bytes, int | None]:
    """Return the body that answers a request, and the length of its JSON where raw tensors follow.

    Args:
        head: What every answer of the model starts with: name, version, parameters.
        request_id: The client's id, or ours.
        specs: The model's outputs by name.
        wanted: The outputs, in the order of ``arrays``.
        arrays: What the model answered.
    """
    tensors: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output, array in zip(wanted, arrays, strict=True):
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": specs[output.name].datatype,
            "shape": array.shape,
        }
        if output.binary:
            raw.append(encode_binary(array))
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = encode_json(array)
        tensors.append(tensor)
    document = orjson.dumps(
        {**head, "id": request_id, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    if not raw:
        return document, None
    return b"".join((document, *raw)), len(document)


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``.

    Raises:
        BadRequestError: It is not JSON, or not an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BadRequestError("the body is not a JSON object")
    return document


def _split(body: bytes, json_bytes: int | None) -> tuple[dict[str, Any], memoryview | None]:
    if json_bytes is None:
        return parse_object(body), None
    if not 0 < json_bytes <= len(body):
        raise BadRequestError(
            f"Inference-Header-Content-Length is {json_bytes}, the body has {len(body)} bytes"
        )
    return parse_object(body[:json_bytes]), memoryview(body)[json_bytes:]


def _read_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > ID_LIMIT:
        raise BadRequestError(f"'id' must be a string of at most {ID_LIMIT} characters")
    return value


def _read_inputs(
    tensors: object, raw: memoryview | None, specs: Mapping[str, TensorSpec]
) -> dict[str, Array]:
    if not isinstance(tensors, list):
        raise BadRequestError("'inputs' must be a list of tensors")
    feeds: dict[str, Array] = {}
    symbols: dict[str, int] = {}
    at = 0
    for tensor in tensors:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str):
            raise BadRequestError("every input must be an object with a 'name'")
        spec = specs.get(name)
        if spec is None:
            raise BadRequestError(f"the model has no input '{name}'; it has {_names(specs)}")
        if name in feeds:
            raise BadRequestError(f"input '{name}' is there twice")
        datatype = tensor.get("datatype")
        if datatype != spec.datatype:
            known = "" if isinstance(datatype, str) and datatype in DTYPES else ", which the protocol does not know"
            raise BadRequestError(
                f"input '{name}': datatype must be {spec.datatype}, not {datatype!r:.40}{known}"
            )
        shape = check_shape(spec, tensor.get("shape"), symbols)
        size = _parameters(tensor, f"input '{name}'").get("binary_data_size")
        if size is None:
            feeds[name] = decode_json(spec, shape, tensor.get("data"))
        else:
            feeds[name] = decode_binary(spec, shape, _cut(name, raw, at, size))
            at += size
    missing = specs.keys() - feeds.keys()
    if missing:
        raise BadRequestError(f"missing input {_names(missing)}")
    if raw is not None and at != len(raw):
        raise BadRequestError(f"{len(raw) - at} bytes after the last binary tensor")
    return feeds


def _cut(name: str, raw: memoryview | None, at: int, size: object) -> memoryview:
    if type(size) is not int or size < 0:
        raise BadRequestError(f"input '{name}': 'binary_data_size' must be a count of bytes")
    if raw is None:
        raise BadRequestError(
            f"input '{name}' is binary, but the header Inference-Header-Content-Length is missing"
        )
    if at + size > len(raw):
        raise BadRequestError(f"input '{name}': the body ends before its {size} bytes do")
    return raw[at : at + size]


def _read_outputs(
    tensors: object, specs: Mapping[str, TensorSpec], *, binary: bool
) -> list[WantedOutput]:
    if tensors is None or tensors == []:
        return [WantedOutput(name, binary) for name in specs]
    if not isinstance(tensors, list):
        raise BadRequestError("'outputs' must be a list")
    wanted: list[WantedOutput] = []
    for tensor in tensors:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or name not in specs:
            raise BadRequestError(f"the model has no output {name!r:.80}; it has {_names(specs)}")
        parameters = _parameters(tensor, f"output '{name}'")
        wanted.append(WantedOutput(name, parameters.get("binary_data", binary) is True))
    if len({output.name for output in wanted}) != len(wanted):
        raise BadRequestError("an output is asked for twice")
    return wanted


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequestError(f"'parameters' of {what} must be an object")
    return parameters


def _names(names: Mapping[str, object] | set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
