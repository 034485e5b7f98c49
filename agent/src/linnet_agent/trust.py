"""The trust in force: the hub's TrustPolicies, kept on disk, and the node's own ceiling.

- Until the hub has answered, or the disk holds what it said, nothing is judged: an empty trust is
  not yet a refusal.
- A ceiling or a policy that cannot be read refuses every activation: it might have forbidden this
  one. What is active serves on.
- Without a ceiling the first policies that were seen are pinned, and after them what is surely
  narrower (pinning): a revocation that is taken back is looser than what was there. Any other
  change is reported as loosened, for good: a person clears it by removing ``trust/pinned.json``. So
  is a ceiling that has vanished (``trust/had-ceiling``).
- Trusted roots come from files that were provisioned with the machine, from the TUF repository
  that the node reads, and inline from policies; the hub's never stand in for the node's own.
- When the hub was heard last is kept on disk: a listing, a change, or a bookmark, which says that
  there was none. Trust that is older than a policy allows is stale: an alarm, never a stop.
"""

import hashlib
import json
import logging
import re
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pydantic

from linnet_agent.durable import write_file
from linnet_agent.errors import CeilingError
from linnet_agent.hub import Object
from linnet_agent.pinning import is_narrower
from linnet_agent.verify.ceiling import Ceiling, load_ceiling
from linnet_agent.verify.policy import policy_hash
from linnet_agent.verify.strict_json import parse_json_object
from linnet_agent.verify.voting import inline_roots
from linnet_api.durations import parse_duration
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

log = logging.getLogger(__name__)

Policies = Mapping[str, TrustPolicySpec]

_ADAPTER: Final = pydantic.TypeAdapter(dict[str, TrustPolicySpec])

DEFAULT_ROOTS: Final = Path("/etc/linnet/trust-roots")
TUF_ROOT: Final = "tuf"
"""Name of the trusted root that the node's TUF repository holds."""

_POLICIES: Final = "policies.json"
_PINNED: Final = "pinned.json"
_HAD_CEILING: Final = "had-ceiling"
_HEARD: Final = "heard"
_HEARD_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ\n"
_ROOT_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_MAX_ROOT_BYTES: Final = 1 << 20
_MAX_ROOTS: Final = 16
_HEARD_EVERY: Final = timedelta(hours=1)
"""So often is it written when the hub was heard; policies speak of days."""


class TrustStore:
    """What this node trusts."""

    def __init__(
        self,
        directory: Path,
        *,
        ceiling_file: Path,
        on_change: Callable[[], None],
        clock: Callable[[], datetime],
        roots_directory: Path = DEFAULT_ROOTS,
    ) -> None:
        """Say where what is trusted lies; nothing is read yet.

        Args:
            directory: The agent's own, ``trust/``.
            ceiling_file: The node's own policies, provisioned with the machine.
            on_change: Called when something else is trusted than before.
            clock: Known time.
            roots_directory: Trusted roots, provisioned with the machine: ``<name>.json``.
        """
        self._directory = directory
        self._clock = clock
        self._roots_directory = roots_directory
        self._node_roots: dict[str, bytes] = {}
        self._root_faults: dict[str, str] = {}
        self._tuf_root: bytes | None = None
        self._heard_at: datetime | None = None
        self._heard_on_disk: datetime | None = None
        self._ceiling_file = ceiling_file
        self._on_change = on_change
        self._policies: dict[str, TrustPolicySpec] = {}
        self._pinned: dict[str, TrustPolicySpec] | None = None
        self._pin_lost = False
        """What was pinned cannot be read: nobody can tell any more what was loosened."""
        self._had_ceiling = False
        self._ceiling: Ceiling | None = None
        self._ceiling_fault = ""
        self._unreadable: dict[str, str] = {}
        self.known = False
        """True once there is something to judge by."""
        self.loosened = False
        self._hash = ""

    @property
    def policies(self) -> Policies:
        """The hub's policies by name."""
        return self._policies

    @property
    def ceiling(self) -> Ceiling | None:
        """The node's own policies; None where it has none."""
        return self._ceiling

    @property
    def roots(self) -> Mapping[str, bytes]:
        """The trusted roots: the node's own by name, and what policies hold inline."""
        tuf = {} if self._tuf_root is None else {TUF_ROOT: self._tuf_root}
        limits = {} if self._ceiling is None else self._ceiling.policies
        inline = inline_roots([*self._policies.values(), *limits.values()])
        return {**tuf, **self._node_roots, **inline}

    @property
    def stale(self) -> bool:
        """True where the hub was not heard for longer than a policy allows: an alarm, no stop."""
        limits = {} if self._ceiling is None else self._ceiling.policies
        ages = [
            parse_duration(spec.freshness.max_trust_age)
            for spec in (*self._policies.values(), *limits.values())
            if spec.freshness.max_trust_age is not None
        ]
        if not ages:
            return False
        if self._heard_at is None:
            return True
        # Below zero the clock that it was heard by has turned out to be ahead: nobody knows when.
        return not timedelta() <= self._clock() - self._heard_at <= min(ages)

    @property
    def alarms(self) -> Mapping[str, bool]:
        """What a person should look at, by name; nothing of it stops what serves."""
        return {
            "Loosened": self.loosened,
            "Stale": self.stale,
            "Unreadable": bool(self.fault or self._root_faults),
        }

    @property
    def fault(self) -> tuple[NodeReason, str] | None:
        """Why nothing can be activated, whatever is signed; None: it can be judged."""
        if self._ceiling_fault:
            return NodeReason.CEILING, self._ceiling_fault
        for name, cause in sorted(self._unreadable.items()):
            return NodeReason.NO_TRUST_POLICY, f"TrustPolicy {name} cannot be read: {cause}"
        return None

    @property
    def hash(self) -> str:
        """64 hex characters that change when trust does."""
        return self._hash

    def load(self) -> None:
        """Read what was provisioned, and what the hub said last."""
        self._read_ceiling()
        self._read_roots()
        self._heard_at = self._heard_on_disk = self._read_heard()
        self._read_policies()
        self._pinned = self._read(_PINNED)
        self._pin_lost = self._pinned is None and (self._directory / _PINNED).exists()
        self._had_ceiling = (self._directory / _HAD_CEILING).exists()
        self._note()

    def reload_ceiling(self) -> None:
        """Read what was provisioned again; say so where that changes what is trusted.

        So is what the hub said last, where the disk has not told it yet.
        """
        before = self._hash
        if not self.known:
            self._read_policies()
        self._read_ceiling()
        self._read_roots()
        self._note()
        if self._hash != before:
            self._on_change()

    def take_tuf_root(self, root: bytes | None) -> None:
        """Take the trusted root that the TUF repository holds now; None: none."""
        before = self._hash
        self._tuf_root = root
        self._note()
        if self._hash != before:
            log.info("trust.tuf.changed", extra={"hash": self._hash})
            self._on_change()

    def _read_ceiling(self) -> None:
        before = self._ceiling_fault
        try:
            self._ceiling, self._ceiling_fault = load_ceiling(self._ceiling_file), ""
        except CeilingError as error:
            self._ceiling, self._ceiling_fault = Ceiling({}), str(error)
            if before != self._ceiling_fault:
                log.error("trust.ceiling.unreadable", extra={"cause": str(error)})  # noqa: TRY400 - expected

    def _read_roots(self) -> None:
        found: dict[str, bytes] = {}
        faults: dict[str, str] = {}
        try:
            paths = sorted(self._roots_directory.glob("*.json"))[:_MAX_ROOTS]
        except OSError as error:
            paths, faults = [], {str(self._roots_directory): str(error)}
        for path in paths:
            try:
                found[path.stem] = _read_root(path)
            except (OSError, ValueError) as error:
                faults[path.name] = str(error)
        for name, cause in faults.items():
            if self._root_faults.get(name) != cause:
                log.error("trust.root.unreadable", extra={"file": name, "cause": cause})
        self._node_roots, self._root_faults = found, faults

    def replace(self, items: Mapping[str, Object]) -> None:
        """Take a listing of TrustPolicies."""
        self.confirm()
        self._unreadable.clear()
        found = {
            name: spec for name, item in items.items() if (spec := self._read_spec(name, item))
        }
        self._take(found)

    def put(self, name: str, item: Object) -> None:
        """Take one TrustPolicy."""
        self._unreadable.pop(name, None)
        spec = self._read_spec(name, item)
        if spec is not None:
            self._take({**self._policies, name: spec})
        else:
            self._take({n: s for n, s in self._policies.items() if n != name})

    def drop(self, name: str) -> None:
        """Take one TrustPolicy for gone."""
        self._unreadable.pop(name, None)
        self._take({n: spec for n, spec in self._policies.items() if n != name})

    def _take(self, policies: dict[str, TrustPolicySpec]) -> None:
        before = (self.known, self._hash)
        changed = policies != self._policies or not self.known
        self._policies, self.known = policies, True
        if changed:
            self._write(_POLICIES, _encode(policies))
        if self._may_pin(policies):
            self._pinned = policies
            self._write(_PINNED, _encode(policies))
        self._note()
        if before == (True, self._hash):
            return
        log.info("trust.changed", extra={"policies": len(policies), "hash": self._hash})
        self._on_change()

    def _may_pin(self, policies: Policies) -> bool:
        if self._pinned is None:
            return bool(policies) and not self._pin_lost
        return policies != self._pinned and is_narrower(policies, than=self._pinned)

    def _read_spec(self, name: str, item: Object) -> TrustPolicySpec | None:
        try:
            return TrustPolicySpec.model_validate(item.get("spec") or {})
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self._unreadable[name] = f"spec.{where}: {first['msg']}"
            log.error("trust.policy.unreadable", extra={"policy": name})  # noqa: TRY400 - expected
            return None

    def _note(self) -> None:
        limits = None if self._ceiling is None else self._ceiling.policies
        self._hash = policy_hash(self._policies, limits, self.roots)
        if self.fault is not None:
            self._hash = hashlib.sha256(f"{self._hash} {self.fault}".encode()).hexdigest()
        if self._ceiling is not None and not self._had_ceiling:
            self._had_ceiling = self._write(_HAD_CEILING, b"")
        self.loosened = self._ceiling is None and (
            self._had_ceiling
            or self._pin_lost
            or (self._pinned is not None and not is_narrower(self._policies, than=self._pinned))
        )

    def confirm(self) -> None:
        """Take what the hub said for its word of now."""
        now = self._clock()
        self._heard_at = now
        if self._heard_on_disk is not None and abs(now - self._heard_on_disk) < _HEARD_EVERY:
            return
        text = now.astimezone(UTC).strftime(_HEARD_FORMAT)
        if self._write(_HEARD, text.encode()):
            self._heard_on_disk = now

    def _read_heard(self) -> datetime | None:
        try:
            text = (self._directory / _HEARD).read_text(encoding="ascii")
            return datetime.strptime(text, _HEARD_FORMAT).replace(tzinfo=UTC)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("trust.unreadable", extra={"file": _HEARD, "cause": str(error)})
            return None

    def _read_policies(self) -> None:
        policies = self._read(_POLICIES)
        if policies is not None:
            self._policies, self.known = policies, True

    def _read(self, name: str) -> dict[str, TrustPolicySpec] | None:
        try:
            return _ADAPTER.validate_json((self._directory / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("trust.unreadable", extra={"file": name, "cause": str(error)})
            return None

    def _write(self, name: str, content: bytes) -> bool:
        """Write a file; return false where the disk does not take it: then it stands in memory."""
        try:
            write_file(self._directory / name, content, mode=0o600)
        except OSError as error:
            log.warning("trust.unwritten", extra={"file": name, "cause": str(error)})
            return False
        return True


def _encode(policies: Policies) -> bytes:
    return json.dumps({name: spec.to_dict() for name, spec in policies.items()}).encode()


def _read_root(path: Path) -> bytes:
    """Return a trusted root that was provisioned.

    Raises:
        ValueError: It is none, or its name is none.
        OSError: It cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or not _ROOT_NAME.fullmatch(path.stem):
        msg = f"{path.name} is not a file with a name that a policy can write"
        raise ValueError(msg)
    if found.st_mode & stat.S_IWOTH:
        msg = f"{path.name} can be written by everybody"
        raise ValueError(msg)
    with path.open("rb") as file:
        raw = file.read(_MAX_ROOT_BYTES + 1)
    parse_json_object(raw, max_bytes=_MAX_ROOT_BYTES)
    return raw
