"""The API server over our own HTTPS connection.

- One connection for the whole command; a server that closed it while idle is asked once more.
- The client's key never touches the disk: OpenSSL reads it from an anonymous file in memory.
"""

import http.client
import json
import os
import ssl
import zlib
from datetime import UTC, datetime
from urllib.parse import urlsplit

from linnet_cli.contract import FIELD_MANAGER
from linnet_cli.errors import KubeconfigError, UnreachableError
from linnet_cli.kube import Json
from linnet_cli.kube.answers import refusal
from linnet_cli.kube.kubeconfig import Access

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class DirectKube:
    """A cluster behind one HTTP connection.

    Args:
        access: The way to it.
        timeout_s: Seconds to wait for an answer.
    """

    def __init__(self, access: Access, *, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._server_time: datetime | None = None
        try:
            self._parts = urlsplit(access.server)
            self._port = self._parts.port
        except ValueError as error:
            raise KubeconfigError(f"{access.where} is no address of a server: {error}") from error
        self._prefix = self._parts.path.rstrip("/")

    @property
    def namespace(self) -> str:
        """The namespace of the context."""
        return self._access.namespace

    @property
    def server_time(self) -> datetime | None:
        """The API server's clock at the last answer, whole seconds."""
        return self._server_time

    def get(self, path: str) -> Json:
        """Return the object or list at ``path``."""
        return self._ask("GET", path)

    def post(self, path: str, body: Json) -> Json:
        """Create ``body`` in the collection at ``path``."""
        return self._ask("POST", path, body, content_type="application/json")

    def merge_patch(self, path: str, body: Json) -> Json:
        """Merge ``body`` into the object at ``path``."""
        join = "&" if "?" in path else "?"
        query = f"{join}fieldManager={FIELD_MANAGER}&fieldValidation=Strict"
        return self._ask(
            "PATCH", f"{path}{query}", body, content_type="application/merge-patch+json"
        )

    def _ask(
        self, method: str, path: str, body: Json | None = None, *, content_type: str = ""
    ) -> Json:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        headers["User-Agent"] = FIELD_MANAGER
        if content_type:
            headers["Content-Type"] = content_type
        if self._access.token:
            headers["Authorization"] = f"Bearer {self._access.token}"
        data = json.dumps(body).encode() if body is not None else None
        code, content, date = self._send(method, self._prefix + path, data, headers)
        self._server_time = _read_date(date) or self._server_time
        document = _parse(content)
        if code >= 400:
            raise refusal(code=code, status=document, path=path, where=self._access.where)
        return document

    def _send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        fresh = self._connection is None
        try:
            return self._exchange(method, path, data, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if fresh or method != "GET":
                raise UnreachableError(
                    f"the API server at {self._access.where} closed the connection; try again"
                ) from error
            return self._send(method, path, data, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(_sentence(error, self._access)) from error

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        if self._connection is None:
            self._connection = self._open()
        self._connection.request(method, path, data, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.getheader("Content-Encoding") == "gzip":
            content = zlib.decompress(content, wbits=31)
        if response.will_close:
            self.close()
        return response.status, content, response.getheader("Date", "")

    def _open(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, self._port or 80, timeout=self._timeout_s)
        return http.client.HTTPSConnection(
            host, self._port or 443, timeout=self._timeout_s, context=tls_context(self._access)
        )

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def tls_context(access: Access) -> ssl.SSLContext:
    """Return the TLS settings of ``access``: its own CA where it names one, else the system's.

    Raises:
        KubeconfigError: A certificate or key in it is broken.
    """
    try:
        context = ssl.create_default_context(cadata=access.ca or None)
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if access.certificate:
            _load_certificate(context, access.certificate)
    except (ssl.SSLError, ValueError) as error:
        raise KubeconfigError(
            f"a certificate or key for {access.where} is broken: {error}"
        ) from error
    return context


def _load_certificate(context: ssl.SSLContext, pem: str) -> None:
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("linnet-client")
        with os.fdopen(number, "wb") as file:
            file.write(pem.encode())
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{number}")
        return
    import tempfile  # noqa: PLC0415 - only where the system has no anonymous files

    with tempfile.NamedTemporaryFile() as file:
        file.write(pem.encode())
        file.flush()
        context.load_cert_chain(file.name)


def _sentence(error: Exception, access: Access) -> str:
    where = access.where
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {where} is not trusted ({error.verify_message}): check "
                "certificate-authority in the kubeconfig"
            )
        case ConnectionRefusedError():
            return (
                f"connection refused at {where}: is the cluster up, and the context the right one?"
            )
        case TimeoutError():
            return f"no answer from {where} in time: check the network, or raise --request-timeout"
        case ssl.SSLError() if "HTTP_REQUEST" in str(error) or "WRONG_VERSION" in str(error):
            return f"{where} does not speak TLS: check the server's address in the kubeconfig"
        case _:
            return f"cannot reach the API server at {where}: {error}"


def _parse(content: bytes) -> Json:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_date(text: str) -> datetime | None:
    """Return the time of an HTTP Date header; strptime and email.utils cost 5 ms of start-up."""
    try:
        _, day, month, year, clock, _ = text.split()
        hour, minute, second = (int(part) for part in clock.split(":"))
        return datetime(
            int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC
        )
    except ValueError:
        return None
