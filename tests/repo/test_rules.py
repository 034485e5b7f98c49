"""Every rule of the design has a test that carries its number."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
RULES = range(1, 17)
NAMED = re.compile(r"^\s*(?:async )?def test_rules?_(\d+(?:_and_\d+)*)_", re.MULTILINE)


def test_every_rule_has_a_test_of_its_number():
    found = {
        int(number)
        for path in TESTS.rglob("test_*.py")
        for numbers in NAMED.findall(path.read_text())
        for number in numbers.split("_and_")
    }

    assert sorted(found) == list(RULES)
