"""Label selectors, as Kubernetes matches them."""

from collections.abc import Mapping

from linnet_api.fields import NodeSelector, SelectorRequirement


def matches(selector: NodeSelector, labels: Mapping[str, str]) -> bool:
    """Return whether an object with ``labels`` is selected; every part must hold."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def _holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
