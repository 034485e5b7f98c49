"""What can go wrong in the server, by whose fault it is.

::

    ServerError
    ├── ClientError            the client's fault: 4xx, outcome `rejected`
    │   ├── BadRequestError         400
    │   ├── NotFoundError           404
    │   ├── MethodNotAllowedError   405
    │   ├── UnauthorizedError       401
    │   ├── TooLargeError           413
    │   └── UnsupportedCodingError  415
    ├── ServingError           the model's or the server's fault: 5xx, outcome `failure`
    │   ├── ModelFailedError        500
    │   ├── NotReadyError           503, with Retry-After
    │   ├── OverloadedError         503, with Retry-After
    │   └── DeadlineExceededError   504
    └── ControlError           an order of the agent that cannot be carried out
        ├── LoadFailedError         422
        │   ├── LoadTimeoutError    422
        │   └── WrongHintsError     422
        ├── NoMemoryError           422
        ├── NotOnnxError            422
        ├── WrongVariantError       422
        ├── BudgetExceededError     422
        ├── EngineCacheError        422
        ├── ServingNameTakenError   422
        ├── InvalidOrderError       422
        └── NotStagedError          409

- Every error has a `status` for HTTP, a `reason` from a closed list and a `remedy` sentence.
- The reasons of a ControlError are words of `linnet_api.reasons.NodeReason`: the agent reports them
  as they are.
"""

from typing import ClassVar


class ServerError(Exception):
    """Something the server says no to."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "ServerError"
    remedy: ClassVar[str] = "See the server's log."
    retry_after_s: ClassVar[int] = 0

    asked: tuple[tuple[bytes, bytes], ...] = ()
    """Headers that name the revision which was asked, where one was picked, or what is missing."""


class ClientError(ServerError):
    """The client's fault; it does not count against the model."""

    status = 400


class BadRequestError(ClientError):
    """The request does not fit the protocol or the model's metadata."""

    reason = "BadRequest"
    remedy = "Compare the request with GET /v2/models/{name}."


class NotFoundError(ClientError):
    """No such model, version, request id or path."""

    status = 404
    reason = "NotFound"
    remedy = "Models are served under their serving name and <namespace>.<serving name>."


class MethodNotAllowedError(ClientError):
    """The path exists, but not with this method."""

    status = 405
    reason = "MethodNotAllowed"
    remedy = "Infer and feedback are POST, all else is GET."


class TooLargeError(ClientError):
    """The body is larger than the server accepts."""

    status = 413
    reason = "TooLarge"
    remedy = "Send fewer rows at once, use binary tensors, or raise --max-body-bytes."


class UnauthorizedError(ClientError):
    """The address needs a token, and the request has none that is valid."""

    status = 401
    reason = "Unauthorized"
    asked: tuple[tuple[bytes, bytes], ...] = ((b"www-authenticate", b"Bearer"),)
    remedy = "Send `Authorization: Bearer <token>` with a token of --token-file."


class UnsupportedCodingError(ClientError):
    """The body has a content coding that the server does not read."""

    status = 415
    reason = "UnsupportedCoding"
    remedy = "Send it plain, or as gzip or deflate."


class ServingError(ServerError):
    """The model's or the server's fault; the judge counts it."""

    status = 503


class ModelFailedError(ServingError):
    """The runtime raised on a request that fits the model's metadata."""

    status = 500
    reason = "ModelFailed"
    remedy = (
        "The message is the runtime's; the model does not accept values that its metadata allows."
    )


class NotReadyError(ServingError):
    """The model is known, but loading or failed to load; or the server is stopping."""

    reason = "NotReady"
    remedy = "Try again; GET /control/models says why."
    retry_after_s = 1


class OverloadedError(ServingError):
    """The model's queue is full."""

    reason = "Overloaded"
    remedy = "Send less, or raise serving.instances or --max-queue."
    retry_after_s = 1


class DeadlineExceededError(ServingError):
    """The answer was not there in time."""

    status = 504
    reason = "DeadlineExceeded"
    remedy = "Send fewer rows at once, or raise --deadline-s."


class ControlError(ServerError):
    """An order of the agent that cannot be carried out; nothing has changed."""

    status = 422


class LoadFailedError(ControlError):
    """The runtime cannot load the model, or the protocol cannot carry its tensors."""

    reason = "LoadFailed"
    remedy = "Check that the file is whole; run it with the same onnxruntime where it was made."


class LoadTimeoutError(LoadFailedError):
    """The runtime was still loading when its time was over."""

    remedy = "Fold constants before you export, or raise --load-timeout-s."


class WrongHintsError(LoadFailedError):
    """What the publisher says about running the model cannot be read."""

    remedy = "Mend runtime.json beside the model, as docs/reference/server.md has it, or ship none."


class NoMemoryError(ControlError):
    """The model does not fit into memory beside what is there."""

    reason = "NoMemory"
    remedy = (
        "Give the node more memory; or allow some seconds of 503 by spec.swap: Replace of the "
        "deployment, and by --replace where no agent orders."
    )


class NotOnnxError(ControlError):
    """The file is not an ONNX file."""

    reason = "NotOnnx"
    remedy = (
        "Ship an .onnx file: engines are built from it on the node. Models of another kind need "
        "serving.runtime Files, and a program of your own."
    )


class WrongVariantError(ControlError):
    """The variant needs a GPU, or a runtime, that this node has not."""

    reason = "WrongVariant"
    remedy = (
        "Name a variant that this node can run, in spec.variants or by --variant for a bare model; "
        "or give it the GPU, its driver and the server's image for it."
    )


class BudgetExceededError(ControlError):
    """The trial of a model was ended where memory ran out, or its time."""

    reason = "BudgetExceeded"
    remedy = (
        "Free memory on the node, or ship less: a smaller workspaceBytes or optimizationLevel in "
        "runtime.json, or a smaller variant."
    )


class EngineCacheError(ControlError):
    """The directory for engines cannot be written or read."""

    reason = "DiskFault"
    remedy = "Free or mount the directory that --engine-cache names."


class ServingNameTakenError(ControlError):
    """Another deployment on this node serves, or has staged, the same name; it keeps it."""

    reason = "ServingNameTaken"
    remedy = "Give one of the two another spec.serving.name, or unload the other one."


class InvalidOrderError(ControlError):
    """The order names a directory that is no revision of that deployment in this server's root."""

    reason = "InvalidOrder"
    remedy = "Agent and server must share one root directory."


class NotStagedError(ControlError):
    """The revision to activate is not the staged one."""

    status = 409
    reason = "NotStaged"
    remedy = "PUT it to /staged first."
