"""Which of an artifact's variants a node takes: the deployment's order, the node's abilities.

- The deployment's order decides; among what it does not order, the index's order does.
- A node takes only what it can run: its architecture, a runtime and a device that it has, an
  accelerator that it has where the variant names one.
- An artifact that is no index is one variant: ``onnx``, where it does not say.
- Where nothing fits, the sentence says what there is, and why each does not fit.
"""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Final

from linnet_agent.errors import WrongVariantError
from linnet_agent.verify.manifest import Artifact, Index, Variant

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_DEVICES: Final = frozenset({"cuda", "tensorrt"})
_TOLD: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this node can run."""

    arch: str
    """As OCI writes it: ``amd64``, ``arm64``."""
    runtimes: frozenset[str]
    """As a variant's name begins: ``onnx`` runs ``onnx-int8``, but not ``onnx-cuda-fp16``."""
    accelerators: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantChoice:
    """What a node may choose from.

    Attributes:
        wanted: Names of variants, in the deployment's order; empty: whatever the artifact has.
        capabilities: What the node can run.
        any_runtime: True where a program of the user's own runs the files.
    """

    wanted: tuple[str, ...]
    capabilities: Capabilities
    any_runtime: bool = False


def read_capabilities() -> Capabilities:
    """Return what this machine can run."""
    machine = platform.machine()
    try:
        importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        runtimes: frozenset[str] = frozenset()
    else:
        runtimes = frozenset({"onnx"})
    return Capabilities(arch=_ARCHITECTURES.get(machine, machine), runtimes=runtimes)


def choose_variant(index: Index, *, accepts: VariantChoice) -> Variant:
    """Return the variant of ``index`` that the node takes.

    Raises:
        WrongVariantError: There is none.
    """
    able = [one for one in index.variants if _misfit(one, accepts) is None]
    for name in accepts.wanted or dict.fromkeys(one.name for one in able):
        if fitting := [one for one in able if one.name == name]:
            # What is made for this very node comes before what is made for any.
            return max(fitting, key=lambda one: (one.accelerator is not None, one.arch is not None))
    there = [f"{one.name} ({_misfit(one, accepts) or 'not asked for'})" for one in index.variants]
    raise WrongVariantError(_sentence(there, accepts))


def require_variant(artifact: Artifact, *, accepts: VariantChoice) -> None:
    """Check that an artifact that is no index is a variant that the node takes.

    Raises:
        WrongVariantError: It is not.
    """
    only = Variant(name=artifact.variant, digest=artifact.digest)
    if accepts.wanted and only.name not in accepts.wanted:
        raise WrongVariantError(_sentence([f"{only.name} (not asked for)"], accepts))
    if (fault := _misfit(only, accepts)) is not None:
        raise WrongVariantError(_sentence([f"{only.name} ({fault})"], accepts))


def runtime_of(name: str) -> str:
    """Return the runtime, and the device where it is no CPU, that a variant's name says."""
    runtime, _, rest = name.partition("-")
    device = rest.partition("-")[0]
    return f"{runtime}-{device}" if runtime == "onnx" and device in _DEVICES else runtime


def _misfit(variant: Variant, accepts: VariantChoice) -> str | None:
    """Return why the node cannot run a variant, or None where it can."""
    able = accepts.capabilities
    if variant.os not in {None, "linux"} or variant.arch not in {None, able.arch}:
        return f"for {variant.os}/{variant.arch}"
    if variant.accelerator is not None and variant.accelerator not in able.accelerators:
        return f"needs {variant.accelerator}"
    runtime = runtime_of(variant.name)
    if not accepts.any_runtime and runtime not in able.runtimes:
        return f"needs the runtime {runtime}"
    return None


def _sentence(there: list[str], accepts: VariantChoice) -> str:
    rest = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
    asked = ", ".join(accepts.wanted) or "any"
    return (
        f"the artifact has {', '.join(there[:_TOLD])}{rest}; asked for is {asked}, on a node of "
        f"{accepts.capabilities.arch}"
    )
