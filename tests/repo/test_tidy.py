"""What a linter does not see: banned names and words, generated files, locks without addresses."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from linnet_api import crdgen

ROOT = Path(__file__).parents[2]
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
TEXT = [p for p in TRACKED if p.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".cfg", ""}]
BANNED_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "manager"}
REGISTRIES = re.compile(
    r"https?://[^\s\"']*(pypi\.org|pythonhosted\.org|proxy\.golang\.org|deb\.debian\.org|registry\.npmjs)"
)


def test_no_module_has_a_name_that_says_nothing():
    assert [p for p in TRACKED if p.suffix == ".py" and p.stem in BANNED_NAMES] == []


def test_no_file_says_to_do_later():
    word = "TO" + "DO"
    found = [p for p in TEXT if p.suffix == ".py" and re.search(rf"\b{word}\b", p.read_text())]

    assert found == []


def test_no_file_names_a_package_registry():
    assert [p for p in TEXT if REGISTRIES.search(p.read_text(errors="replace"))] == []


def test_every_lock_has_hashes_and_no_index_address():
    locks = sorted((ROOT / "requirements").glob("*.txt"))

    assert {p.stem for p in locks} >= {"operator", "agent", "cli", "dev"}
    for path in locks:
        text = path.read_text()
        assert "--hash=sha256:" in text, path
        assert "://" not in text, path


def test_the_lock_names_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(w for extra in project["optional-dependencies"].values() for w in extra),
    ]
    names = {re.split(r"[<>=\[ ]", w)[0].lower().replace("_", "-") for w in wanted} - {"linnet"}
    locked = set(
        re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    )

    assert names - locked == set()


@pytest.mark.parametrize("kind", crdgen.KINDS, ids=lambda kind: kind.name)
def test_crds_are_what_the_models_say(kind):
    path = ROOT / "crds" / f"{kind.plural}.yaml"

    assert path.read_text() == crdgen.render(kind), "run: make crds"


def test_no_image_or_unit_runs_python_without_asserts():
    found = [
        p
        for p in TRACKED
        if ("Dockerfile" in p.name or p.suffix == ".service")
        and re.search(r"python3?\s+-O|PYTHONOPTIMIZE", p.read_text())
    ]

    assert found == []


def test_links_between_documents_lead_somewhere():
    broken = []
    for path in (p for p in TRACKED if p.suffix == ".md"):
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        broken += [
            (path.name, target)
            for target in targets
            if "://" not in target and not (path.parent / target).exists()
        ]

    assert broken == []
