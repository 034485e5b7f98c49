"""The bodies of the Open Inference Protocol v2, REST: read an inference request, write its answer.

- Whatever is wrong with a request is a BadRequestError with a sentence, before the runtime sees
  anything.
- Binary tensors: the body is JSON, then raw tensors in the order of the inputs; the header
  `Inference-Header-Content-Length` gives the length of the JSON. Where it is 0, the body is the one
  input of the model, and its shape follows from its size.
- JSON is bounded: while it is read, nobody else is answered. Tensors of many values come binary.
- Pure: no sockets, no sessions, no clock.

Source: Open Inference Protocol v2, `inference_rest.md`; Triton's `extension_binary_data.md`.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final, NamedTuple

import orjson

from linnet_server.errors import BadRequestError, TooLargeError
from linnet_server.tensors import (
    Array,
    TensorSpec,
    check_shape,
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
    frame_bytes,
    guess_shape,
    total_elements,
)

EXTENSIONS: Final = ("binary_tensor_data", "linnet_feedback")

_NO_PARAMETERS: Final[Mapping[str, object]] = {}
_NAMES_LIMIT: Final = 400
"""Characters of a list of names in a sentence."""

ID_LIMIT: Final = 256
"""Characters of a request id: the ids of recent requests are kept for feedback."""

JSON_LIMIT_BYTES: Final = 16 << 20
"""JSON of this size takes some 0.3 s to read, in one go; as a binary tensor it takes none."""


def server_metadata() -> dict[str, Any]:
    """Return the server as the protocol describes it."""
    return {
        "name": "linnet",
        "version": metadata.version("linnet"),
        "extensions": list(EXTENSIONS),
    }


class WantedOutput(NamedTuple):
    """One output that a request asks for."""

    name: str
    binary: bool


class WantedOutputs(NamedTuple):
    """The outputs that a request asks for, in the client's order.

    Attributes:
        outputs: Each with its form.
        names: Their names alone.
        label_at: Which of them holds the answer's label: the first INT64, else the first of floats.
    """

    outputs: tuple[WantedOutput, ...]
    names: tuple[str, ...]
    label_at: int | None


class InferRequest(NamedTuple):
    """An inference request that fits the model.

    Attributes:
        id: The client's, or None.
        feeds: One array for each input of the model.
        wanted: What to answer; all of the model's outputs where the request names none.
        elements: How many elements the feeds hold together: a measure of the work.
        timeout_s: Seconds after which the client has no use for the answer; None: it does not say.
    """

    id: str | None
    feeds: dict[str, Array]
    wanted: WantedOutputs
    elements: int
    timeout_s: float | None = None


class Signature:
    """The inputs and outputs of a model, and what follows from them for every request."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs: Final = {spec.name: spec for spec in inputs}
        self.outputs: Final = {spec.name: spec for spec in outputs}
        self._all: Final = {
            binary: self.want([WantedOutput(name, binary) for name in self.outputs])
            for binary in (False, True)
        }

    def want(self, outputs: Sequence[WantedOutput]) -> WantedOutputs:
        """Return ``outputs`` with what follows from them."""
        datatypes = [self.outputs[output.name].datatype for output in outputs]
        labels = [at for at, datatype in enumerate(datatypes) if datatype == "INT64"]
        scores = [at for at, datatype in enumerate(datatypes) if datatype.startswith("FP")]
        label_at = next(iter(labels + scores), None)
        return WantedOutputs(tuple(outputs), tuple(output.name for output in outputs), label_at)

    def want_all(self, *, binary: bool) -> WantedOutputs:
        """Return all outputs of the model."""
        return self._all[binary]


def parse_infer(
    body: bytes,
    *,
    json_bytes: int | None,
    signature: Signature,
) -> InferRequest:
    """Return the request in ``body``.

    Args:
        body: The whole HTTP body.
        json_bytes: The value of `Inference-Header-Content-Length`; None where the body is JSON
            alone.
        signature: The model's inputs and outputs.

    Raises:
        BadRequestError: It is no request, or it does not fit the model.
    """
    if json_bytes == 0:
        feeds = _read_raw_input(body, signature.inputs)
        return InferRequest(
            None, feeds, signature.want_all(binary=True), total_elements(feeds.values())
        )
    document, raw = _split(body, json_bytes)
    feeds = _read_inputs(
        document.get("inputs"), raw, signature.inputs, _may_hold_booleans(body, json_bytes)
    )
    binary = _read_flag(document, "binary_data_output") is True
    return InferRequest(
        read_id(document.get("id")),
        feeds,
        _read_outputs(document.get("outputs"), signature, binary=binary),
        total_elements(feeds.values()),
        read_timeout(_read_parameter(document, "timeout")),
    )


def render_infer(
    head: Mapping[str, Any],
    *,
    request_id: str,
    signature: Signature,
    wanted: WantedOutputs,
    arrays: Sequence[Array],
) -> tuple[bytes, int | None]:
    """Return the body that answers a request, and the length of its JSON where raw tensors follow.

    Args:
        head: What every answer of the model starts with: name, version, parameters.
        request_id: The client's id, or ours.
        signature: The model's inputs and outputs.
        wanted: The outputs, in the order of ``arrays``.
        arrays: What the model answered.
    """
    tensors: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for output, array in zip(wanted.outputs, arrays, strict=True):
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": signature.outputs[output.name].datatype,
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
        TooLargeError: It is more JSON than is read.
    """
    if len(body) > JSON_LIMIT_BYTES:
        raise TooLargeError(
            f"{len(body)} bytes of JSON, {JSON_LIMIT_BYTES} are read: send binary tensors"
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BadRequestError("the body is not a JSON object")
    return document


def read_id(value: object) -> str | None:
    """Return the request id in ``value``; None where there is none.

    Raises:
        BadRequestError: It is no string, or too long to be kept.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > ID_LIMIT:
        raise BadRequestError(f"'id' must be a string of at most {ID_LIMIT} characters")
    return value


def find_input(
    name: str, datatype: object, specs: Mapping[str, TensorSpec], feeds: Mapping[str, Array]
) -> TensorSpec:
    """Return the model's input ``name``, where it is of ``datatype`` and not yet among ``feeds``.

    Raises:
        BadRequestError: There is no such input, it is there already, or of another datatype.
    """
    spec = specs.get(name)
    if spec is None:
        raise BadRequestError(f"the model has no input '{name[:80]}'; it has {_names(specs)}")
    if name in feeds:
        raise BadRequestError(f"input '{name}' is there twice")
    if datatype != spec.datatype:
        raise BadRequestError(
            f"input '{name}': datatype must be {spec.datatype}, not {datatype!r:.40}"
        )
    return spec


def find_missing(specs: Mapping[str, TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Raise a BadRequestError where an input of the model is not among ``feeds``."""
    if len(feeds) != len(specs):  # what is in `feeds` is in `specs`
        raise BadRequestError(f"missing input {_names(specs.keys() - feeds.keys())}")


def find_output(name: str, signature: Signature) -> None:
    """Raise a BadRequestError where the model has no output ``name``."""
    if name not in signature.outputs:
        known = _names(signature.outputs)
        raise BadRequestError(f"the model has no output {name!r:.80}; it has {known}")


def check_outputs_once(wanted: Sequence[WantedOutput]) -> None:
    """Raise a BadRequestError where an output is asked for twice."""
    if len({output.name for output in wanted}) != len(wanted):
        raise BadRequestError("an output is asked for twice")


def refuse_extensions(what: str, parameters: Mapping[str, object]) -> None:
    """Raise a BadRequestError where ``parameters`` ask for what would change the answer's meaning.

    Unknown parameters are ignored, as the protocol wants it; these two are known, and not had.
    """
    for name in parameters:
        if name == "classification" or name.startswith("shared_memory_"):
            raise BadRequestError(f"{what}: this server does not have the extension '{name}'")


def _may_hold_booleans(body: bytes, json_bytes: int | None) -> bool:
    """Tell whether values need a look one by one: `struct` takes a boolean for a number."""
    return body.find(b"true", 0, json_bytes) >= 0 or body.find(b"false", 0, json_bytes) >= 0


def _read_raw_input(body: bytes, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """Return the one input whose bytes are the whole body."""
    if len(specs) != 1:
        raise BadRequestError(f"a raw body is one input; the model has {len(specs)}")
    ((name, spec),) = specs.items()
    raw = memoryview(body)
    if spec.datatype == "BYTES":
        raw = memoryview(frame_bytes(body))
    return {name: decode_binary(spec, guess_shape(spec, len(body)), raw)}


def _split(body: bytes, json_bytes: int | None) -> tuple[dict[str, Any], memoryview | None]:
    if json_bytes is None:
        return parse_object(body), None
    if not 0 < json_bytes <= len(body):
        raise BadRequestError(
            f"Inference-Header-Content-Length is {json_bytes}, the body has {len(body)} bytes"
        )
    return parse_object(body[:json_bytes]), memoryview(body)[json_bytes:]


def _read_inputs(
    tensors: object,
    raw: memoryview | None,
    specs: Mapping[str, TensorSpec],
    booleans: bool,  # noqa: FBT001 - private, one caller
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
        spec = find_input(name, tensor.get("datatype"), specs, feeds)
        parameters = _read_parameters(tensor)
        refuse_extensions(f"input '{name}'", parameters)
        shape = check_shape(spec, tensor.get("shape"), symbols)
        size = parameters.get("binary_data_size")
        if size is None:
            feeds[name] = decode_json(spec, shape, tensor.get("data"), booleans=booleans)
        else:
            chunk = _cut(name, raw, at, size)
            feeds[name] = decode_binary(spec, shape, chunk)
            at += len(chunk)
    find_missing(specs, feeds)
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


def _read_outputs(tensors: object, signature: Signature, *, binary: bool) -> WantedOutputs:
    if tensors is None or tensors == []:
        return signature.want_all(binary=binary)
    if not isinstance(tensors, list):
        raise BadRequestError("'outputs' must be a list")
    wanted: list[WantedOutput] = []
    for tensor in tensors:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str):
            raise BadRequestError("every output must be an object with a 'name'")
        find_output(name, signature)
        refuse_extensions(f"output '{name}'", _read_parameters(tensor))
        own = _read_flag(tensor, "binary_data")
        wanted.append(WantedOutput(name, binary if own is None else own))
    check_outputs_once(wanted)
    return signature.want(wanted)


def read_timeout(value: object) -> float | None:
    """Return the parameter `timeout`, microseconds, as seconds; None where it says nothing.

    Source: Triton, `extension_parameters.md`; 0 is no timeout there, too.

    Raises:
        BadRequestError: It is no count of microseconds.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRequestError("'timeout' must be a whole number of microseconds")
    return value / 1e6 or None


def _read_flag(holder: dict[str, Any], name: str) -> bool | None:
    value = _read_parameter(holder, name)
    if value is None or isinstance(value, bool):
        return value
    raise BadRequestError(f"'{name}' must be true or false")


def _read_parameter(holder: dict[str, Any], name: str) -> object:
    return _read_parameters(holder).get(name)


def _read_parameters(holder: dict[str, Any]) -> Mapping[str, object]:
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise BadRequestError("'parameters' must be an object")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):  # a boolean is an integer
            raise BadRequestError(f"parameter {name!r:.80} must be text, a number or a boolean")
    return parameters


def _names(names: Mapping[str, object] | set[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in sorted(names))
    return listed if len(listed) <= _NAMES_LIMIT else f"{listed[:_NAMES_LIMIT]}..."
