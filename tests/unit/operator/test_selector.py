"""Label selectors match as Kubernetes matches them."""

import pytest

from linnet_api.fields import NodeSelector
from linnet_operator.selector import matches

LABELS = {"fleet": "cameras", "zone": "a"}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        pytest.param({"key": "zone", "operator": "In", "values": ["a", "b"]}, True, id="in"),
        pytest.param({"key": "zone", "operator": "In", "values": ["b"]}, False, id="not in"),
        pytest.param({"key": "zone", "operator": "NotIn", "values": ["b"]}, True, id="notin"),
        pytest.param(
            {"key": "none", "operator": "NotIn", "values": ["b"]}, True, id="absent notin"
        ),
        pytest.param({"key": "zone", "operator": "Exists"}, True, id="exists"),
        pytest.param({"key": "none", "operator": "Exists"}, False, id="does not exist"),
        pytest.param({"key": "none", "operator": "DoesNotExist"}, True, id="absent"),
        pytest.param({"key": "zone", "operator": "DoesNotExist"}, False, id="present"),
    ],
)
def test_an_expression_holds_as_in_kubernetes(expression, wanted):
    selector = NodeSelector.model_validate({"matchExpressions": [expression]})

    assert matches(selector, LABELS) is wanted


def test_every_part_must_hold():
    both = {
        "matchLabels": {"fleet": "cameras"},
        "matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}],
    }

    assert not matches(NodeSelector.model_validate(both), LABELS)
    assert matches(NodeSelector.model_validate({"matchLabels": {"fleet": "cameras"}}), LABELS)
    assert not matches(NodeSelector.model_validate({"matchLabels": {"fleet": "x"}}), LABELS)
