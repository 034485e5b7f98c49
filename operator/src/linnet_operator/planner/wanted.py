"""Which revision the spec wants, and which one is stable.

- A digest in the spec or in the source is taken at its word; nothing is asked.
- A tag is resolved once: a source that a revision was cut from means that revision's artifact for
  ever.
- Stable follows from the newest rollout: what it brought where it completed, else what it started
  from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linnet_api.model_rollout import RevisionRef
from linnet_api.names import revision_object_name
from linnet_api.node_model import Desired
from linnet_api.reasons import RolloutPhase
from linnet_api.revisions import revision_of
from linnet_operator.planner.model import (
    DeploymentView,
    DropRevision,
    NodeView,
    RecordRevision,
    Resolved,
    ResolveFailure,
    RevisionView,
    RolloutView,
)

_SOURCES_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for; one of the first three is set.

    Attributes:
        revision: The revision; it may not have been recorded yet.
        ask: The source that must be resolved first.
        failure: Why it cannot be resolved.
        record: The write that records it, where it is new or was known under other sources only.
    """

    revision: RevisionView | None = None
    ask: str | None = None
    failure: ResolveFailure | None = None
    record: RecordRevision | None = None


def want(
    deployment: DeploymentView,
    revisions: Sequence[RevisionView],
    resolved: Resolved | ResolveFailure | None,
) -> Wanted:
    """Return the revision that the spec asks for."""
    source = deployment.spec.source
    artifact = deployment.spec.digest or _pinned(source) or _known(source, revisions)
    if artifact is None:
        if resolved is None or resolved.source != source:
            return Wanted(ask=source)
        if isinstance(resolved, ResolveFailure):
            return Wanted(ask=source, failure=resolved)
        artifact = resolved.digest
    return _cut(deployment, revisions, artifact)


def known_revisions(
    deployment: DeploymentView,
    revisions: Sequence[RevisionView],
    wanted: Wanted,
    *,
    rollout: RolloutView | None,
    nodes: Sequence[NodeView],
) -> tuple[RevisionView, ...]:
    """Return every revision whose content is known.

    A ControllerRevision that somebody deleted must not stand in the way of a rollback: orders say
    what it was, and where none does any more, its name proves a guess.
    """
    known = {revision.revision: revision for revision in revisions}
    if wanted.revision is not None:
        known[wanted.revision.revision] = wanted.revision
    for node in nodes:
        if node.order is not None and node.order.desired.revision not in known:
            ordered = _of_order(node.order.desired)
            if ordered is not None:
                known[ordered.revision] = ordered
    stable = rollout.spec.from_ if rollout is not None else None
    if stable is not None and stable.revision not in known:
        guess = _guess(deployment, stable)
        if guess is not None:
            known[guess.revision] = guess
    return tuple(known.values())


def _of_order(desired: Desired) -> RevisionView | None:
    if desired.revision is None or desired.artifact is None or desired.source is None:
        return None
    return RevisionView(
        revision=desired.revision,
        number=max(1, desired.number),
        artifact=desired.artifact,
        sources=(desired.source,),
        variants=desired.variants,
        serving=desired.serving,
    )


def _guess(deployment: DeploymentView, stable: RevisionRef) -> RevisionView | None:
    """Return ``stable`` as it was if it was served as the spec says; its name proves it."""
    variants, serving = deployment.spec.variants, deployment.serving
    name = revision_of(artifact=stable.digest, variants=variants, serving=serving)
    if name != stable.revision:
        return None
    return RevisionView(
        revision=name,
        number=stable.number,
        artifact=stable.digest,
        sources=(_pinned_to(deployment.spec.source, stable.digest),),
        variants=variants,
        serving=serving,
    )


def _pinned_to(source: str, digest: str) -> str:
    """Return where ``digest`` lies, if it ever lay at ``source``: only a registry keeps the old."""
    if not source.startswith("oci://"):
        return source
    path = source.partition("@")[0]
    head, slash, last = path.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"


def ref(revision: RevisionView) -> RevisionRef:
    """Return the short form of ``revision``."""
    return RevisionRef(revision=revision.revision, digest=revision.artifact, number=revision.number)


def stable_of(deployment: DeploymentView, rollout: RolloutView | None) -> RevisionRef | None:
    """Return the revision that the fleet goes back to; None where there is none yet."""
    if rollout is not None:
        completed = rollout.status.phase is RolloutPhase.COMPLETED
        return rollout.spec.to if completed else rollout.spec.from_
    stable = deployment.status.stable
    if stable is None:
        return None
    return RevisionRef(revision=stable.revision, digest=stable.digest, number=stable.number)


def title(revision: RevisionRef, revisions: Sequence[RevisionView]) -> str:
    """Return how people know the revision: its hash, and name and tag of its source."""
    for known in revisions:
        if known.revision == revision.revision:
            name = (
                known.sources[-1].rstrip("/").rpartition("/")[2].partition("@")[0].replace(":", " ")
            )
            return f"{revision.revision} ({name})" if name else revision.revision
    return revision.revision


def outdated(
    deployment: DeploymentView,
    revisions: Sequence[RevisionView],
    nodes: Sequence[NodeView],
    *,
    keep: set[str],
) -> list[DropRevision]:
    """Return what exceeds the history limit; never what an order or ``keep`` names."""
    named = set(keep)
    for node in nodes:
        if node.order is not None:
            named.add(node.order.desired.revision or "")
            if node.order.baseline is not None:
                named.add(node.order.baseline.revision)
    newest_first = sorted(revisions, key=lambda revision: -revision.number)
    return [
        DropRevision(
            name=revision_object_name(deployment=deployment.name, revision=revision.revision),
            revision=revision.revision,
        )
        for revision in newest_first[deployment.spec.revision_history_limit :]
        if revision.revision not in named
    ]


def _pinned(source: str) -> str | None:
    _, at, digest = source.rpartition("@")
    return digest if at and digest.startswith("sha256:") else None


def _known(source: str, revisions: Sequence[RevisionView]) -> str | None:
    cut = [revision for revision in revisions if source in revision.sources]
    return max(cut, key=lambda revision: revision.number).artifact if cut else None


def _cut(deployment: DeploymentView, revisions: Sequence[RevisionView], artifact: str) -> Wanted:
    source, variants = deployment.spec.source, deployment.spec.variants
    name = revision_of(artifact=artifact, variants=variants, serving=deployment.serving)
    known = next((revision for revision in revisions if revision.revision == name), None)
    if known is None:
        number = 1 + max((revision.number for revision in revisions), default=0)
        known = RevisionView(
            revision=name,
            number=number,
            artifact=artifact,
            sources=(source,),
            variants=variants,
            serving=deployment.serving,
        )
    elif source in known.sources:
        return Wanted(revision=known)
    else:
        sources = (*known.sources[: _SOURCES_LIMIT - 1], source)
        known = replace(known, sources=sources)
    object_name = revision_object_name(deployment=deployment.name, revision=name)
    return Wanted(revision=known, record=RecordRevision(name=object_name, revision=known))
