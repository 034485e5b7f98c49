"""Edges of the duration histogram: the server counts by them, a policy's ``over`` must be one.

- The edges are part of the contract: a comparison counts requests above one of them, exactly.
"""

from datetime import timedelta
from typing import Final

from linnet_api.durations import parse_duration

BUCKETS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper edges of the buckets of ``linnet_inference_duration_seconds``, in seconds."""

_EDGES: Final = frozenset(timedelta(seconds=edge) for edge in BUCKETS_S)


def is_bucket_edge(duration: str) -> bool:
    """Return whether ``duration``, such as ``50ms``, is an edge of a bucket."""
    return parse_duration(duration) in _EDGES
