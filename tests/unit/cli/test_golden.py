"""What people see, word by word. After a wanted change, copy the file that the failure names."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SITUATIONS = (
    "first-rollout",
    "baking",
    "rolled-back",
    "refused",
    "waiting-for-approval",
    "completed-without-two",
    "a-thousand",
)


@pytest.mark.parametrize("command", ["status", "explain"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_output_is_the_golden_one(situation, command, stories, linnet, tmp_path):
    kube = stories[situation]().kube()

    outcome = linnet(kube, command, "digits")

    golden = GOLDEN / f"{command}-{situation}.txt"
    seen = tmp_path / golden.name
    seen.write_text(outcome.out, encoding="utf-8")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == golden.read_text(encoding="utf-8"), f"see {seen}"
