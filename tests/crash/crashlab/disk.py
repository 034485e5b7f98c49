"""A disk: what of all that was done to a tree a power cut may leave.

The model is stricter than ext4 with ordered data, so that it holds for other file systems, too:

- What a file held at its last fsync stays. What was written since is lost or kept, or broken at a
  sector: what is behind the break, or before it, is cut off or zeros.
- A name (create, rename, unlink, mkdir, symlink) stays once its directory was fsynced. Until then
  it is there or not. *Ordered*: as on ext4, names come in the order in which they were made, and
  the fsync of anything takes along what came before. *Any*: each by itself, in any choice.
- A rename is one change: never half of it, also between two directories.
"""

import itertools
from typing import NamedTuple

from crashlab.log import ROOT, Ack, Enter, Resize, Sync, Write, apply

SECTOR = 512
MAX_BREAKS = 16
"""At so many places at most a file is broken off."""


class State(NamedTuple):
    """A tree that a power cut may leave."""

    after: int
    """So many steps had been taken."""
    model: str
    tree: dict[str, str | bytes]
    """Path to ``d``, ``l<target>``, or what is in the file."""


def crash_states(log, *, rng, per_point, choose=None):
    """Yield what a power cut may leave, after each step; equal trees at one point only once.

    Args:
        log: What was done.
        rng: Draws where there is more than can be tried.
        per_point: So many states at most after one step.
        choose: Tells by its number whether to look at what is left after a step; None: all.
    """
    disk = _Disk(log)
    for number, step in enumerate(log.steps, start=1):
        disk.take(step)
        if isinstance(step, Ack) or (choose is not None and not choose(number)):
            continue
        seen = set()
        for model, tree in disk.leave(rng, per_point):
            key = frozenset(tree.items())
            if key not in seen:
                seen.add(key)
                yield State(number, model, tree)


class _Disk:
    """What is durable, and what is not yet."""

    def __init__(self, log):
        self._kinds = log.kinds
        self._names = {inode: dict(names) for inode, names in log.directories.items()}
        self._synced = dict(log.files)
        self._written = {}
        self._entered = []
        """[changes of names, durable, committed], since the last one with all before it durable."""

    def take(self, step):
        match step:
            case Enter(changes):
                self._entered.append([changes, False, False])
            case Write(inode) | Resize(inode):
                self._written.setdefault(inode, []).append(step)
            case Sync(inode):
                for step_written in self._written.pop(inode, ()):
                    content = self._synced.get(inode, b"")
                    self._synced[inode] = apply(content, step_written)
                for entered in self._entered:
                    entered[2] = True
                    entered[1] |= any(directory == inode for directory, _, _ in entered[0])
                while self._entered and self._entered[0][1]:
                    self._apply(self._names, self._entered.pop(0)[0])

    def live(self):
        """Return the tree as the process sees it."""
        names = {inode: dict(entries) for inode, entries in self._names.items()}
        for changes, _, _ in self._entered:
            self._apply(names, changes)
        return self._tree(self._reach(names), {i: self._variants(i)[0] for i in self._written})

    def leave(self, rng, limit):
        """Yield (model, tree); the most likely ones first, and ``limit`` at most."""
        choices = self._orders(rng, limit)
        budget = max(1, limit // len(choices))
        for model, chosen in choices:
            names = {inode: dict(entries) for inode, entries in self._names.items()}
            for changes in chosen:
                self._apply(names, changes)
            reached = self._reach(names)
            torn = [inode for _, inode in reached if inode in self._written]
            for contents in self._contents(sorted(set(torn)), rng, budget):
                yield model, self._tree(reached, contents)

    def _orders(self, rng, limit):
        """Return choices of the changes of names that the disk has, as (model, changes)."""
        base = sum(committed for _, _, committed in self._entered)
        every = [changes for changes, _, _ in self._entered]
        found = [("ordered", every[:count]) for count in range(base, len(every) + 1)]
        loose = [i for i, (_, durable, _) in enumerate(self._entered) if not durable]
        if 2 ** len(loose) <= limit:
            subsets = itertools.chain.from_iterable(
                itertools.combinations(loose, count) for count in range(len(loose) + 1)
            )
        else:
            single = [(i,) for i in loose] + [tuple(j for j in loose if j != i) for i in loose]
            drawn = [tuple(i for i in loose if rng.random() < 0.5) for _ in range(limit)]
            subsets = [(), *single, *drawn]
        for subset in subsets:
            kept = set(subset)
            chosen = [c for i, (c, durable, _) in enumerate(self._entered) if durable or i in kept]
            found.append(("any", chosen))
        return found[: len(every) - base + 1 + limit]

    def _contents(self, inodes, rng, limit):
        """Yield what files hold that were written to: first one by one, then drawn together."""
        variants = {inode: self._variants(inode) for inode in inodes}
        if not inodes:
            yield {}
            return
        if _product(map(len, variants.values())) <= limit:
            for combination in itertools.product(*variants.values()):
                yield dict(zip(inodes, combination, strict=True))
            return
        yield {inode: variants[inode][0] for inode in inodes}
        yield {inode: variants[inode][-1] for inode in inodes}
        for _ in range(limit):
            yield {inode: rng.choice(variants[inode]) for inode in inodes}

    def _variants(self, inode):
        """Return what a file may hold: kept first, lost last; between them, it breaks at a sector.

        What lies behind the break, or before it, is lost: cut off, or zeros.
        """
        lost = self._synced.get(inode, b"")
        kept, found = lost, []
        for step in self._written[inode]:
            kept = apply(kept, step)
            found.append(kept)
        breaks = range(SECTOR, len(kept), SECTOR * -(-len(kept) // (SECTOR * MAX_BREAKS)) or SECTOR)
        for at in (*breaks, len(kept) // 2, len(kept) - 1):
            zeros = b"\0" * at
            found += [kept[:at], kept[:at].ljust(len(kept), b"\0"), zeros + kept[at:]]
        return list(dict.fromkeys([kept, b"\0" * len(kept), *found, lost]))

    def _apply(self, names, changes):
        for directory, name, inode in changes:
            entries = names.setdefault(directory, {})
            if inode is None:
                entries.pop(name, None)
            else:
                entries[name] = inode

    def _reach(self, names):
        """Return every path that leads to an inode."""
        found, left = [], [("", ROOT)]
        while left:
            path, inode = left.pop()
            for name, child in names.get(inode, {}).items():
                below = f"{path}/{name}" if path else name
                found.append((below, child))
                if self._kinds[child] == "d":
                    left.append((below, child))
        return sorted(found)

    def _tree(self, reached, contents):
        tree = {}
        for path, inode in reached:
            kind = self._kinds[inode]
            if kind == "f":
                tree[path] = contents.get(inode, self._synced.get(inode, b""))
            else:
                tree[path] = kind
        return tree


def last_tree(log):
    """Return the tree as the process left it."""
    return list(live_trees(log))[-1]


def live_trees(log):
    """Yield the tree as the process sees it: at the start, and after each step."""
    disk = _Disk(log._replace(steps=[]))
    yield disk.live()
    for step in log.steps:
        disk.take(step)
        yield disk.live()


def _product(numbers):
    product = 1
    for number in numbers:
        product *= number
    return product
