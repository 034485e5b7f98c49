"""The trust in force: the hub's TrustPolicies, kept on disk, and the node's own ceiling.

- Until the hub has answered, or the disk holds what it said, nothing is judged: an empty trust is
  not yet a refusal.
- A ceiling or a policy that cannot be read refuses every activation: it might have forbidden this
  one. What is active serves on.
- Without a ceiling the first policies that were seen are pinned. A change that only adds
  revocations, drops authorities or raises a threshold is narrower; any other is reported as
  loosened, for good: a person clears it by removing ``trust/pinned.json``.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pydantic

from linnet_agent.durable import write_file
from linnet_agent.errors import CeilingError
from linnet_agent.hub import Object
from linnet_agent.verify.ceiling import Ceiling, load_ceiling
from linnet_agent.verify.policy import policy_hash
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec

log = logging.getLogger(__name__)

Policies = Mapping[str, TrustPolicySpec]

_ADAPTER: Final = pydantic.TypeAdapter(dict[str, TrustPolicySpec])


class TrustStore:
    """What this node trusts."""

    def __init__(
        self, directory: Path, *, ceiling_file: Path, on_change: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._ceiling_file = ceiling_file
        self._on_change = on_change
        self._policies: dict[str, TrustPolicySpec] = {}
        self._pinned: dict[str, TrustPolicySpec] | None = None
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
        """Read the ceiling, and what the hub said last."""
        self._read_ceiling()
        policies = self._read("policies.json")
        if policies is not None:
            self._policies, self.known = policies, True
        self._pinned = self._read("pinned.json")
        self._note()

    def reload_ceiling(self) -> None:
        """Read the ceiling again; say so where that changes what is trusted."""
        before = self._hash
        self._read_ceiling()
        self._note()
        if self._hash != before:
            self._on_change()

    def _read_ceiling(self) -> None:
        before = self._ceiling_fault
        try:
            self._ceiling, self._ceiling_fault = load_ceiling(self._ceiling_file), ""
        except CeilingError as error:
            self._ceiling, self._ceiling_fault = Ceiling(()), str(error)
            if before != self._ceiling_fault:
                log.error("trust.ceiling.unreadable", extra={"cause": str(error)})  # noqa: TRY400 - expected

    def replace(self, items: Mapping[str, Object]) -> None:
        """Take a listing of TrustPolicies."""
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
            self._write("policies.json", policies)
        if self._pinned is None and policies:
            self._pinned = policies
            self._write("pinned.json", policies)
        self._note()
        if before == (True, self._hash):
            return
        log.info("trust.changed", extra={"policies": len(policies), "hash": self._hash})
        self._on_change()

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
        self._hash = policy_hash(
            self._policies, None if self._ceiling is None else self._ceiling.policies
        )
        if self.fault is not None:
            self._hash = hashlib.sha256(f"{self._hash} {self.fault}".encode()).hexdigest()
        self.loosened = (
            self._ceiling is None
            and self._pinned is not None
            and not is_narrower(self._policies, than=self._pinned)
        )

    def _read(self, name: str) -> dict[str, TrustPolicySpec] | None:
        try:
            return _ADAPTER.validate_json((self._directory / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("trust.unreadable", extra={"file": name, "cause": str(error)})
            return None

    def _write(self, name: str, policies: Policies) -> None:
        document = {name: spec.to_dict() for name, spec in policies.items()}
        write_file(self._directory / name, json.dumps(document).encode(), mode=0o600)


def is_narrower(policies: Policies, *, than: Policies) -> bool:
    """Tell whether ``policies`` surely allow nothing that ``than`` did not; false in doubt."""
    return policies.keys() == than.keys() and all(
        _is_spec_narrower(spec, than[name]) for name, spec in policies.items()
    )


def _is_spec_narrower(spec: TrustPolicySpec, than: TrustPolicySpec) -> bool:
    same = {"authorities": (), "require": spec.require, "revoked": spec.revoked}
    if spec.model_copy(update=same) != than.model_copy(update=same):
        return False
    return (
        set(spec.authorities) <= set(than.authorities)
        and set(spec.require.of) == set(than.require.of)
        and spec.require.threshold >= than.require.threshold
        and set(spec.revoked.key_ids) >= set(than.revoked.key_ids)
        and set(spec.revoked.digests) >= set(than.revoked.digests)
        and spec.revoked.on_active == than.revoked.on_active
    )
