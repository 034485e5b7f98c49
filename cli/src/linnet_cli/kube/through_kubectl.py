"""The API server through ``kubectl``, which knows every way to log in.

Slower by two processes, and by definition there where ``kubectl linnet`` runs.
"""

import json
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime

from linnet_cli.contract import FIELD_MANAGER
from linnet_cli.errors import KubeconfigError, UnreachableError
from linnet_cli.kube import Json
from linnet_cli.kube.answers import refusal

_CODES = {
    "NotFound": 404, "Forbidden": 403, "Unauthorized": 401, "Conflict": 409, "Invalid": 422,
    "BadRequest": 400, "AlreadyExists": 409,
}  # fmt: skip
_SERVER_ERROR = re.compile(r"Error from server \((\w+)\): (.*)", re.DOTALL)
_NAMED = re.compile(r'"[^"]+" not found')
_OBJECT = re.compile(r"/apis/([^/]+)/[^/]+/namespaces/([^/]+)/([^/]+)/([^/?]+)")


class KubectlKube:
    """A cluster behind kubectl.

    Args:
        flags: ``--context`` and the like, passed on.
        namespace: The namespace of the context.
        where: The server, for people.
        program: The kubectl to run.
    """

    def __init__(
        self, flags: Sequence[str], *, namespace: str, where: str, program: str = "kubectl"
    ) -> None:
        self._flags = list(flags)
        self._namespace = namespace
        self._where = where
        self._program = program

    @property
    def namespace(self) -> str:
        """The namespace of the context."""
        return self._namespace

    @property
    def server_time(self) -> datetime | None:
        """Nothing: kubectl does not tell."""
        return None

    def get(self, path: str) -> Json:
        """Return the object or list at ``path``."""
        return self._run(["get", "--raw", path], path=path)

    def post(self, path: str, body: Json) -> Json:
        """Create ``body`` in the collection at ``path``."""
        return self._run(["create", "--raw", path, "-f", "-"], path=path, body=body)

    def merge_patch(self, path: str, body: Json) -> Json:
        """Merge ``body`` into the object at ``path``."""
        found = _OBJECT.match(path)
        assert found is not None, path
        group, namespace, plural, name = found.groups()
        dry_run = ["--dry-run=server"] if "dryRun=All" in path else []
        return self._run(
            ["patch", f"{plural}.{group}", name, "-n", namespace, "--type=merge", "-o", "json",
             f"--field-manager={FIELD_MANAGER}", *dry_run, "-p", json.dumps(body)],
            path=path,
        )  # fmt: skip

    def _run(self, arguments: list[str], *, path: str, body: Json | None = None) -> Json:
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program and our own arguments
                [self._program, *self._flags, *arguments],
                input=json.dumps(body) if body is not None else "",
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise KubeconfigError(
                f"the login for {self._where} needs kubectl, and {self._program} cannot be run "
                f"({error.strerror}): install kubectl, or use a kubeconfig with a token or "
                "certificate"
            ) from error
        if done.returncode == 0:
            document = json.loads(done.stdout)
            return document if isinstance(document, dict) else {}
        text = done.stderr.strip()
        found = _SERVER_ERROR.search(text)
        if found is None:
            raise UnreachableError(f"kubectl could not ask {self._where}: {text.splitlines()[-1]}")
        reason, message = found.group(1), " ".join(found.group(2).split())
        status: Json = {"message": message}
        if _NAMED.search(message):
            status["details"] = {"name": message}
        raise refusal(code=_CODES.get(reason, 500), status=status, path=path, where=self._where)
