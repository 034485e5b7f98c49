"""Keyless bundles, verified in a short-lived child: bundles in, verdicts out.

- The child alone imports ``sigstore``: half a second and 60 MiB, for as long as it is needed.
- It has no network, no files, a limit on memory and on time; see ``keyless_child``.
- A bundle at which the child dies or falls silent is refused; those after it get a new child.
- A child that cannot start, or answers in another form, proves nothing: every bundle is refused.
- What the child says about a payload is checked to be about the payload that was sent.
"""

import base64
import contextlib
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.file_signatures import FileVerifier, parse_file_bundle
from linnet_agent.verify.signatures import (
    Identified,
    IdentitySigner,
    KeylessVerdict,
    KeylessVerifier,
    LogEntry,
    Logged,
    Proof,
    Unproved,
)
from linnet_agent.verify.strict_json import parse_json_object
from linnet_api.reasons import NodeReason

CHILD: Final = (sys.executable, "-I", "-B", "-m", "linnet_agent.verify.keyless_child")
_MAX_SENT_BYTES: Final = 16 << 20
"""Bundles in one request; base64 and the roots fit into what the child reads."""
_MAX_ANSWER_BYTES: Final = 256 << 10
_MAX_ERRORS: Final = 64 << 10
_ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class _Question:
    raw: bytes
    artifact_sha256: bytes | None = None
    payload_sha256: str | None = None


class ChildVerifier(KeylessVerifier, FileVerifier):
    """Asks one child for each call."""

    def __init__(
        self,
        roots: Mapping[str, bytes],
        *,
        now: datetime,
        timeout_s: float = 40.0,
        command: Sequence[str] = CHILD,
    ) -> None:
        """Keep what the child is to be told.

        Args:
            roots: Trusted roots (`trusted_root.json`) by name.
            now: What the node takes for the time; a signature from later is the clock's fault.
            timeout_s: For a whole call; half of it without an answer is too long.
            command: Starts the child.
        """
        self._roots = {name: raw.decode(errors="replace") for name, raw in roots.items()}
        self._now = now
        self._timeout_s = timeout_s
        self._command = tuple(command)

    def verify(self, bundles: Sequence[bytes]) -> Sequence[KeylessVerdict]:
        """Return one verdict for each bundle, in order; never raises."""
        questions = [_question(raw) for raw in bundles]
        asked = [one for one in questions if isinstance(one, _Question)]
        answers = iter(self._ask(asked))
        return [next(answers) if isinstance(one, _Question) else one for one in questions]

    def verify_file(self, bundle: bytes, *, sha256: bytes) -> KeylessVerdict:
        """Return what a bundle proves about the file with that digest; never raises."""
        try:
            payload_sha256 = parse_file_bundle(bundle).payload_sha256
        except MalformedBundleError as error:
            return Unproved(NodeReason.MALFORMED_BUNDLE, str(error))
        question = _Question(bundle, artifact_sha256=sha256, payload_sha256=payload_sha256)
        return self._ask([question])[0]

    def _ask(self, questions: Sequence[_Question]) -> list[KeylessVerdict]:
        deadline = time.monotonic() + self._timeout_s
        verdicts: list[KeylessVerdict | None] = [None] * len(questions)
        waiting = sorted(range(len(questions)), key=lambda index: len(questions[index].raw))
        while waiting:
            sent = _fitting([questions[index] for index in waiting])
            lines, ending = self._run(sent, deadline=deadline)
            started = bool(lines) and isinstance(lines[0].get("layers"), list)
            for question, line in zip(sent, lines[1:] if started else (), strict=False):
                verdicts[waiting.pop(0)] = read_verdict(
                    line, payload_sha256=question.payload_sha256
                )
            if not started or time.monotonic() > deadline:
                rest = _unavailable(ending)
                return [rest if verdict is None else verdict for verdict in verdicts]
            if len(lines) <= len(sent):
                verdicts[waiting.pop(0)] = _unavailable(ending)
        return [verdict for verdict in verdicts if verdict is not None]

    def _run(
        self, questions: Sequence[_Question], *, deadline: float
    ) -> tuple[list[dict[str, Any]], str]:
        """Return what a child writes, a line for itself and one for each bundle, and how it ended.

        The request lies in memory, not in a pipe: nobody waits for a child that does not read.
        """
        command = [*self._command, str(os.getpid()), str(int(self._timeout_s) + 1)]
        try:
            with (
                os.fdopen(os.memfd_create("request"), "w+b") as request,
                os.fdopen(os.memfd_create("errors"), "w+b") as errors,
            ):
                request.write(self._request(questions))
                request.seek(0)
                with subprocess.Popen(  # noqa: S603 - this program, by this interpreter
                    command,
                    stdin=request,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=_ENVIRONMENT,
                    cwd="/",
                ) as child:
                    try:
                        lines, ending = self._read(child, most=1 + len(questions), until=deadline)
                    finally:
                        child.kill()
                if ending:
                    return lines, ending
                errors.seek(0)
                return lines, _how_it_ended(child.returncode, errors.read(_MAX_ERRORS))
        except OSError as error:
            return [], f"it cannot be started: {error}"

    def _request(self, questions: Sequence[_Question]) -> bytes:
        document = {
            "now": self._now.isoformat(),
            "roots": self._roots,
            "bundles": [
                {
                    "bundle": base64.b64encode(one.raw).decode(),
                    "digest": None if one.artifact_sha256 is None else one.artifact_sha256.hex(),
                }
                for one in questions
            ],
        }
        return json.dumps(document).encode()

    def _read(
        self, child: subprocess.Popen[bytes], *, most: int, until: float
    ) -> tuple[list[dict[str, Any]], str]:
        """Return the lines, and why no more were read; nothing where the child has ended."""
        assert child.stdout is not None
        output = child.stdout.fileno()
        lines: list[dict[str, Any]] = []
        rest = b""
        quiet_s = self._timeout_s / 2
        silent_at = time.monotonic() + quiet_s
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while len(lines) < most:
                left_s = min(silent_at, until) - time.monotonic()
                if left_s <= 0:
                    return lines, f"it said nothing for {quiet_s:g} s, or took too long in all"
                if not selector.select(left_s):
                    continue
                chunk = os.read(output, 1 << 16)
                if not chunk:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(timeout=left_s)
                    return lines, ""
                *whole, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_ANSWER_BYTES:
                    return lines, "it wrote more than an answer"
                for line in whole:
                    try:
                        lines.append(parse_json_object(line, max_bytes=_MAX_ANSWER_BYTES))
                    except ValueError:
                        return lines, "it wrote something that is not an answer"
                    if "fault" in lines[-1]:
                        return lines[:-1], str(lines[-1]["fault"])
                    silent_at = time.monotonic() + quiet_s
        return lines, "it has answered"


def read_verdict(answer: Mapping[str, Any], *, payload_sha256: str | None) -> KeylessVerdict:
    """Read what the child answers; it is ours, but it has looked at foreign bytes.

    Args:
        answer: As ``keyless_child.answer`` makes it.
        payload_sha256: Hex, of the statement that it must be about; None: of a bare signature.
    """
    try:
        if "proofs" not in answer:
            return Unproved(NodeReason(answer["reason"]), str(answer["message"]))
        proofs = answer["proofs"]
        if any(proof["payloadSha256"] != payload_sha256 for proof in proofs):
            return _unavailable("it answered about another payload")
        if "key" in proofs[0]:
            return Logged(tuple(_entry(proof) for proof in proofs))
        return Identified(tuple(_proof(proof) for proof in proofs))
    except (KeyError, TypeError, ValueError, IndexError):
        return _unavailable("its answer has another form")


def _question(raw: bytes) -> _Question | Unproved:
    try:
        return _Question(raw, payload_sha256=parse_bundle(raw).payload_sha256)
    except MalformedBundleError as error:
        return Unproved(NodeReason.MALFORMED_BUNDLE, str(error))


def _fitting(questions: Sequence[_Question]) -> list[_Question]:
    """Return as many of the first as fit into one request, and at least one."""
    sizes = itertools.accumulate(len(one.raw) for one in questions)
    fitting = sum(1 for size in sizes if size <= _MAX_SENT_BYTES)
    return list(questions[: max(1, fitting)])


def _how_it_ended(returncode: int, errors: bytes) -> str:
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return f"it ended with {returncode}: {last[0][:300]}"


def _unavailable(ending: str) -> Unproved:
    message = f"the verifier of keyless bundles did not answer: {ending}"
    return Unproved(NodeReason.KEYLESS_UNAVAILABLE, message)


def _entry(document: Mapping[str, Any]) -> LogEntry:
    return LogEntry(
        spki_hash=str(document["key"]),
        signed_at=datetime.fromisoformat(document["signedAt"]),
        log_index=int(document["logIndex"]),
        root=str(document["root"]),
    )


def _proof(document: Mapping[str, Any]) -> Proof:
    identity = document["identity"]
    return Proof(
        IdentitySigner(
            issuer=str(identity["issuer"]),
            subject=str(identity["subject"]),
            root=str(document["root"]),
            certificate=str(identity["certificate"]),
            claims={str(name): str(text) for name, text in identity["claims"].items()},
        ),
        signed_at=datetime.fromisoformat(document["signedAt"]),
        log_index=int(document["logIndex"]),
    )
