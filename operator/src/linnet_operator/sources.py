"""Sources of models, read strictly.

Rules:
- A digest that people wrote (``@sha256:`` or ``spec.digest``) is taken as it is; two that differ
  are an error.
- No tag is no source: "latest" says nothing.
- A web server and a directory cannot say which bytes are meant: ``spec.digest`` must. Whether they
  hold them is for the node to see; nothing is asked from here.
"""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote

from linnet_api.fields import DIGEST_PATTERN
from linnet_operator.errors import SourceMalformedError

_NAME: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIRECTORY: Final = re.compile(
    r"(https://(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?|file://)"
    r"(?P<path>(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)+)/?"
)


@dataclass(frozen=True, slots=True)
class OciSource:
    """An ``oci://`` source in its parts; ``reference`` is a tag or a digest."""

    host: str
    name: str
    reference: str

    @property
    def digest(self) -> str | None:
        """The digest that the source names itself, if it does."""
        return self.reference if re.fullmatch(DIGEST_PATTERN, self.reference) else None

    @classmethod
    def parse(cls, source: str) -> Self:
        """Return the parts of ``oci://host/path:tag`` or ``oci://host/path@sha256:...``.

        Raises:
            SourceMalformedError: The text is neither; the message says which part is wrong.
        """
        rest = source.removeprefix("oci://")
        if rest == source:
            raise SourceMalformedError(f"{source!r} does not begin with oci://")
        host, slash, path = rest.partition("/")
        if not host or not slash:
            raise SourceMalformedError(f"{source!r} names no registry and path")
        name, at, reference = path.partition("@")
        if at:
            # A tag before the digest is for people; the digest decides.
            name = name.partition(":")[0]
            if re.fullmatch(DIGEST_PATTERN, reference) is None:
                raise SourceMalformedError(f"{source!r}: {reference!r} is not sha256:<64 hex>")
        else:
            name, colon, reference = path.partition(":")
            if not colon:
                raise SourceMalformedError(
                    f"{source!r} names no tag; write for example {source}:1.0"
                )
            if _TAG.fullmatch(reference) is None:
                raise SourceMalformedError(f"{source!r}: {reference!r} is not a tag")
        if _NAME.fullmatch(name) is None:
            raise SourceMalformedError(f"{source!r}: {name!r} is not a repository name")
        return cls(host=host, name=name, reference=reference)


def pinned_digest(source: str, digest: str | None) -> str | None:
    """Return the digest that needs no registry, or None where a tag must be asked for.

    Raises:
        SourceMalformedError: Source and ``spec.digest`` name two digests, or it is no source.
    """
    if not source.startswith("oci://"):
        _require_directory(source)
        if digest is None:
            raise SourceMalformedError(
                f"{source!r} needs spec.digest: nothing else says which bytes are meant"
            )
        return digest
    named = OciSource.parse(source).digest
    if named is not None and digest is not None and named != digest:
        raise SourceMalformedError(
            f"the source names {named}, spec.digest names {digest}; keep one of them"
        )
    return digest or named


def _require_directory(source: str) -> None:
    found = _DIRECTORY.fullmatch(source)
    parts = unquote(found["path"]).split("/")[1:] if found else [".."]
    if any(part in {"", ".", ".."} or not part.isprintable() for part in parts):
        raise SourceMalformedError(
            f"{source!r} names no directory; write https://host/path or file:///path, without "
            "user, query and fragment"
        )
