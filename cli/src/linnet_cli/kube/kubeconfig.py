"""Kubeconfig: several files merged as kubectl does, the first wins.

- Relative paths are relative to the file that holds them.
- What we do not understand is named in ``needs_kubectl``; nobody guesses.
"""

import base64
import os
from typing import Any, NamedTuple

from linnet_cli.errors import KubeconfigError
from linnet_cli.kube import Json
from linnet_cli.settings import Environment

_USER_NEEDS_KUBECTL = (
    "exec", "auth-provider", "username", "as", "as-groups", "as-uid", "as-user-extra",
)  # fmt: skip
_CLUSTER_NEEDS_KUBECTL = ("proxy-url", "tls-server-name")


class Access(NamedTuple):
    """How to reach one cluster.

    Attributes:
        server: The URL, such as ``https://127.0.0.1:6443``.
        namespace: The namespace of the context.
        where: Server and origin, for people.
        ca: PEM text of the CA; empty: the system's.
        certificate: PEM text of the client certificate and its key; empty: none.
        token: The bearer token; empty: none.
        insecure: True: the server's certificate is not checked.
        needs_kubectl: Why only kubectl can do it; empty: we can.
    """

    server: str
    namespace: str
    where: str
    ca: str = ""
    certificate: str = ""
    token: str = ""
    insecure: bool = False
    needs_kubectl: str = ""


def find_access(environment: Environment, *, kubeconfig: str, context: str) -> Access:
    """Return the way to the cluster that flags and environment name.

    Args:
        environment: What the environment says.
        kubeconfig: The flag; empty: the environment's files, else the pod's service account.
        context: The flag; empty: the current context.

    Raises:
        KubeconfigError: There is no usable kubeconfig; the sentence says what to do.
    """
    paths = (kubeconfig,) if kubeconfig else environment.kubeconfigs
    documents = [(path, _load(path)) for path in paths if os.path.exists(path)]  # noqa: PTH110 - start-up
    if not documents:
        if environment.cluster_host and not kubeconfig and not environment.kubeconfig_named:
            return _in_cluster(environment)
        raise KubeconfigError(
            f"no kubeconfig at {' or '.join(paths) or '~/.kube/config'}: name one with "
            "--kubeconfig "
            "or in KUBECONFIG"
        )
    return _from_documents(documents, context=context, proxy=environment.proxy)


def _from_documents(documents: list[tuple[str, Json]], *, context: str, proxy: bool) -> Access:
    names = [str(d.get("current-context") or "") for _, d in documents]
    wanted = context or next((name for name in names if name), "")
    origin = os.pathsep.join(path for path, _ in documents)
    if not wanted:
        raise KubeconfigError(f"{origin} has no current-context: name one with --context")
    _, found = _entry(documents, "contexts", "context", wanted)
    if found is None:
        known = sorted(_names(documents, "contexts")) or ["none"]
        raise KubeconfigError(f"no context {wanted!r} in {origin}; it has: {', '.join(known)}")
    cluster_dir, cluster = _entry(documents, "clusters", "cluster", str(found.get("cluster")))
    user_dir, user = _entry(documents, "users", "user", str(found.get("user")))
    if cluster is None or not cluster.get("server"):
        raise KubeconfigError(f"context {wanted!r} in {origin} names no cluster with a server")
    user = user or {}
    server = str(cluster["server"]).rstrip("/")
    strange = [key for key in _USER_NEEDS_KUBECTL if user.get(key)]
    strange += [key for key in _CLUSTER_NEEDS_KUBECTL if cluster.get(key)]
    if proxy and not server.startswith(("https://127.", "https://localhost", "https://[::1]")):
        strange.append("HTTPS_PROXY")
    access = Access(
        server=server,
        namespace=str(found.get("namespace") or "default"),
        where=f"{server} (context {wanted})",
        needs_kubectl=", ".join(strange),
    )
    if strange:
        return access
    certificate = _pem(user, "client-certificate", user_dir)
    return access._replace(
        ca=_pem(cluster, "certificate-authority", cluster_dir),
        certificate=f"{certificate}\n{_pem(user, 'client-key', user_dir)}" if certificate else "",
        token=_token(user, user_dir),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )


def _in_cluster(environment: Environment) -> Access:
    folder = environment.service_account_dir
    server = f"https://{environment.cluster_host}"
    return Access(
        server=server,
        namespace=_read(f"{folder}/namespace").strip(),
        where=f"{server} (this pod's service account)",
        ca=_read(f"{folder}/ca.crt"),
        token=_read(f"{folder}/token").strip(),
    )


def _load(path: str) -> Json:
    text = _read(path)
    loaded: Any
    try:
        if text.lstrip().startswith("{"):
            import json  # noqa: PLC0415 - start-up: one of the two parsers is enough

            loaded = json.loads(text)
        else:
            import yaml  # noqa: PLC0415 - start-up: one of the two parsers is enough

            try:
                loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
            except yaml.YAMLError as error:
                said = " ".join(str(error).split())
                raise KubeconfigError(f"{path} is not YAML: {said}") from error
    except RecursionError as error:
        raise KubeconfigError(f"{path} is not a kubeconfig: it is nested too deep") from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # Broken JSON, or a value that is not what its tag says: PyYAML lets those through.
        raise KubeconfigError(f"{path} is not a kubeconfig: {error}") from error
    if not isinstance(loaded, dict):
        raise KubeconfigError(f"{path} is not a kubeconfig: it holds no mapping")
    return loaded


def _entry(
    documents: list[tuple[str, Json]], plural: str, singular: str, name: str
) -> tuple[str, Json | None]:
    for path, document in documents:
        for item in _items(path, document, plural):
            if item.get("name") == name:
                found = item.get(singular) or {}
                if not isinstance(found, dict):
                    raise KubeconfigError(
                        f"{path} is not a kubeconfig: {plural}: {singular} of {name} is no mapping"
                    )
                return os.path.dirname(os.path.abspath(path)), found  # noqa: PTH100, PTH120 - start-up
    return "", None


def _names(documents: list[tuple[str, Json]], plural: str) -> set[str]:
    return {str(item.get("name")) for path, d in documents for item in _items(path, d, plural)}


def _items(path: str, document: Json, plural: str) -> list[Json]:
    items = document.get(plural) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise KubeconfigError(f"{path} is not a kubeconfig: {plural} is no list of mappings")
    return items


def _pem(entry: Json, key: str, folder: str) -> str:
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data)).decode()
        except ValueError as error:
            raise KubeconfigError(
                f"the kubeconfig's {key}-data is no PEM in Base64: {error}"
            ) from error
    path = entry.get(key)
    return _read(os.path.join(folder, str(path))) if path else ""  # noqa: PTH118 - start-up


def _token(user: Json, folder: str) -> str:
    path = user.get("tokenFile")
    if path:
        return _read(os.path.join(folder, str(path))).strip()  # noqa: PTH118 - start-up
    return str(user.get("token") or "")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - start-up
            return file.read()
    except OSError as error:
        raise KubeconfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KubeconfigError(f"cannot read {path}: {error}") from error
