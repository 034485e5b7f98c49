"""Which of an artifact's variants a node takes: the deployment's order, the node's abilities."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this node can run."""

    arch: str
    """As OCI writes it: ``amd64``, ``arm64``."""
    runtimes: frozenset[str]
    """First part of a variant's name: ``onnx`` runs ``onnx`` and ``onnx-int8``."""
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
