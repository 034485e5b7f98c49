"""Signed leave to go below a node's release counter: for one model, one counter, until a time.

- It is an in-toto statement, signed and attached like a signature of the artifact itself.
- It counts where every policy finds it signed as that policy wants a model to be signed.
- It names the model, its digest (of the statement or of the artifact) and the counter, exactly.
- It ends. Where the node's clock is not trusted nobody knows whether it has, so it does not count.
- A field that is not known here might be a limit: such a grant does not count.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import STATEMENT_TYPE, parse_object
from linnet_agent.verify.strict_json import as_list, as_object
from linnet_api.patterns import compile_glob

GRANT_TYPE: Final = "https://linnet.dev/grant/v1"
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAX_COUNTER: Final = 2**53


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to take one model although its counter is below the node's floor."""

    model: str
    digest: str
    """``sha256:<hex>`` of the model's signed statement, or of its artifact."""
    counter: int
    not_after: datetime
    node: str | None = None
    """A glob over names of nodes; None: every node."""

    def covers(
        self, *, model: str, digests: Collection[str], counter: int | None, node: str | None
    ) -> bool:
        """Return true where the grant is about this model on this node."""
        here = self.node is None or (node is not None and compile_glob(self.node).matches(node))
        return here and (self.model, self.counter) == (model, counter) and self.digest in digests


def build_grant(grant: Grant) -> bytes:
    """Return the payload that is signed: canonical JSON."""
    predicate: dict[str, Any] = {
        "counter": grant.counter,
        "notAfter": grant.not_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if grant.node is not None:
        predicate["node"] = grant.node
    digest = {"sha256": grant.digest.removeprefix("sha256:")}
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": grant.model, "digest": digest}],
        "predicateType": GRANT_TYPE,
        "predicate": predicate,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_grant(payload: bytes) -> Grant:
    """Read a grant.

    Raises:
        MalformedBundleError: It is none, or says something that is not known here.
    """
    document = parse_object(payload, what="the grant")
    if document.get("_type") != STATEMENT_TYPE or document.get("predicateType") != GRANT_TYPE:
        _refuse("it is no grant")
    subjects = as_list(document.get("subject")) or []
    subject = as_object(subjects[0]) if len(subjects) == 1 else None
    predicate = as_object(document.get("predicate"))
    if subject is None or predicate is None:
        _refuse("a grant has exactly one subject, and a predicate")
    if unknown := {*predicate} - {"counter", "notAfter", "node"}:
        _refuse(f"the grant says what is not known here: {sorted(unknown)[:5]}"[:400])
    name, counter, node = subject.get("name"), predicate.get("counter"), predicate.get("node")
    if not isinstance(name, str) or not 1 <= len(name) <= 512:
        _refuse("the grant names no model")
    if type(counter) is not int or not 0 <= counter <= _MAX_COUNTER:
        _refuse("the grant's counter is no release counter")
    if node is not None and not (isinstance(node, str) and 1 <= len(node) <= 253):
        _refuse("the grant's node is no name")
    return Grant(
        model=name,
        digest=_digest(subject),
        counter=counter,
        not_after=_moment(predicate.get("notAfter")),
        node=node,
    )


def _digest(subject: Mapping[str, Any]) -> str:
    digest = (as_object(subject.get("digest")) or {}).get("sha256")
    if not isinstance(digest, str) or not _HEX_DIGEST.fullmatch(digest):
        _refuse("the grant's subject has no sha256 digest")
    return f"sha256:{digest}"


def _moment(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
        if moment.tzinfo is None:
            raise ValueError("no time zone")  # noqa: TRY301 - told like the others, three lines below
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        msg = "the grant's notAfter is no time with a zone"
        raise MalformedBundleError(msg) from error


def _refuse(fact: str) -> NoReturn:
    raise MalformedBundleError(fact)
