"""The case files of ``linnet judge``: counts of a metric in, what the judge says of each look out.

Rules:
- The models here are the truth; ``docs/reference/judge-case.schema.json`` is made from them.
- What cannot be a measurement is an error that names the case, the node and the field; what was not
  measured is null. A field that stands twice is an error as well: one of the two would be lost.
- The figures are those of a rollout: the same learning, the same look, the same verdict.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from linnet_cli.errors import CaseError
from linnet_operator.judge.assess import MetricInputs, StepInputs, assess
from linnet_operator.judge.compare import Detect, MetricLook, NodeCount, look
from linnet_operator.judge.learned import LARGEST_COUNT, Learned, NodeHistory, learn, readiness
from linnet_operator.judge.verdicts import Verdict

_NAME_SHOWN = 80
SCHEMA_PATH = "docs/reference/judge-case.schema.json"

Count = Annotated[float, Field(ge=0, le=LARGEST_COUNT, allow_inf_nan=False)]
Pair = Annotated[
    tuple[Count, Count] | None,
    Field(description="[failures, requests]; null where nothing was measured"),
]
Intervals = Annotated[
    list[Annotated[float, Field(ge=0, le=LARGEST_COUNT, allow_inf_nan=False)]],
    Field(description="scrape intervals since the step began, one per look, never fewer"),
]


def _whole(value: object) -> object:
    """Return 5 for 5.0: to JSON, and to its schemas, they are one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CaseDetect(_Part):
    """The rise that has to be excluded before a Pass: the larger of the two."""

    factor: float = Field(gt=1, le=1e6, description="times the expected failures")
    floor: float = Field(ge=0, le=1, description="failures per request")


class CaseNode(_Part):
    """One node: its past under the stable model, and what it counts in this step."""

    name: str = Field(min_length=1, description="any name, once in the case")
    candidate: bool = Field(description="whether it serves the candidate; otherwise the stable one")
    history: list[Pair] = Field(
        description="one per window, aligned over all nodes; windows about as long as the step"
    )
    recent: list[Pair] = Field(
        default=[], description="one per scrape interval of a recent stretch, for bursts"
    )
    looks: list[Pair] = Field(description="since the step began, cumulative, one per look")
    intervals: Intervals | None = Field(
        default=None, description="this node's own, since its activation; default: the case's"
    )
    domain: str = Field(
        default="", description="its site, or kind: harm in one alone is looked for, too"
    )


class Case(_Part):
    """One metric of one step."""

    metric: str = Field(description="its name; comes back in the answer")
    alpha: float = Field(
        gt=0, lt=1, description="the chance to take a good model back, over the whole rollout"
    )
    steps: Whole = Field(ge=1, le=1000, description="how many steps share alpha")
    detect: CaseDetect
    intervals: Intervals
    nodes: list[CaseNode] = Field(min_length=1, description="candidates and stable nodes")


class CaseLook(_Part):
    """What the judge says at one look."""

    log_e: float = Field(description="natural logarithm of the evidence of harm; 0 is none")
    fleet_factor: float = Field(description="what the stable nodes do now, by their own history")
    excluded: float | None = Field(
        description="the smallest factor from which on every rise is excluded; null: none"
    )
    verdict: Verdict = Field(
        description="Fail: Linnet takes the candidate back. Where the evidence of five and more "
        "candidates rests on one of them it is Undecided, and a rollout asks a person"
    )


class CaseAnswer(_Part):
    """What the judge says of one case."""

    metric: str
    looks: list[CaseLook]


_CASES: TypeAdapter[Case | list[Case]] = TypeAdapter(Case | list[Case])


def read_cases(text: str) -> Case | list[Case]:
    """Return the case, or the cases, of a file.

    Raises:
        CaseError: It is not JSON, or not a case; says which node and field.
    """
    try:
        data = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_what_stands_twice
        )
    except ValueError as error:
        raise CaseError(f"this is not JSON: {error}") from error
    except RecursionError as error:
        raise CaseError("this is no case: it is nested too deep") from error
    if isinstance(data, list):
        return [_read_case(each, where=f"case {index}: ") for index, each in enumerate(data, 1)]
    return _read_case(data, where="")


def judge_cases(cases: Case | list[Case]) -> CaseAnswer | list[CaseAnswer]:
    """Return the answer to a case, or to each of a list."""
    return [judge_case(case) for case in cases] if isinstance(cases, list) else judge_case(cases)


def judge_case(case: Case) -> CaseAnswer:
    """Return what the judge says at each look of a case."""
    history = [
        NodeHistory(
            node=node.name,
            windows=tuple(node.history),
            recent=tuple(pair for pair in node.recent if pair is not None),
        )
        for node in case.nodes
    ]
    # The unit of time is one scrape interval. How long a window is matters to forecasts alone,
    # which are not asked for.
    learned = learn(history, interval_s=1.0, window_s=1.0)
    looks = [_look(case, learned, index) for index in range(len(case.intervals))]
    return CaseAnswer(metric=case.metric, looks=looks)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of what goes in, and of what comes out."""
    answers = TypeAdapter(CaseAnswer | list[CaseAnswer])
    made, definitions = TypeAdapter.json_schemas(
        [("case", "validation", _CASES), ("answer", "serialization", answers)]
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "linnet judge: a case, or a list of cases; #/$defs/answer is what comes out",
        **made["case", "validation"],
        "$defs": {**definitions["$defs"], "answer": made["answer", "serialization"]},
    }


def _look(case: Case, learned: Learned, index: int) -> CaseLook:
    detect = Detect(factor=case.detect.factor, floor=case.detect.floor)
    candidates = _rows(case, index, candidate=True)
    stable = _rows(case, index, candidate=False)
    said = look(learned, candidates, stable, alpha=case.alpha, steps=case.steps, detect=detect)
    return CaseLook(
        log_e=said.log_e,
        fleet_factor=said.fleet_factor,
        excluded=said.excluded,
        verdict=_verdict(case, learned, said, candidates, stable),
    )


def _verdict(
    case: Case,
    learned: Learned,
    said: MetricLook,
    candidates: Sequence[NodeCount],
    stable: Sequence[NodeCount],
) -> Verdict:
    ready = readiness(learned, [row.node for row in candidates], required=1)
    if said.verdict is not Verdict.FAIL:
        return Verdict.LEARNING if 2 * len(ready.lacking) >= len(candidates) else said.verdict
    step = assess(
        StepInputs(
            metrics=(
                MetricInputs(
                    name=case.metric,
                    signal="Errors",
                    learned=learned,
                    candidates=tuple(candidates),
                    stable=tuple(stable),
                ),
            ),
            alpha=case.alpha,
            steps=case.steps,
            detect=Detect(factor=case.detect.factor, floor=case.detect.floor),
            required_windows=1,
        )
    )
    return Verdict.UNDECIDED if step.needs_person else step.verdict


def _rows(case: Case, index: int, *, candidate: bool) -> list[NodeCount]:
    rows: list[NodeCount] = []
    for node in case.nodes:
        if node.candidate is not candidate:
            continue
        failures, requests = node.looks[index] or (None, None)
        intervals = (node.intervals or case.intervals)[index]
        rows.append(
            NodeCount(
                node=node.name,
                failures=failures,
                requests=requests,
                seconds=intervals,
                domain=node.domain,
            )
        )
    return rows


def _read_case(data: object, *, where: str) -> Case:
    try:
        case = Case.model_validate_json(json.dumps(data))
    except RecursionError as error:
        raise CaseError(f"{where}this is no case: it is nested too deep") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            # It was JSON: what is left are texts that no UTF-8 can hold, and depth.
            raise CaseError(
                f"{where}this is no case: it is nested too deep, or a text holds half a character "
                r"(\ud800 to \udfff)"
            ) from error
        raise CaseError(f"{where}{_named(data, first['loc'])}: {first['msg']}") from error
    _check(case, where=where)
    return case


def _named(data: Any, location: Sequence[int | str]) -> str:  # noqa: ANN401 - JSON, not yet checked
    """Return the field of a location, and the node by its name where it has one."""
    if location[:1] != ("nodes",) or len(location) < 2:
        return _path(location) or "the case"
    index = location[1]
    node = data["nodes"][index] if isinstance(index, int) else None
    name = node.get("name") if isinstance(node, dict) else None
    known = _node(name) if isinstance(name, str) and name else f"nodes[{index}]"
    return f"{known}: {_path(location[2:])}" if location[2:] else known


def _node(name: str) -> str:
    """Return the node by its name, on one line and short enough to be read."""
    shown = name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}..."
    return f"node {json.dumps(shown, ensure_ascii=False)}"


def _path(location: Sequence[int | str]) -> str:
    """Return the path as people write it; pydantic's name for the pair is left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith(("tuple[", "list[")):
            text += f".{part}" if text else part
    return text


def _check(case: Case, *, where: str) -> None:
    """Check what the types cannot say.

    Raises:
        CaseError: Says which node and field.
    """
    _check_intervals(case.intervals, f"{where}intervals")
    names: set[str] = set()
    for node in case.nodes:
        named = f"{where}{_node(node.name)}"
        if node.name in names:
            raise CaseError(f"{named}: name: there are two nodes of that name")
        names.add(node.name)
        if len(node.looks) != len(case.intervals):
            raise CaseError(
                f"{named}: looks: there are {len(node.looks)}, but {len(case.intervals)} intervals"
            )
        if node.intervals is not None:
            _check_intervals(node.intervals, f"{named}: intervals")
            if len(node.intervals) != len(case.intervals):
                raise CaseError(
                    f"{named}: intervals: there are {len(node.intervals)}, but "
                    f"{len(case.intervals)} looks"
                )
        for field in ("history", "recent", "looks"):
            _check_pairs(getattr(node, field), f"{named}: {field}")
        _check_rising(node.looks, f"{named}: looks")
    if not any(node.candidate for node in case.nodes):
        raise CaseError(f"{where}nodes: none is a candidate")


def _check_intervals(intervals: Sequence[float], where: str) -> None:
    for index, (before, after) in enumerate(pairwise(intervals), 1):
        if after < before:
            raise CaseError(f"{where}[{index}]: {after:g} is less than the {before:g} before it")


def _check_pairs(pairs: Sequence[tuple[float, float] | None], where: str) -> None:
    for index, pair in enumerate(pairs):
        if pair is not None and pair[0] > pair[1]:
            raise CaseError(f"{where}[{index}]: {pair[0]:g} failures of {pair[1]:g} requests")


def _check_rising(looks: Sequence[tuple[float, float] | None], where: str) -> None:
    counted = [(index, pair) for index, pair in enumerate(looks) if pair is not None]
    for (_, before), (index, after) in pairwise(counted):
        if after[0] < before[0] or after[1] < before[1]:
            raise CaseError(
                f"{where}[{index}]: counts since the step began cannot fall, from "
                f"{before[0]:g} of {before[1]:g} to {after[0]:g} of {after[1]:g}"
            )


def _refuse_what_stands_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, next_key in pairwise(keys) if key == next_key)
        name = found.get("name")
        where = f"{_node(name)}: " if isinstance(name, str) and name else ""
        raise CaseError(f"{where}{twice}: this field stands twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number; write null for what was not measured")
