"""What a runtime opens, and what all that it opens can do."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from linnet_server.protocol import Signature
from linnet_server.runtimes.hints import Hints
from linnet_server.runtimes.targets import Target
from linnet_server.tensors import Array, generate_example

MESSAGE_LIMIT: Final = 600


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on the disk, and how it is to run.

    Attributes:
        path: The real path of the ONNX file, no link.
        digest: What names its bytes, and those of the files beside it: the key of a cache.
        target: What it runs on.
        threads: Threads of one run.
        hints: What its publisher says about running it.
        cache: Where what is derived from it may be kept; it need not be there yet.
    """

    path: Path
    digest: str
    target: Target
    threads: int
    hints: Hints
    cache: Path


class OpenedModel(Protocol):
    """A model that is loaded. Runs may overlap."""

    platform: str
    """The protocol's word for it."""
    signature: Signature

    def run(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        options: Any,  # noqa: ANN401 - onnxruntime has no types
    ) -> list[Array]:
        """Return the outputs ``names`` for ``feeds``, which fit the model's inputs.

        Args:
            feeds: One array for each input.
            names: The wanted outputs.
            options: ONNX Runtime's `RunOptions`, or None; other runtimes cannot be stopped midway.

        Raises:
            ModelFailedError: The runtime raised.
            BadRequestError: A shape is beyond what the model was built for.
        """

    def close(self) -> None:
        """Free it; no run is under way."""


def generate_examples(signature: Signature, hints: Hints) -> dict[str, Array]:
    """Return made-up inputs for a first run; where the publisher names shapes, of the best one."""
    specs = {
        name: dataclasses.replace(spec, shape=hints.profiles[name].opt)
        if name in hints.profiles
        else spec
        for name, spec in signature.inputs.items()
    }
    return {name: generate_example(spec) for name, spec in specs.items()}


def sentence(exc: Exception) -> str:
    """Return what a native library says, on one line and bounded."""
    return " ".join(str(exc).split())[:MESSAGE_LIMIT]
