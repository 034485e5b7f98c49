"""One loaded model: opened by its runtime, warmed up, described as plain data.

- Which runtime it is hangs on the variant; whoever uses a session cannot tell.
- What needs a GPU is tried in a child before it is loaded here (`runtimes.trial`).
- The warm-up runs the shapes that the publisher calls the usual ones, where he does.
- A warm-up that fails does not fail the load: its inputs are made up, and a model may rightly
  refuse them. The agent's self-test, on samples of the publisher's, is what judges a model.

Everything here blocks; `lane.py` and `catalog.py` call it in threads.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from linnet_server.errors import BadRequestError, ModelFailedError, NoMemoryError, NotOnnxError
from linnet_server.memory import trim
from linnet_server.protocol import Signature
from linnet_server.runtimes.hints import read_hints
from linnet_server.runtimes.interface import ModelFile, OpenedModel, generate_examples
from linnet_server.runtimes.onnxruntime import open_onnx
from linnet_server.runtimes.targets import Target, read_variant
from linnet_server.runtimes.trial import try_out
from linnet_server.tensors import Array

log = logging.getLogger(__name__)

DEFAULT_CACHE: Final = Path("/var/cache/linnet")

_WARM_UP_RUNS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class WarmUp:
    """What the first runs showed.

    Attributes:
        best_s: The fastest run.
        elements: How many elements its inputs held.
    """

    best_s: float
    elements: int


class Session:
    """A loaded model. Runs may overlap; one that is under way outlives a `close`."""

    def __init__(self, opened: OpenedModel, examples: Mapping[str, Array]) -> None:
        self._opened: OpenedModel | None = opened
        self._examples = examples
        self.platform: Final = opened.platform
        self.signature: Final[Signature] = opened.signature

    def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any = None,  # noqa: ANN401 - onnxruntime has no types
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``, which fit the model's inputs.

        Raises:
            ModelFailedError: The runtime raised.
            BadRequestError: A shape is beyond what the model was built for.
        """
        assert self._opened is not None
        return self._opened.run(feeds, names, options)

    def warm_up(self) -> WarmUp | None:
        """Run the model on made-up inputs; None where it refused them."""
        feeds, best_s = self._examples, float("inf")
        try:
            for _ in range(_WARM_UP_RUNS):
                started_at = time.perf_counter()
                self.run(feeds, list(self.signature.outputs))
                best_s = min(best_s, time.perf_counter() - started_at)
        except (ModelFailedError, BadRequestError) as exc:
            log.warning("server.warm_up.refused", extra={"reason": str(exc)})
            return None
        return WarmUp(best_s, sum(array.size for array in feeds.values()))

    def close(self) -> None:
        """Free the model, once its last run has ended; the system gets the memory back."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        trim()


def load_session(
    path: Path,
    *,
    variant: str,
    threads: int,
    digest: str | None = None,
    cache: Path = DEFAULT_CACHE,
) -> Session:
    """Return the model at ``path``, loaded and not yet warmed up.

    Args:
        path: The real path of the file, no link.
        variant: The variant's name in the artifact: it says what the model runs on.
        threads: Threads of one run.
        digest: What names its bytes and those of its external data; hashed where nobody says and
            a GPU asks.
        cache: Where engines are kept that are built for this node's GPU.

    Raises:
        NotOnnxError: It is no ONNX file.
        WrongVariantError: It needs a GPU or a runtime that this node has not.
        LoadFailedError: The runtime cannot load it, the protocol cannot carry its tensors, or what
            the publisher says about running it cannot be read.
        BudgetExceededError: Memory or time ran out where it was tried.
        NoMemoryError: Its inputs do not fit.
        EngineCacheError: What is built from it cannot be kept.
    """
    if path.suffix != ".onnx":
        raise NotOnnxError(f"{path.name} is not an ONNX file")
    target = read_variant(variant)
    on_cpu = target is Target.CPU
    model = ModelFile(
        path=path,
        digest=digest or ("" if on_cpu else _hash(path)),
        target=target,
        threads=threads,
        hints=read_hints(path.parent),
        cache=cache,
    )
    opened = _open(model)
    try:
        return Session(opened, generate_examples(opened.signature, model.hints))
    except (MemoryError, ValueError) as exc:
        opened.close()
        raise NoMemoryError(f"inputs of its shapes do not fit into memory: {exc}") from exc


def _open(model: ModelFile) -> OpenedModel:
    if model.target is Target.CPU:
        return open_onnx(model)
    found = try_out(model)
    if model.target is not Target.TENSORRT:
        return open_onnx(model)
    from linnet_server.runtimes.tensorrt import open_engine  # noqa: PLC0415 - for GPUs only

    return open_engine(Path(found["plan"]), sha256=found["sha256"])


def _hash(path: Path) -> str:
    """Return a digest of the file, and of those beside it that it names: its external data."""
    raw = path.read_bytes()
    beside = (one for one in path.parent.iterdir() if one != path and one.is_file())
    named = [one for one in sorted(beside) if one.name.encode() in raw]
    digest = hashlib.sha256(hashlib.sha256(raw).digest())
    for one in named:
        with one.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
