"""Bare models, for use without an agent: files or directories that nothing has verified.

- A directory is served by the rule of an artifact: its only `.onnx` file, else `model.onnx`.
- What cannot be found is said before the server listens.
- Revision and digest are `unverified`, in every answer and every metric.
"""

from collections.abc import Mapping
from pathlib import Path

import pydantic

from linnet_server.records import RevisionFiles, ServingRecord

UNVERIFIED = "unverified"


class ModelPathError(Exception):
    """There is no model where one was said to be."""


def find_models(models: Mapping[str, Path], *, variant: str, threads: int) -> list[RevisionFiles]:
    """Return a revision for each bare model, by its name.

    Args:
        models: Name to file or directory.
        variant: What all of them run on.
        threads: Threads of one run.

    Raises:
        ModelPathError: One is not there, or has a name that cannot be served.
    """
    return [
        RevisionFiles(_record(name, variant=variant, threads=threads), find_onnx(path).resolve())
        for name, path in sorted(models.items())
    ]


def find_onnx(path: Path) -> Path:
    """Return the ONNX file that ``path`` is, or that lies in it.

    Raises:
        ModelPathError: There is none, or nobody can tell which.
    """
    if path.is_dir():
        there = sorted(path.glob("*.onnx"))
        named = path / "model.onnx"
        if len(there) != 1 and named not in there:
            if not there:
                raise ModelPathError(
                    f"{path} has no .onnx file: name the file itself, or the directory it lies in"
                )
            raise ModelPathError(
                f"{path} has {len(there)} .onnx files, and none is model.onnx: name the file itself"
            )
        return there[0] if len(there) == 1 else named
    if not path.is_file():
        raise ModelPathError(f"{path} is not there: --model takes NAME=PATH of a file or directory")
    if path.suffix != ".onnx":
        raise ModelPathError(f"{path} is no .onnx file: only those are served")
    return path


def _record(name: str, *, variant: str, threads: int) -> ServingRecord:
    try:
        return ServingRecord(
            namespace=UNVERIFIED,
            deployment=name,
            revision=UNVERIFIED,
            number=1,
            model_digest=UNVERIFIED,
            serving_name=name,
            variant=variant,
            threads=threads,
        )
    except pydantic.ValidationError as exc:
        raise ModelPathError(
            f"a model cannot be named {name!r}: take letters, digits, '.', '_', ':' and '-'"
        ) from exc
