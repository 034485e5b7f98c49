"""Where the signatures of a directory or a file lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

MAX_BUNDLES: Final = 16


def bundle_path(model_path: Path) -> Path:
    """Return where the bundle of a model lies unless told otherwise: beside it."""
    resolved = model_path.resolve()
    return resolved.with_name(resolved.name + ".sigstore.json")


def grant_path(model_path: Path) -> Path:
    """Return where a grant for a model lies unless told otherwise: beside it."""
    resolved = model_path.resolve()
    return resolved.with_name(resolved.name + ".grant.sigstore.json")


def find_bundles(model: Path, named: Sequence[Path] | None) -> tuple[list[bytes], set[str]]:
    """Return the bundles of a directory or file, and which of its files they are.

    Args:
        model: The directory or file.
        named: Their files; None or empty: the one beside it, else ``model.sig`` and so on in it.

    Raises:
        OSError: One cannot be read.
    """
    paths = list(named or ())
    if not paths:
        beside = bundle_path(model)
        inner = ["model.sig", *(f"model.{number}.sig" for number in range(2, MAX_BUNDLES + 1))]
        found = [model / name for name in inner if (model / name).is_file()]
        paths = [beside] if beside.exists() else found
    root = model.resolve()
    inside = {
        path.resolve().relative_to(root).as_posix()
        for path in paths
        if model.is_dir() and path.resolve().is_relative_to(root)
    }
    return [path.read_bytes() for path in paths], inside


def count_bundles(bundles: Sequence[bytes]) -> str:
    """Return how many there are, in words."""
    return "1 bundle" if len(bundles) == 1 else f"{len(bundles)} bundles"
