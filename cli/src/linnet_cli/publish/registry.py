"""A registry, as a publisher needs it: blobs, manifests, and bundles attached to them.

- What is there already is not sent again.
- A registry that keeps referrers says so when a manifest with a subject arrives (``OCI-Subject``);
  for others the tag ``sha256-<hex>`` lists them.
- A connection that cannot be made is tried again twice; any other failure is told at once, for
  pushing again costs nothing.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from linnet_agent.fetch.credentials import Credential, parse_challenge
from linnet_agent.fetch.references import OciReference, registry_url
from linnet_agent.verify.manifest import INDEX_TYPE, MANIFEST_TYPE, digest_of
from linnet_cli.errors import CliError
from linnet_cli.publish.statement import canonical_json

_CHUNK_BYTES: Final = 1 << 20
_CONNECTION_RETRIES: Final = 2
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class RegistryWriter:
    """One repository of one registry."""

    def __init__(
        self,
        reference: OciReference,
        *,
        mirrors: Mapping[str, str],
        credentials: Mapping[str, Credential] | None = None,
    ) -> None:
        self._reference = reference
        self._base = f"{registry_url(reference, mirrors)}/v2/{reference.repository}"
        self._credential = (credentials or {}).get(reference.host)
        self._authorization: dict[str, str] = {}
        self._http = httpx.Client(
            timeout=httpx.Timeout(60.0, connect=10.0),
            transport=httpx.HTTPTransport(retries=_CONNECTION_RETRIES),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def push_blob(self, content: bytes) -> str:
        """Store bytes, unless they are there; return their digest."""
        digest = digest_of(content)
        self._upload(digest, len(content), lambda: iter((content,)))
        return digest

    def push_file(self, path: Path, *, digest: str) -> None:
        """Store a file that has ``digest``, unless it is there."""
        self._upload(digest, path.stat().st_size, lambda: _chunks(path))

    def push_manifest(self, manifest: Mapping[str, Any], *, tag: str | None = None) -> str:
        """Store a manifest or an index under its digest, and under a tag where one is given."""
        content = canonical_json(manifest)
        digest = digest_of(content)
        response = self._send(
            "PUT",
            f"manifests/{tag or digest}",
            content=content,
            headers={"Content-Type": str(manifest["mediaType"])},
        )
        self._require(response, {200, 201}, what=f"manifest {digest}")
        if "subject" in manifest and "oci-subject" not in response.headers:
            self._list_referrer(manifest, digest=digest, size=len(content))
        return digest

    def _list_referrer(self, manifest: Mapping[str, Any], *, digest: str, size: int) -> None:
        tag = str(manifest["subject"]["digest"]).replace(":", "-")
        response = self._send("GET", f"manifests/{tag}", headers={"Accept": INDEX_TYPE})
        listed: list[dict[str, Any]] = []
        if response.status_code != httpx.codes.NOT_FOUND:
            self._require(response, {200}, what=f"index {tag}")
            listed = list(json.loads(response.content).get("manifests", ()))
        if any(one.get("digest") == digest for one in listed):
            return
        listed.append(
            {
                "mediaType": MANIFEST_TYPE,
                "artifactType": manifest["artifactType"],
                "digest": digest,
                "size": size,
            }
        )
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed}
        self.push_manifest(index, tag=tag)

    def _upload(self, digest: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        assert _DIGEST.fullmatch(digest), digest
        if self._send("HEAD", f"blobs/{digest}").status_code == httpx.codes.OK:
            return
        begun = self._send("POST", "blobs/uploads/", headers={"Content-Length": "0"})
        self._require(begun, {202}, what="an upload")
        url = self._upload_url(begun.headers.get("location", ""), digest)
        response = self._request(
            "PUT",
            url,
            content=content,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
        )
        self._require(response, {201}, what=f"blob {digest}")

    def _upload_url(self, location: str, digest: str) -> str:
        url = urljoin(self._base + "/", location)
        if urlsplit(url).netloc != urlsplit(self._base).netloc:
            # A registry behind a mirror may answer with the name that it has itself.
            url = (
                urlsplit(url)
                ._replace(scheme=urlsplit(self._base).scheme, netloc=urlsplit(self._base).netloc)
                .geturl()
            )
        return f"{url}{'&' if urlsplit(url).query else '?'}digest={digest}"

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        body = None if content is None else lambda: iter((content,))
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Length"] = str(len(content))
        return self._request(method, f"{self._base}/{path}", content=body, headers=sent)

    def _request(
        self,
        method: str,
        url: str,
        *,
        content: Callable[[], Iterator[bytes]] | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        response = self._once(method, url, content=content, headers=headers)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._authorize(response.headers.get("www-authenticate", ""))
            response = self._once(method, url, content=content, headers=headers)
        return response

    def _once(
        self,
        method: str,
        url: str,
        *,
        content: Callable[[], Iterator[bytes]] | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        try:
            return self._http.request(
                method,
                url,
                content=None if content is None else content(),
                headers={**headers, **self._authorization},
            )
        except httpx.TransportError as error:
            msg = f"the registry {self._reference.host} cannot be reached at {url}: {error}"
            raise CliError(msg) from error

    def _authorize(self, challenge: str) -> None:
        scheme, parameters = parse_challenge(challenge)
        basic = {} if self._credential is None else {"Authorization": self._credential.header}
        if scheme == "basic" and basic:
            self._authorization = basic
        elif scheme == "bearer" and parameters.get("realm"):
            query = {
                "service": parameters.get("service", ""),
                "scope": f"repository:{self._reference.repository}:pull,push",
            }
            response = self._http.get(parameters["realm"], params=query, headers=basic)
            self._require(response, {200}, what="a token")
            document = response.json()
            token = document.get("token") or document.get("access_token")
            self._authorization = {"Authorization": f"Bearer {token}"}
        else:
            msg = f"{self._reference.host} wants credentials for {self._reference.repository}"
            raise CliError(msg)

    def _require(self, response: httpx.Response, good: set[int], *, what: str) -> None:
        if response.status_code not in good:
            msg = (
                f"{self._reference.host} does not take {what}: {response.status_code} "
                f"{response.text[:200].strip()}"
            )
            raise CliError(msg)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
