"""Keyless verification in this process: what the agent's child does, without the half second."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.file_signatures import FileVerifier, parse_file_bundle
from linnet_agent.verify.keyless import read_verdict
from linnet_agent.verify.keyless_child import answer
from linnet_agent.verify.signatures import KeylessVerdict, KeylessVerifier


class HereVerifier(KeylessVerifier, FileVerifier):
    """Answers as ``ChildVerifier`` does; for bundles that the caller knows to be well-formed."""

    def __init__(self, roots: Mapping[str, bytes], *, now: datetime) -> None:
        """Keep trusted roots by name, and what is taken for the time."""
        self._roots = roots
        self._now = now

    def verify(self, bundles: Sequence[bytes]) -> Sequence[KeylessVerdict]:
        """Return one verdict for each bundle, in order."""
        return [self._ask(raw, None) for raw in bundles]

    def verify_file(self, bundle: bytes, *, sha256: bytes) -> KeylessVerdict:
        """Return what a bundle proves about the file with that digest."""
        return self._ask(bundle, sha256)

    def _ask(self, raw: bytes, sha256: bytes | None) -> KeylessVerdict:
        bundle = parse_file_bundle(raw) if sha256 is not None else parse_bundle(raw)
        said = answer(raw, roots=self._roots, now=self._now, artifact_sha256=sha256)
        return read_verdict(said, payload_sha256=bundle.payload_sha256)
