"""Who goes first: a lot drawn from uids, before any rate is looked at (rule 13).

- The same rollout and nodes give the same order, in every process; whether a node is healthy does
  not count.
- Nodes that people have labelled as canaries come first.
- Every prefix is spread over the failure domains that the policy names.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from linnet_api.names import CANARY_LABEL
from linnet_operator.planner.model import NodeView

PREFERRED = "preferred"


@lru_cache(maxsize=1 << 16)
def bucket(rollout_uid: str, node_uid: str) -> float:
    """Return the node's lot in this rollout, in [0, 1)."""
    digest = hashlib.sha256(f"{rollout_uid}\0{node_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_lot(
    nodes: Iterable[NodeView], *, rollout_uid: str, spread_by: Sequence[str] = ()
) -> tuple[NodeView, ...]:
    """Return the nodes in the order in which they are asked, canary-labelled ones first."""
    everyone = list(nodes)
    first = [node for node in everyone if node.labels.get(CANARY_LABEL) == PREFERRED]
    rest = [node for node in everyone if node.labels.get(CANARY_LABEL) != PREFERRED]
    return (*_spread(first, rollout_uid, spread_by), *_spread(rest, rollout_uid, spread_by))


def domain_of(node: NodeView, spread_by: Sequence[str]) -> str:
    """Return the failure domain of a node, as people read it; empty where it has no such label."""
    return "/".join(filter(None, (node.labels.get(key) for key in spread_by)))


def _spread(nodes: list[NodeView], rollout_uid: str, spread_by: Sequence[str]) -> list[NodeView]:
    # Each domain lays its nodes evenly over [0, 1), from an offset of its own: any prefix of the
    # whole
    # then holds about the same share of every domain.
    domains: dict[tuple[str, ...], list[tuple[float, str, NodeView]]] = defaultdict(list)
    for node in nodes:
        domain = tuple(node.labels.get(key, "") for key in spread_by)
        domains[domain].append((bucket(rollout_uid, node.uid), node.name, node))
    placed: list[tuple[float, str, NodeView]] = []
    for domain, members in domains.items():
        members.sort(key=lambda member: member[:2])
        if len(domains) == 1:
            return [node for _, _, node in members]
        offset = bucket(rollout_uid, "\0".join(("domain", *domain)))
        placed += [
            ((index + offset) / len(members), name, node)
            for index, (_, name, node) in enumerate(members)
        ]
    return [node for _, _, node in sorted(placed, key=lambda member: member[:2])]
