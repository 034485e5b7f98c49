"""ModelHost: what a node can run and hold. It has no spec: all of it is observed by the agent."""

from typing import Annotated

from pydantic import Field

from linnet_api.conditions import Condition
from linnet_api.fields import ATOMIC, ApiModel, ObjectName, Uid, map_list


class Runtime(ApiModel):
    """A runtime that the node has."""

    name: Annotated[str, Field(description="Linnet or Files.", max_length=63)]
    version: Annotated[
        str, Field(description="Version of the runtime, such as 1.31.1.", max_length=63)
    ] = ""
    providers: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        Field(
            description="Execution providers, such as CPUExecutionProvider.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class Accelerator(ApiModel):
    """An accelerator that the node has."""

    name: Annotated[str, Field(description="Name, such as gpu0.", max_length=63)]
    product: Annotated[str, Field(description="What it is.", max_length=128)] = ""


class Capacity(ApiModel):
    """Bytes in all and free."""

    total_bytes: Annotated[int, Field(description="Bytes in all.", ge=0, le=2**53)] = 0
    free_bytes: Annotated[
        int,
        Field(
            description="Bytes free, in steps of 5 % of the total, so that idle is idle.",
            ge=0,
            le=2**53,
        ),
    ] = 0


class Trust(ApiModel):
    """What the node's trust rests on."""

    ceiling: Annotated[
        bool,
        Field(
            description="True: the node has a ceiling of its own, and the cluster can only narrow it."
        ),
    ] = False
    roots_version: Annotated[
        str, Field(description="Hash over policies and roots in force.", max_length=64)
    ] = ""
    stale: Annotated[
        bool,
        Field(
            description="True: trust was not heard anew from the cluster for longer than a policy allows (freshness.maxTrustAge), "
            "or the TUF repository that the node reads has expired. An alarm, never a stop."
        ),
    ] = False
    loosened: Annotated[
        bool,
        Field(
            description="True: a policy was loosened since first contact, on a node without ceiling."
        ),
    ] = False


class ModelHostStatus(ApiModel):
    """What the agent saw."""

    observed_generation: Annotated[
        int, Field(description="Always 0 once an agent has written.", ge=-1, le=2**53)
    ] = -1
    node_uid: Annotated[
        Uid | None, Field(alias="nodeUID", description="Uid of the Node that the agent runs on.")
    ] = None
    agent_version: Annotated[
        str | None, Field(description="Version of the agent.", max_length=63)
    ] = None
    api_versions: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        Field(
            description="Versions of this API that the agent reads.",
            max_length=8,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    runtimes: Annotated[
        tuple[Runtime, ...],
        Field(
            description="Runtimes that the node has.",
            max_length=8,
            json_schema_extra=map_list("name"),
        ),
    ] = ()
    accelerators: Annotated[
        tuple[Accelerator, ...],
        Field(
            description="Accelerators that the node's server has, as its driver names them.",
            max_length=32,
            json_schema_extra=map_list("name"),
        ),
    ] = ()
    memory: Annotated[Capacity, Field(description="Memory of the machine.")] = Capacity()
    disk: Annotated[Capacity, Field(description="Disk under the agent's root.")] = Capacity()
    trust: Annotated[Trust, Field(description="What the node's trust rests on.")] = Trust()
    orphans: Annotated[
        tuple[ObjectName, ...],
        Field(
            description="Models that the node serves and that no order names any more, as namespace.deployment.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready: the agent is at work.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()
