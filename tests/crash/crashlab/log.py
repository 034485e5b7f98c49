"""What was done to a tree: system calls as steps on inodes, in order.

- A path is looked up in the tree as it was at the time of the call; an inode keeps its number.
- A call that is not understood, and touches the tree, is an error: nothing is left out.
- Modes are not steps: the agent reads its files as their owner.
"""

import itertools
import posixpath
from typing import NamedTuple

ROOT = 0


class Enter(NamedTuple):
    """Names in directories, changed in one: (directory, name, inode or None)."""

    changes: tuple[tuple[int, str, int | None], ...]


class Write(NamedTuple):
    inode: int
    offset: int
    content: bytes


class Resize(NamedTuple):
    inode: int
    size: int


class Sync(NamedTuple):
    inode: int


class Ack(NamedTuple):
    """The process said that it has done something: from here on it must be durable."""

    name: str


class Log(NamedTuple):
    """A tree as it was at the start, durable, and everything that was done to it."""

    kinds: dict[int, str]
    """Of each inode: ``d``, ``f``, or ``l`` and the target."""
    directories: dict[int, dict[str, int]]
    files: dict[int, bytes]
    steps: list[object]
    calls: list[object]
    """Of each step, the call that it comes from."""


class _Reader:
    """Turns calls into steps; keeps the tree as the process saw it."""

    def __init__(self, root, start):
        self._root = root
        self._numbers = itertools.count(ROOT)
        self.kinds, self.directories, self.files = {}, {}, {}
        self._load(start)
        self.log = Log(
            dict(self.kinds),
            {inode: dict(names) for inode, names in self.directories.items()},
            dict(self.files),
            [],
            [],
        )
        self._offsets = {}

    def _load(self, path):
        inode = next(self._numbers)
        if path.is_symlink():
            self.kinds[inode] = f"l{path.readlink()}"
        elif path.is_dir():
            self.kinds[inode] = "d"
            self.directories[inode] = {}
            for child in sorted(path.iterdir()):
                self.directories[inode][child.name] = self._load(child)
        else:
            self.kinds[inode] = "f"
            self.files[inode] = path.read_bytes()
        return inode

    def _relative(self, call, index):
        """Return the path below the root that an argument names, and how many it took."""
        argument = call.arguments[index]
        if isinstance(argument, bytes):
            return self._below(argument.decode()), 1
        name = call.arguments[index + 1]
        return self._below(posixpath.join(argument.path, name.decode())), 2

    def _below(self, path):
        path = posixpath.normpath(path)
        if path == self._root:
            return ""
        return path.removeprefix(self._root + "/") if path.startswith(self._root + "/") else None

    def _find(self, path):
        inode = ROOT
        for part in filter(None, path.split("/")):
            inode = self.directories[inode][part]
        return inode

    def _place(self, path):
        head, _, name = path.rpartition("/")
        return self._find(head), name

    def _new(self, kind):
        inode = next(self._numbers)
        self.kinds[inode] = self.log.kinds[inode] = kind
        if kind == "d":
            self.directories[inode] = {}
        elif kind == "f":
            self.files[inode] = b""
        return inode

    def _step(self, call, step):
        match step:
            case Enter(changes):
                for directory, name, inode in changes:
                    if inode is None:
                        self.directories[directory].pop(name, None)
                    else:
                        self.directories[directory][name] = inode
            case Write(inode) | Resize(inode):
                self.files[inode] = apply(self.files[inode], step)
        self.log.steps.append(step)
        self.log.calls.append(call)

    def acknowledge(self, call, name):
        self._step(call, Ack(name))

    def take(self, call):
        """Take one call that has succeeded."""
        match call.name:
            case "openat" | "open" | "creat":
                return self._open(call)
            case "write" | "pwrite64":
                return self._write(call)
            case "mkdir" | "mkdirat":
                path, _ = self._relative(call, 0)
                return self._enter(call, {path: self._new("d")} if path else {})
            case "symlink" | "symlinkat":
                path, _ = self._relative(call, 1)
                return self._enter(call, {path: self._new(f"l{call.arguments[0].decode()}")})
            case "rename" | "renameat" | "renameat2":
                source, taken = self._relative(call, 0)
                target, _ = self._relative(call, taken)
                if source is None and target is None:
                    return None
                assert call.name != "renameat2" or "0" in call.arguments[-1:], call
                return self._enter(call, {source: None, target: self._find(source)})
            case "unlink" | "rmdir" | "unlinkat":
                path, _ = self._relative(call, 0)
                return self._enter(call, {path: None} if path is not None else {})
            case "fsync" | "fdatasync":
                path = self._below(call.arguments[0].path)
                return None if path is None else self._step(call, Sync(self._find(path)))
            case "ftruncate" | "truncate":
                first = call.arguments[0]
                path = self._below(first.path if hasattr(first, "path") else first.decode())
                if path is None:
                    return None
                return self._step(call, Resize(self._find(path), int(call.arguments[1])))
            case "chmod" | "fchmod" | "fchmodat":
                return None
            case "fallocate":
                path = self._below(call.arguments[0].path)
                assert path is None or "KEEP_SIZE" in call.arguments[1], call
                return None
        touched = [a.path for a in call.arguments if hasattr(a, "path")]
        assert all(self._below(path) is None for path in touched), f"not modelled: {call}"
        return None

    def _enter(self, call, changes):
        if not changes or None in changes:
            assert not any(changes), call
            return
        self._step(call, Enter(tuple((*self._place(p), inode) for p, inode in changes.items())))

    def _open(self, call):
        path = None if call.returned is None else self._below(call.returned.path)
        if path is None:
            return
        flags = call.arguments[2] if call.name == "openat" else call.arguments[1]
        directory, name = self._place(path) if path else (ROOT, "")
        if path and name not in self.directories[directory]:
            assert "O_CREAT" in flags, call
            self._step(call, Enter(((directory, name, self._new("f")),)))
        elif "O_TRUNC" in flags:
            self._step(call, Resize(self._find(path), 0))
        self._offsets[call.returned.number] = None if "O_APPEND" in flags else 0

    def _write(self, call):
        file = call.arguments[0]
        path = self._below(file.path) if hasattr(file, "path") else None
        if path is None or not call.result:
            return
        content = call.arguments[1][: call.result]
        if call.name == "pwrite64":
            offset = int(call.arguments[3])
        else:
            offset = self._offsets[file.number]
            if offset is None:
                offset = len(self.files[self._find(path)])
            else:
                self._offsets[file.number] += call.result
        self._step(call, Write(self._find(path), offset, content))


def read_log(calls, *, root, start, acknowledgements):
    """Return what ``calls`` did below ``root``.

    Args:
        calls: As recorded.
        root: The path that the process worked on.
        start: A copy of the tree as it was before; durable.
        acknowledgements: The file that the process writes the names of its steps to.
    """
    reader = _Reader(str(root), start)
    for call in calls:
        first = call.arguments[0] if call.arguments else None
        if call.name == "write" and getattr(first, "path", None) == str(acknowledgements):
            reader.acknowledge(call, call.arguments[1].decode().strip())
        elif call.result >= 0:
            reader.take(call)
    return reader.log


def apply(content, step):
    """Return a file's content after one step."""
    if isinstance(step, Resize):
        return content[: step.size].ljust(step.size, b"\0")
    end = step.offset + len(step.content)
    return content[: step.offset].ljust(step.offset, b"\0") + step.content + content[end:]


def read_tree(root):
    """Return the tree that lies at ``root``, as ``State.tree``; sockets are left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"l{path.readlink()}"
        elif path.is_dir():
            found[name] = "d"
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
