"""What is on the node's disk: models by digest; of each deployment its revisions and `current`.

- A model lies in ``store/<sha256>`` only when it is complete: it is fetched into ``staging/`` and
  renamed in.
- ``current`` flips files and metadata in one rename: it points to a revision's directory, which
  holds ``serving.json`` and a link ``model`` into the store.
- What a revision was allowed on (manifest and signature bundles) is kept beside it, to be judged
  again without a network.
- Nothing that a link, a journal or an order names is evicted.
- What cannot be read is not taken for gone: only a file that is not there, is not what it should
  be, or lies on a bad block makes a revision incomplete. All else is a fault of the moment.
- A disk that says EIO is asked once more: a bus that was reset answers then, a bad block does not.
"""

import dataclasses
import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import pydantic
from pydantic.alias_generators import to_camel

from linnet_agent.durable import (
    make_directory,
    move_directory,
    remove_directory,
    remove_file,
    swap_link,
    sweep,
    sync_directory,
    temporary_directory,
    write_file,
)
from linnet_agent.errors import NotOnnxError
from linnet_agent.journal import (
    Condemned,
    Journal,
    condemned_from_json,
    condemned_to_json,
    from_json,
    to_json,
)
from linnet_agent.room import Lot
from linnet_agent.verify.evidence import decode_evidence, encode_evidence
from linnet_agent.verify.manifest import Artifact

log = logging.getLogger(__name__)

T = TypeVar("T")

Checkpoint = Callable[[str], None]
"""Called with the name of a step that has just been done; tests kill the process in it."""

CURRENT: Final = "current"
PREVIOUS: Final = "previous"

_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EIO})
"""A record that fails so will not be there the next time either; EIO is a bad block."""


def no_checkpoint(_name: str) -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """A deployment on this node."""

    namespace: str
    deployment: str

    def __str__(self) -> str:
        """Return ``namespace.deployment``; a namespace has no dot, so it can be read back."""
        return f"{self.namespace}.{self.deployment}"


class ServingRecord(pydantic.BaseModel):
    """``serving.json``: what the server needs to know about a revision."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    namespace: str
    deployment: str
    revision: str
    number: int
    model_digest: str
    artifact_digest: str
    serving_name: str
    runtime: str = "Linnet"
    threads: int = 1
    instances: int = 1
    variant: str = "onnx"
    file: str = "model.onnx"


class Store:
    """The node's directory."""

    def __init__(self, root: Path, *, checkpoint: Checkpoint = no_checkpoint) -> None:
        self.root = root.absolute()
        self.checkpoint = checkpoint
        self._models = self.root / "models"
        self._store = self.root / "store"
        self._staging = self.root / "staging"
        self.corrupt: dict[str, str] = {}
        """Model digests whose files are not what was verified, and what is wrong with them."""

    def prepare(self) -> None:
        """Make the directories, and remove what a kill has left half done."""
        for name in ("store", "staging", "models", "trust", "desired", "results", "run"):
            make_directory(self.root / name)
        for directory in (self.root / "trust", self.root / "desired", self._store):
            sweep(directory)
        for model in self.list_models():
            sweep(model.path)
            sweep(model.path / "revisions")

    def model(self, key: ModelKey) -> "ModelDirectory":
        """Return the directory of a deployment; it need not be there yet."""
        return ModelDirectory(self, key)

    def list_models(self) -> list["ModelDirectory"]:
        """Return all deployments that this node has a directory for, in order."""
        return [
            self.model(ModelKey(namespace.name, path.name))
            for namespace in _list(self._models)
            for path in _list(namespace)
            if path.is_dir()
        ]

    def staging_directory(self, artifact: str) -> Path:
        """Return where an artifact's files are gathered; what is there is used again."""
        return self._staging / artifact.removeprefix("sha256:")

    def path_of(self, model_digest: str) -> Path:
        """Return where a model's files lie when they are complete."""
        return self._store / model_digest.removeprefix("sha256:")

    def has(self, model_digest: str) -> bool:
        """Tell whether a model is there, complete."""
        return self.path_of(model_digest).is_dir()

    def admit(self, staged: Path, model_digest: str) -> None:
        """Move the complete, synced ``staged`` into the store; it replaces what is there."""
        move_directory(staged, self.path_of(model_digest))
        self.corrupt.pop(model_digest, None)
        self.checkpoint("admit.renamed")

    def evict_unused(self, *, staging: Iterable[str] = ()) -> None:
        """Remove models that no revision names, and staged files of none of ``staging``."""
        used = {
            name
            for model in self.list_models()
            for names in model.read_model_names().values()
            for name in names
        }
        for path in _list(self._store, hidden=True):
            if path.name not in used:
                remove_directory(path)
                self.checkpoint("evict.model")
        wanted = {self.staging_directory(artifact).name for artifact in staging}
        for path in _list(self._staging, hidden=True):
            if path.name not in wanted:
                remove_directory(path)

    def list_lots(
        self, pinned: Mapping[ModelKey, frozenset[str]], *, staging: Iterable[str]
    ) -> list[Lot]:
        """Return what takes room: models, and files that are being fetched.

        Args:
            pinned: The revisions of each deployment that stay; one that is not here stays whole.
            staging: Artifacts whose staged files stay.
        """
        named: set[str] = set()
        for model in self.list_models():
            links = {model.read_current(), model.read_previous()}
            keep = pinned.get(model.key)
            for revision, names in model.read_model_names().items():
                if keep is None or revision in keep or revision in links:
                    named |= names
        wanted = {self.staging_directory(artifact).name for artifact in staging}
        models = [_lot(path, pinned=path.name in named) for path in _list(self._store)]
        staged = [_lot(path, pinned=path.name in wanted) for path in _list(self._staging)]
        return models + staged

    def drop_lot(self, lot: Lot) -> None:
        """Remove what ``list_lots`` named, and the revisions that stand for it."""
        path = self.root / lot.name
        if path.parent == self._store:
            for model in self.list_models():
                model.drop_revisions_of(path.name)
        remove_directory(path)
        self.checkpoint("evict.lot")


class ModelDirectory:
    """One deployment on the disk."""

    def __init__(self, store: Store, key: ModelKey) -> None:
        self.key = key
        self.path = store.root / "models" / key.namespace / key.deployment
        self._revisions = self.path / "revisions"
        self._store = store
        self._condemned: tuple[Condemned, ...] | None = None

    # --- journal

    def read_journal(self) -> Journal | None:
        """Return the journal; None where there is none. One that cannot be read is set aside.

        Raises:
            ValueError: It could not be read; it is set aside as ``journal.json.broken``.
        """
        path = self.path / "journal.json"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            journal = from_json(raw)
        except ValueError:
            path.replace(path.with_name("journal.json.broken"))
            raise
        return dataclasses.replace(journal, condemned=self.read_condemned())

    def read_condemned(self) -> tuple[Condemned, ...]:
        """Return what was taken back here; nothing where the file is not there, or rotten."""
        try:
            self._condemned = condemned_from_json((self.path / "condemned.json").read_bytes())
        except (FileNotFoundError, ValueError):
            self._condemned = ()
        return self._condemned

    def write_journal(self, journal: Journal) -> None:
        """Write the journal durably; what it condemns first."""
        make_directory(self.path)
        if self._condemned is None:
            self.read_condemned()
        if journal.condemned != self._condemned:
            write_file(self.path / "condemned.json", condemned_to_json(journal.condemned))
            self._condemned = journal.condemned
        write_file(self.path / "journal.json", to_json(journal))

    # --- revisions

    def revision_path(self, revision: str) -> Path:
        """Return the directory of a revision."""
        return self._revisions / revision

    def read_records(self) -> dict[str, ServingRecord]:
        """Return the revisions that are complete on disk, with their model in the store."""
        return {
            revision: record
            for revision, record in self.read_all_records().items()
            if self._store.has(record.model_digest)
        }

    def read_all_records(self) -> dict[str, ServingRecord]:
        """Return the revisions that have a directory, whether or not their model is there."""
        records = (self._read_record(path) for path in _list(self._revisions))
        return {record.revision: record for record in records if record is not None}

    def read_model_names(self) -> dict[str, set[str]]:
        """Return the names, in the store, of the models that each revision stands for.

        The link says it, too, where ``serving.json`` cannot be read.
        """
        found: dict[str, set[str]] = {}
        for path in _list(self._revisions):
            names = found.setdefault(path.name, set())
            record = self._read_record(path)
            if record is not None:
                names.add(record.model_digest.removeprefix("sha256:"))
            if (path / "model").is_symlink():
                names.add((path / "model").readlink().name)
        return found

    def drop_revisions_of(self, model: str) -> None:
        """Remove the revisions that stand for a model of the store."""
        for revision, names in self.read_model_names().items():
            if model in names:
                remove_directory(self.revision_path(revision))

    def add_revision(self, record: ServingRecord, artifact: Artifact) -> None:
        """Write a revision's directory; its model is in the store."""
        place = self.revision_path(record.revision)
        make_directory(self._revisions)
        fresh = temporary_directory(place)
        write_file(fresh / "serving.json", record.model_dump_json(by_alias=True).encode())
        write_file(fresh / "evidence.json", encode_evidence(artifact))
        model = self._store.path_of(record.model_digest)
        (fresh / "model").symlink_to(f"../../../../../store/{model.name}")
        sync_directory(fresh)
        self._store.checkpoint("revision.written")
        if place.exists():
            remove_directory(place)
        fresh.rename(place)
        sync_directory(self._revisions)
        self._store.checkpoint("revision.renamed")

    def read_evidence(self, revision: str) -> Artifact:
        """Return manifest and bundles that a revision was allowed on.

        Raises:
            OSError: There are none.
            ValueError: They cannot be read.
            AgentError: The manifest is not what it was.
        """
        return decode_evidence((self.revision_path(revision) / "evidence.json").read_bytes())

    def evict(self, keep: frozenset[str]) -> list[str]:
        """Remove revisions that are not in ``keep``; what a link names stays in any case."""
        sweep(self.path)
        sweep(self._revisions)
        keep = keep | {name for name in (self.read_current(), self.read_previous()) if name}
        gone = [path for path in _list(self._revisions) if path.name not in keep]
        for path in gone:
            remove_directory(path)
            self._store.checkpoint("evict.revision")
        return [path.name for path in gone]

    # --- links

    def read_current(self) -> str | None:
        """Return the revision that ``current`` names; None: none is active."""
        return self._read_link(CURRENT)

    def read_previous(self) -> str | None:
        """Return the revision that was current before."""
        return self._read_link(PREVIOUS)

    def swap(self, revision: str) -> None:
        """Make ``revision`` current, and what was current previous; it is complete on disk."""
        assert self._read_record(self.revision_path(revision)) is not None, revision
        old = self.read_current()
        if old == revision:
            return
        if old is not None:
            swap_link(self.path / PREVIOUS, f"revisions/{old}")
            self._store.checkpoint("swap.previous")
        swap_link(self.path / CURRENT, f"revisions/{revision}")
        self._store.checkpoint("swap.current")

    def clear_links(self) -> None:
        """Let nothing be active."""
        remove_file(self.path / CURRENT)
        self._store.checkpoint("clear.current")
        remove_file(self.path / PREVIOUS)

    def _read_link(self, name: str) -> str | None:
        try:
            return (self.path / name).readlink().name
        except FileNotFoundError:
            return None

    def _read_record(self, path: Path) -> ServingRecord | None:
        try:
            record = ServingRecord.model_validate_json(insist((path / "serving.json").read_bytes))
        except ValueError:
            return None
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            if error.errno == errno.EIO:
                log.warning("store.record.unreadable", extra={"cause": str(error)})
            return None
        return record if record.revision == path.name else None


def insist(read: Callable[[], T]) -> T:
    """Return what ``read`` returns, the second time where the disk said EIO the first."""
    try:
        return read()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        log.warning("store.read.again", extra={"cause": str(error)})
        return read()


def find_runnable(names: Iterable[str]) -> str:
    """Return the file that is run: the only ``*.onnx`` at the top level, else ``model.onnx``.

    Raises:
        NotOnnxError: There is no such file.
    """
    top = [name for name in names if "/" not in name and name.endswith(".onnx")]
    if len(top) == 1:
        return top[0]
    if "model.onnx" in top:
        return "model.onnx"
    found = ", ".join(sorted(top)) or "none"
    raise NotOnnxError(f"an artifact has one .onnx file at its top, or a model.onnx; found {found}")


def _list(directory: Path, *, hidden: bool = False) -> list[Path]:
    """Return what lies in ``directory``, in order; nothing where there is none."""
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in paths if hidden or not path.name.startswith(".")]


def _lot(path: Path, *, pinned: bool) -> Lot:
    files = [path, *path.rglob("*")]
    return Lot(
        name=f"{path.parent.name}/{path.name}",
        size_bytes=sum(file.lstat().st_blocks * 512 for file in files),
        used_at=path.lstat().st_mtime,
        pinned=pinned,
    )
