"""The node's own ceiling: policies that were provisioned with the machine.

- No file: no ceiling; the node says so in its ModelHost.
- A file that is there and cannot be used refuses everything: a typing error must not open a node,
  and a name that stands twice is one, for YAML would take the second and drop the first.
- So does a file that everybody on the machine may write: it would be anybody's ceiling.
- It can only take away: a model needs the cluster's policies as well.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pydantic

from linnet_agent.errors import CeilingError
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.policy import public_key_pems
from linnet_agent.verify.strict_json import as_object
from linnet_api.names import API_VERSION
from linnet_api.trust_policy import TrustPolicySpec

DEFAULT_PATH: Final = Path("/etc/linnet/trust.yaml")
_MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The node's own policies; a model must satisfy them too."""

    policies: Mapping[str, TrustPolicySpec]
    """By name."""


def load_ceiling(path: Path = DEFAULT_PATH) -> Ceiling | None:
    """Read the ceiling; None where there is no such file.

    Raises:
        CeilingError: There is one, and it cannot be used. Nothing may be activated.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            msg = f"{path} is not a file of at most {_MAX_BYTES} bytes"
            raise CeilingError(msg)
        if found.st_mode & stat.S_IWOTH:
            msg = f"{path} can be written by everybody (mode {stat.S_IMODE(found.st_mode):o})"
            raise CeilingError(msg)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise CeilingError(msg) from error
    try:
        return Ceiling(parse_trust_policies(text))
    except ValueError as error:
        msg = f"{path}: {error}"
        raise CeilingError(msg) from error


def parse_trust_policies(text: str) -> dict[str, TrustPolicySpec]:
    """Read YAML documents of kind TrustPolicy: name to spec.

    Raises:
        ValueError: There is none, one is not a TrustPolicy, has a field that it does not know
            or a key that cannot be read; the message says which.
    """
    policies: dict[str, TrustPolicySpec] = {}
    for position, document in enumerate(_read_yaml(text), start=1):
        if document is None:
            continue
        name, spec = _parse_document(document, position=position)
        if name in policies:
            msg = f"two documents are named {name!r}"
            raise ValueError(msg)
        policies[name] = spec
    if not policies:
        msg = "no TrustPolicy in it"
        raise ValueError(msg)
    return policies


def _read_yaml(text: str) -> list[object]:
    import yaml  # noqa: PLC0415 - a mebibyte that a node without a ceiling can spare

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as it is overridden
            names = [name.value for name, _ in node.value]
            if (twice := next((n for n in names if names.count(n) > 1), None)) is not None:
                msg = f"{twice!r} stands twice in what begins in line {node.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(None, None, msg, None)
            return super().construct_mapping(node, deep=deep)

    try:
        return list(yaml.load_all(text, Loader=Strict))
    except (yaml.YAMLError, RecursionError) as error:
        msg = f"not YAML: {error}"
        raise ValueError(msg) from error
    except (LookupError, AttributeError, TypeError) as error:
        # What PyYAML raises for `!!bool maybe` and the like.
        msg = "not YAML: a value is not what its tag says"
        raise ValueError(msg) from error


def _parse_document(value: object, *, position: int) -> tuple[str, TrustPolicySpec]:
    document = as_object(value) or {}
    if document.get("kind") != "TrustPolicy":
        msg = f"document {position} is not of kind TrustPolicy"
        raise ValueError(msg)
    if document.get("apiVersion") != API_VERSION:
        msg = f"document {position} is of {document.get('apiVersion')!r}, not {API_VERSION}"
        raise ValueError(msg)
    metadata = as_object(document.get("metadata")) or {}
    name = str(metadata.get("name") or f"document {position}")
    try:
        spec = TrustPolicySpec.model_validate(document.get("spec"), extra="forbid")
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{name}: spec.{where}: {first['msg']}"
        raise ValueError(msg) from error
    for pem in public_key_pems([spec]):
        try:
            load_public_key(pem)
        except ValueError as error:
            msg = f"{name}: a public key is unusable: {error}"
            raise ValueError(msg) from error
    return name, spec
