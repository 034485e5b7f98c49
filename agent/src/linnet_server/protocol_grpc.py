"""The messages of the Open Inference Protocol v2, gRPC: read a request, write its answer.

- Whatever is wrong with a request is a BadRequestError with a sentence, before the runtime sees
  anything.
- Tensors come raw (`raw_input_contents`, one for each input) or typed (`contents`), never both in
  one request; they go out raw, which is what clients read fastest.
- FP16 comes raw only: the protocol has no typed field for it.
- Pure: no sockets, no sessions, no clock.

Source: Open Inference Protocol v2, `inference_grpc.md`, "Tensor Data".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from linnet_server.errors import BadRequestError
from linnet_server.inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)
from linnet_server.protocol import (
    InferRequest,
    Signature,
    WantedOutput,
    WantedOutputs,
    check_outputs_once,
    find_input,
    find_missing,
    find_output,
    read_id,
    read_timeout,
    refuse_extensions,
)
from linnet_server.tensors import (
    Array,
    TensorSpec,
    check_shape,
    decode_binary,
    decode_typed,
    encode_binary,
    total_elements,
)

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def parse_infer_message(message: ModelInferRequest, signature: Signature) -> InferRequest:
    """Return the request in ``message``.

    Raises:
        BadRequestError: It does not fit the model.
    """
    feeds = _read_inputs(message, signature.inputs)
    return InferRequest(
        read_id(message.id),
        feeds,
        _read_outputs(message.outputs, signature),
        total_elements(feeds.values()),
        _read_timeout(message),
    )


def _read_timeout(message: ModelInferRequest) -> float | None:
    if "timeout" not in message.parameters:
        return None
    parameter = message.parameters["timeout"]
    return read_timeout(getattr(parameter, parameter.WhichOneof("parameter_choice") or "", ""))


def render_infer_message(
    head: Mapping[str, Any],
    *,
    request_id: str,
    signature: Signature,
    wanted: WantedOutputs,
    arrays: Sequence[Array],
) -> ModelInferResponse:
    """Return the message that answers a request; the arguments are those of ``render_infer``."""
    answer = ModelInferResponse(
        model_name=head["model_name"], model_version=head["model_version"], id=request_id
    )
    for name, text in head["parameters"].items():
        answer.parameters[name].string_param = text
    for output, array in zip(wanted.outputs, arrays, strict=True):
        answer.outputs.add(
            name=output.name, datatype=signature.outputs[output.name].datatype, shape=array.shape
        )
        answer.raw_output_contents.append(encode_binary(array))
    return answer


def render_metadata_message(metadata: Mapping[str, Any]) -> ModelMetadataResponse:
    """Return a model's metadata, as REST says it, as a message."""
    answer = ModelMetadataResponse(
        name=metadata["name"], versions=metadata["versions"], platform=metadata["platform"]
    )
    for tensors, field in (
        (metadata["inputs"], answer.inputs),
        (metadata["outputs"], answer.outputs),
    ):
        for tensor in tensors:
            field.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return answer


def _read_inputs(message: ModelInferRequest, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequestError(
            f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs: all inputs are raw, "
            "or none is"
        )
    feeds: dict[str, Array] = {}
    symbols: dict[str, int] = {}
    for position, tensor in enumerate(message.inputs):
        spec = find_input(tensor.name, tensor.datatype, specs, feeds)
        refuse_extensions(f"input '{tensor.name}'", tensor.parameters)
        shape = check_shape(spec, list(tensor.shape), symbols)
        if not raw:
            feeds[tensor.name] = _read_contents(spec, shape, tensor.contents)
        elif tensor.HasField("contents"):
            raise BadRequestError(f"input '{tensor.name}' has contents and raw_input_contents")
        else:
            feeds[tensor.name] = decode_binary(spec, shape, memoryview(raw[position]))
    find_missing(specs, feeds)
    return feeds


def _read_contents(
    spec: TensorSpec, shape: tuple[int, ...], contents: InferTensorContents
) -> Array:
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        raise BadRequestError(
            f"input '{spec.name}': {spec.datatype} has no typed contents; send raw_input_contents"
        )
    for other, _ in contents.ListFields():
        if other.name != field:
            raise BadRequestError(
                f"input '{spec.name}': {spec.datatype} belongs into {field}, not {other.name}"
            )
    return decode_typed(spec, shape, getattr(contents, field))


def _read_outputs(
    tensors: Sequence[ModelInferRequest.InferRequestedOutputTensor], signature: Signature
) -> WantedOutputs:
    if not tensors:
        return signature.want_all(binary=True)
    for tensor in tensors:
        find_output(tensor.name, signature)
        refuse_extensions(f"output '{tensor.name}'", tensor.parameters)
    wanted = [WantedOutput(tensor.name, binary=True) for tensor in tensors]
    check_outputs_once(wanted)
    return signature.want(wanted)
