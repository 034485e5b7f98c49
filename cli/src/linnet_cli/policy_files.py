"""Files of RolloutPolicies: what somebody wrote in, policies and sentences about them out.

- Whatever the file holds, it ends as a sentence that names the file or the field.
- All that is wrong with a policy is said at once.
- What the API server would refuse, or drop without a word, is wrong here as well.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import yaml

from linnet_api.names import API_VERSION
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_cli.errors import CliError, UsageError
from linnet_operator.policy_rules import policy_problems

# Merged maps (`<<`) of merged maps grow without bound.
_LARGEST_MAP = 10_000


class ReadPolicy(NamedTuple):
    """A policy of a file; without a spec, or with problems, it cannot be used."""

    name: str
    spec: RolloutPolicySpec | None
    problems: list[str]


def read_policies(path: Path) -> list[ReadPolicy]:
    """Return the policies of a file; documents of other kinds are left alone.

    Raises:
        CliError: The file cannot be read, or is not YAML.
        UsageError: It holds no RolloutPolicy.
    """
    found = [
        _read_policy(document, position=position)
        for position, document in enumerate(_read_documents(path), start=1)
        if isinstance(document, dict) and document.get("kind") == "RolloutPolicy"
    ]
    if not found:
        raise UsageError(f"{path} holds no RolloutPolicy")
    return found


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._looked_at: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A second time it has what was merged as well, which a field of its own may replace.
        if id(node) not in self._looked_at:
            self._looked_at.add(id(node))
            _refuse_what_stands_twice(node)
        super().flatten_mapping(node)
        if len(node.value) > _LARGEST_MAP:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {_LARGEST_MAP} fields are merged", node.start_mark
            )


def _refuse_what_stands_twice(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the field {key.value} stands twice", key.start_mark
            )
        seen.add(key.value)


def _read_documents(path: Path) -> list[object]:
    try:
        return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Loader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CliError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise CliError(f"{path} cannot be read: it is nested too deep") from error
    except ValueError as error:
        # A value that looks like a date and is none: 2026-13-45.
        raise CliError(f"{path} cannot be read: {error}") from error
    except (LookupError, AttributeError, TypeError) as error:
        # What PyYAML raises for `!!bool maybe` and the like.
        raise CliError(f"{path} cannot be read: a value is not what its tag says") from error


def _read_policy(document: dict[Any, Any], *, position: int) -> ReadPolicy:
    metadata, raw = document.get("metadata"), document.get("spec")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    problems: list[str] = []
    if not isinstance(metadata, dict):
        problems.append("metadata: a map with a name is needed")
    elif not isinstance(name, str) or not name:
        problems.append("metadata.name: a text is needed")
    if document.get("apiVersion") != API_VERSION:
        problems.append(f"apiVersion: {API_VERSION} is needed")
    shown = name if isinstance(name, str) and name else f"document {position}"
    if not isinstance(raw, dict):
        return ReadPolicy(shown, None, [*problems, "spec: a map is needed"])
    try:
        spec = RolloutPolicySpec.model_validate(raw)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return ReadPolicy(shown, None, [*problems, *(_problem(each) for each in found)])
    problems += _unknown_fields(raw, spec.model_dump(by_alias=True), path="spec")
    problems += _named_twice([each.name for each in spec.judge.compare], "compare")
    problems += _named_twice([each.name for each in spec.judge.thresholds], "thresholds")
    return ReadPolicy(shown, spec, [*problems, *policy_problems(spec)])


def _named_twice(names: list[str], where: str) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"spec.judge.{where} {name}: there are two of that name" for name in twice]


def _unknown_fields(raw: object, known: object, *, path: str) -> list[str]:
    """Return the fields that were written but are none; the API server would drop them."""
    if isinstance(raw, list) and isinstance(known, list | tuple):
        pairs = enumerate(zip(raw, known, strict=True))
        return [text for n, (a, b) in pairs for text in _unknown_fields(a, b, path=f"{path}.{n}")]
    if not isinstance(raw, dict) or not isinstance(known, dict):
        return []
    found = [f"{path}.{key} is no field" for key in raw if key not in known]
    for key in raw.keys() & known.keys():
        found += _unknown_fields(raw[key], known[key], path=f"{path}.{key}")
    return sorted(found)


def _problem(error: Any) -> str:  # noqa: ANN401 - pydantic's own type is not public
    return f"spec.{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
