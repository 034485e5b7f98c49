"""Field types that the six kinds share, and the markers that the CRD generator reads.

- Reading is lenient (unknown fields are ignored: an older agent reads a newer object); writing is strict (the API server
  checks ``fieldValidation=Strict``).
- No floats: a decimal is a string. Every string, list and number is bounded, so that CEL costs can be computed.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from linnet_api.durations import DURATION_PATTERN, PERCENT_PATTERN
from linnet_api.quantities import QUANTITY_PATTERN

DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
REVISION_PATTERN: Final = r"^[0-9a-z]{8,16}$"
NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


class ApiModel(BaseModel):
    """Base of everything that stands in an object: camelCase outside, snake_case inside, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form with absent fields left out, as it goes to the API server."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return the schema extra for CEL rules, each ``(rule, message)``."""
    return {"x-kubernetes-validations": [{"rule": r, "message": m} for r, m in pairs]}


def map_list(*keys: str) -> dict[str, Any]:
    """Return the schema extra for a list that server-side apply merges by ``keys``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}


def _rfc3339(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _rfc3339_s(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, PlainSerializer(_rfc3339_s, return_type=str, when_used="json")]
"""A point in time, UTC, whole seconds, as metav1.Time."""

MicroTime = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]
"""A point in time, UTC, microseconds, as metav1.MicroTime: decisions are recomputed from it."""

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
Percent = Annotated[str, Field(pattern=PERCENT_PATTERN, max_length=4)]
CountOrPercent = Annotated[int, Field(ge=0, le=100_000)] | Percent
"""A count of nodes, or a percentage of them; percent rounds up, 0 holds."""
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
Revision = Annotated[str, Field(pattern=REVISION_PATTERN, max_length=16)]
ObjectName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=253)]
ShortName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]
Uid = Annotated[str, Field(max_length=64)]
Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=20)]
Sentence = Annotated[str, Field(max_length=2048)]
Word = Annotated[str, Field(max_length=64)]


class Ref(ApiModel):
    """A reference to an object in the same namespace."""

    name: Annotated[ObjectName, Field(description="Name of the object, in the same namespace.")]


class SelectorRequirement(ApiModel):
    """One expression of a label selector, as in metav1.LabelSelector."""

    key: Annotated[
        str,
        Field(
            description="The label key that the expression is about.", min_length=1, max_length=317
        ),
    ]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Field(
            description="How key and values relate. In and NotIn need values, Exists and DoesNotExist take none."
        ),
    ]
    values: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        Field(
            description="The values to compare with; empty for Exists and DoesNotExist.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class NodeSelector(ApiModel):
    """A metav1.LabelSelector over Nodes; it may not be empty."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
                "(has(self.matchExpressions) && size(self.matchExpressions) > 0)",
                "nodes must name at least one label: an empty selector would mean every node of the cluster; "
                "write for example matchLabels: {linnet.dev/fleet: cameras}",
            )
        )
    )

    match_labels: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]],
        Field(
            description="Labels that a Node must carry, all of them. Empty means no demand from this field.",
            json_schema_extra={"maxProperties": 64},
        ),
    ] = {}
    match_expressions: Annotated[
        tuple[SelectorRequirement, ...],
        Field(
            description="Expressions that must all hold. Empty means no demand from this field.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class WaitingFor(ApiModel):
    """What an object waits for, in words and numbers (rule 9)."""

    reason: Annotated[
        Word,
        Field(description="Why it waits, one word of a closed list, such as Baking or Approval."),
    ]
    short: Annotated[
        str,
        Field(
            description="The same for a column, at most 40 characters, such as '18m of 30m'.",
            max_length=40,
        ),
    ]
    message: Annotated[
        Sentence,
        Field(description="The whole sentence, with numbers and with what to do, if anything."),
    ]
    until: Annotated[
        Time | None,
        Field(
            description="When it ends by itself at the earliest. Absent: it depends on a person or on data."
        ),
    ] = None
