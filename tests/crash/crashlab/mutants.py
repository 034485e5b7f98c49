"""Mistakes that a careful person makes once: each is seeded into a child's agent by its source.

A mistake is a replacement of text in the one module that has it, made when the child imports it.
Where the text is not there, or not just once, the child ends: a mistake that was not made proves
nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """The text ``old`` becomes ``new``."""

    old: str
    new: str


MUTANTS = {
    "no-file-fsync": Mutant(
        "        os.fsync(descriptor)\n"
        "    finally:\n"
        "        os.close(descriptor)\n"
        "    temporary.replace",
        "        pass\n    finally:\n        os.close(descriptor)\n    temporary.replace",
    ),
    "no-directory-fsync": Mutant(
        "    temporary.replace(link)\n    sync_directory(link.parent)\n",
        "    temporary.replace(link)\n",
    ),
    "stale-link-stays": Mutant(
        "    temporary.unlink(missing_ok=True)\n    temporary.symlink_to",
        "    temporary.symlink_to",
    ),
    "baseline-evicted-too-early": Mutant("        kept.add(order.baseline)\n", ""),
    "current-before-the-store": Mutant(
        "    source.rename(place)\n"
        "    sync_directory(place.parent)\n"
        "    sync_directory(source.parent)\n",
        "    source.rename(place)\n",
    ),
    "journal-before-its-data": Mutant(
        '    return replace(journal, state=state, reason=NodeReason.WORKING, message="")\n',
        """    from linnet_agent.journal import Known
    early = Known(artifact=order.artifact, model_digest="sha256:" + "0" * 64)
    known = {**journal.known, order.revision: early} if action.step is Step.FETCH else journal.known
    return replace(journal, state=state, reason=NodeReason.WORKING, message="", known=known)
""",
    ),
}


def seed(name):
    """Let ``linnet_agent`` be imported with one mistake in it."""
    mutant = MUTANTS[name]
    package = Path(importlib.util.find_spec("linnet_agent").submodule_search_locations[0])
    having = [path for path in package.rglob("*.py") if mutant.old in path.read_text()]
    if len(having) != 1 or having[0].read_text().count(mutant.old) != 1:
        sys.exit(f"{name}: the text to change is there not just once: {having}")

    class Loader(importlib.machinery.SourceFileLoader):
        def get_code(self, fullname):
            source = self.get_source(fullname)
            return compile(source.replace(mutant.old, mutant.new), self.path, "exec")

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path, _target=None):
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is None or spec.origin != str(having[0]):
                return None
            spec.loader = Loader(fullname, spec.origin)
            return spec

    sys.meta_path.insert(0, Finder())
