"""What the agent has put on disk: which revision of which deployment, and where its files are.

- The server reads `models/<namespace>/<deployment>/current/serving.json` and the directory that
  `model` points to; it writes neither.
- A revision is loaded from its real path, never through `current`: a swap of the link cannot change
  files under a session, and ONNX Runtime refuses external data behind a link out of the model's
  directory.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import pydantic
from pydantic.alias_generators import to_camel

from linnet_server.errors import InvalidOrderError

CURRENT: Final = "current"

_Word = Annotated[str, pydantic.Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")]
_FileName = Annotated[
    str, pydantic.Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$", max_length=255)
]


class ServingRecord(pydantic.BaseModel):
    """`serving.json`: what the agent says about one revision."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    namespace: _Word
    deployment: _Word
    revision: _Word
    number: int = pydantic.Field(ge=0)
    model_digest: _Word
    artifact_digest: str = ""
    serving_name: _Word
    runtime: str = "Linnet"
    threads: int = pydantic.Field(default=1, ge=1, le=1024)
    instances: int = pydantic.Field(default=1, ge=1, le=1024)
    variant: str = "onnx"
    file: _FileName = "model.onnx"

    @property
    def is_served_here(self) -> bool:
        """Whether this server runs the model: not where a program of the user's own has it."""
        return self.runtime != "Files"

    @property
    def key(self) -> "DeploymentKey":
        """The deployment that the revision belongs to."""
        return DeploymentKey(self.namespace, self.deployment)

    @property
    def names(self) -> tuple[str, str]:
        """The names that clients may use."""
        return self.serving_name, f"{self.namespace}.{self.serving_name}"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class DeploymentKey:
    """A deployment on this node."""

    namespace: str
    deployment: str


@dataclasses.dataclass(frozen=True, slots=True)
class RevisionFiles:
    """One revision, ready to be loaded."""

    record: ServingRecord
    model_path: Path


def list_current(root: Path) -> Iterator[tuple[DeploymentKey, Path]]:
    """Yield every deployment below ``root`` that has a `current`, and that link, in order."""
    for link in sorted((root / "models").glob(f"*/*/{CURRENT}")):
        yield DeploymentKey(link.parent.parent.name, link.parent.name), link


def read_revision(root: Path, key: DeploymentKey, directory: Path) -> RevisionFiles:
    """Return the revision in ``directory``, which may be the link `current`.

    Raises:
        InvalidOrderError: It is not a revision of ``key`` below ``root``, or cannot be read.
    """
    revisions = root / "models" / key.namespace / key.deployment / "revisions"
    try:
        real = directory.resolve(strict=True)
        if real.parent != revisions.resolve(strict=True):
            raise InvalidOrderError(f"{directory} is not a directory in {revisions}")
        record = ServingRecord.model_validate_json((real / "serving.json").read_bytes())
        model = (real / "model").resolve(strict=True)
        model_path = (model / record.file).resolve(strict=True)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidOrderError(f"{directory}/serving.json: {where}: {first['msg']}") from exc
    except OSError as exc:
        raise InvalidOrderError(f"{exc.filename or directory}: {exc.strerror}") from exc
    except (ValueError, RuntimeError) as exc:  # a null byte; a loop of links
        raise InvalidOrderError(f"{str(directory)!r:.200}: {exc}") from exc
    if record.key != key or record.revision != real.name:
        raise InvalidOrderError(
            f"{directory}/serving.json speaks of {record.namespace}/{record.deployment} "
            f"revision {record.revision}"
        )
    if model.parent != (root / "store").resolve() or not model_path.is_relative_to(model):
        raise InvalidOrderError(f"{directory}/model does not lead into {root}/store")
    return RevisionFiles(record, model_path)
