"""No policy: is this model what one trusted signer has signed?

- It is what a publisher asks before there is a cluster; a node asks more (``verify.artifact``).
- The signature first, then name and release counter; what the model holds is read last, for that
  is what takes time.
- It imports neither pydantic nor YAML: the whole command is little more than hashing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from linnet_agent.errors import ContentRefusedError, MalformedBundleError
from linnet_agent.verify.directory import difference
from linnet_agent.verify.oms import Statement, parse_statement
from linnet_agent.verify.signatures import Unproved
from linnet_api.reasons import NodeReason

_TELLING: Final = (
    NodeReason.CONTENT_REFUSED,
    NodeReason.CONTENT_NOT_SIGNED,
    NodeReason.COUNTER_TOO_LOW,
    NodeReason.WRONG_MODEL_NAME,
    NodeReason.BAD_SIGNATURE,
    NodeReason.NO_TRUST_ROOT,
    NodeReason.UNTRUSTED_KEY,
    NodeReason.MALFORMED_BUNDLE,
    NodeReason.UNSIGNED,
)
"""The step that came last first: the further a bundle came, the more its refusal says."""


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """Whether the model is what was signed, and if not, why."""

    reason: NodeReason
    """``NONE`` where it is."""
    message: str
    statement: Statement | None
    """What was signed; None where nothing was that can be read."""


def verify_model(
    find_files: Callable[[], Mapping[str, str]],
    *,
    payloads: Sequence[bytes],
    unproved: Sequence[Unproved] = (),
    model: str | None = None,
    floor: int | None = None,
) -> ModelVerdict:
    """Say whether a model is what was signed.

    Args:
        find_files: Hashes the model: name to ``sha256:<hex>``. Called at most once.
        payloads: Statements whose signatures were verified; any may satisfy.
        unproved: What the other bundles lack; told where nothing satisfies.
        model: The name that must be signed; None: any.
        floor: The lowest release counter that will do; None: any, or none.

    Raises:
        OSError: The model cannot be read.
    """
    verdicts = [ModelVerdict(one.reason, one.message, None) for one in unproved]
    if not payloads and not unproved:
        verdicts.append(ModelVerdict(NodeReason.UNSIGNED, "there is no signature bundle", None))
    candidates: list[Statement] = []
    for payload in payloads:
        try:
            statement = parse_statement(payload)
        except MalformedBundleError as error:
            verdicts.append(ModelVerdict(NodeReason.MALFORMED_BUNDLE, str(error), None))
            continue
        refusal = _refuse_claims(statement, model=model, floor=floor)
        if refusal is None:
            candidates.append(statement)
        else:
            verdicts.append(refusal)
    if candidates:
        verdicts += _compare(candidates, find_files)
    for verdict in verdicts:
        if verdict.reason is NodeReason.NONE:
            return verdict
    return min(verdicts, key=lambda verdict: _TELLING.index(verdict.reason))


def _refuse_claims(
    statement: Statement, *, model: str | None, floor: int | None
) -> ModelVerdict | None:
    if model is not None and statement.model != model:
        message = f"it is signed as {statement.model!r} and was to be served as {model!r}"
        return ModelVerdict(NodeReason.WRONG_MODEL_NAME, message, statement)
    if floor is not None and (statement.counter is None or statement.counter < floor):
        counter = "no counter" if statement.counter is None else f"counter {statement.counter}"
        message = f"it is signed with {counter}; {floor} and above was asked for"
        return ModelVerdict(NodeReason.COUNTER_TOO_LOW, message, statement)
    return None


def _compare(
    candidates: Sequence[Statement], find_files: Callable[[], Mapping[str, str]]
) -> list[ModelVerdict]:
    try:
        files = find_files()
    except ContentRefusedError as error:
        return [ModelVerdict(NodeReason.CONTENT_REFUSED, str(error), candidates[0])]
    verdicts: list[ModelVerdict] = []
    for statement in candidates:
        fault = difference(files, statement.files)
        reason = NodeReason.NONE if fault is None else NodeReason.CONTENT_NOT_SIGNED
        verdicts.append(ModelVerdict(reason, fault or "", statement))
    return verdicts
