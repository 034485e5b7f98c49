"""The little of CUDA that TensorRT needs: which GPU is there, memory on it, copies, streams.

- No GPU, no driver or no bindings is said in a sentence, never with a traceback: it is a fact
  about the node.
- Every call returns its error first (`cuda.bindings.runtime`, CUDA 12 and 13); `checked` turns it
  into an exception.
"""

import dataclasses
import importlib
from typing import Any, Final

from linnet_server.errors import WrongVariantError

_NO_BINDINGS: Final = "the Python package cuda-bindings is not installed beside the server"


class CudaError(Exception):
    """A call of CUDA failed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that this process uses: the first one that it is shown."""

    name: str
    sm: str
    """Compute capability, such as ``8.7``."""
    driver: int
    """Newest CUDA that the driver knows, as ``1000 * major + 10 * minor``."""
    runtime: int


def load_runtime() -> Any:  # noqa: ANN401 - cuda-bindings is optional and has no types here
    """Return the module that the calls are in.

    Raises:
        WrongVariantError: It is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as exc:
        raise WrongVariantError(f"{_NO_BINDINGS} ({exc})") from exc


def read_gpu(cuda: Any) -> Gpu:  # noqa: ANN401 - cuda-bindings has no types here
    """Return the GPU of this process.

    Raises:
        WrongVariantError: There is none, or its driver does not fit.
    """
    try:
        count = checked(cuda, cuda.cudaGetDeviceCount())
        if count < 1:
            raise WrongVariantError("this node shows the server no NVIDIA GPU")
        attribute = cuda.cudaDeviceAttr
        major, minor = (
            checked(cuda, cuda.cudaDeviceGetAttribute(what, 0))
            for what in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return Gpu(
            name=_text(checked(cuda, cuda.cudaGetDeviceProperties(0)).name),
            sm=f"{major}.{minor}",
            driver=checked(cuda, cuda.cudaDriverGetVersion()),
            runtime=checked(cuda, cuda.cudaRuntimeGetVersion()),
        )
    except CudaError as exc:
        raise WrongVariantError(f"this node shows the server no NVIDIA GPU: {exc}") from exc


def checked(cuda: Any, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401 - as CUDA's own
    """Return what a call gave beside its error; None where that is nothing.

    Raises:
        CudaError: It failed.
    """
    error, *values = answer
    if int(error) != 0:
        raise CudaError(f"{_text(cuda.cudaGetErrorString(error)[1])} (CUDA error {int(error)})")
    return values[0] if values else None


class Stream:
    """A queue of work on the GPU, and the buffers of what is in it."""

    def __init__(self, cuda: Any) -> None:  # noqa: ANN401 - cuda-bindings has no types here
        self._cuda = cuda
        self._native = checked(cuda, cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self._native)

    def buffer(self, name: str, size_bytes: int) -> int:
        """Return the address of at least ``size_bytes`` on the GPU; it stays until one is larger.

        An empty tensor has an address, too: TensorRT takes no null.
        """
        size_bytes = max(size_bytes, 1)
        address, held = self._buffers.get(name, (0, 0))
        if held < size_bytes:
            if address:
                del self._buffers[name]
                checked(self._cuda, self._cuda.cudaFree(address))
            address = int(checked(self._cuda, self._cuda.cudaMalloc(size_bytes)))
            self._buffers[name] = address, size_bytes
        return address

    def upload(self, address: int, host: int, size_bytes: int) -> None:
        """Copy ``size_bytes`` from the host to the GPU, in turn."""
        self._copy(address, host, size_bytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, host: int, address: int, size_bytes: int) -> None:
        """Copy ``size_bytes`` from the GPU to the host, in turn."""
        self._copy(host, address, size_bytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def wait(self) -> None:
        """Return when all that is in the stream is done."""
        checked(self._cuda, self._cuda.cudaStreamSynchronize(self._native))

    def close(self) -> None:
        """Free its memory; errors have nobody to go to."""
        for address, _ in self._buffers.values():
            self._cuda.cudaFree(address)
        self._buffers.clear()
        self._cuda.cudaStreamDestroy(self._native)

    def _copy(self, to: int, source: int, size_bytes: int, kind: object) -> None:
        if size_bytes:
            copy = self._cuda.cudaMemcpyAsync(to, source, size_bytes, kind, self._native)
            checked(self._cuda, copy)


def _text(value: bytes | str) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text.rstrip("\0")
