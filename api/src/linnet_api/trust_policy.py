"""TrustPolicy: who may sign what. Cluster-wide; every matching policy must allow, and no match is a deny."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import (
    ATOMIC,
    ApiModel,
    Digest,
    Duration,
    Quantity,
    ShortName,
    Time,
    map_list,
    rules,
)

Pattern = Annotated[str, Field(min_length=1, max_length=256)]
HexSha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
ClaimValue = Annotated[str, Field(max_length=512)]


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:
        raise ValueError("not a time that UTC can say") from error


Moment = Annotated[Time, AwareDatetime, AfterValidator(_to_utc)]
"""A point in time that a person writes, in any zone; kept in UTC and whole seconds."""


class Match(ApiModel):
    """Which models a policy speaks of."""

    models: Annotated[
        tuple[Pattern, ...],
        Field(
            description="Signed model names that the policy covers; * stands for anything but a slash, ** for anything. "
            "Empty: every name.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    sources: Annotated[
        tuple[Pattern, ...],
        Field(
            description="Sources that the policy covers, such as oci://registry/**; same wildcards. Empty: every source.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class Validity(ApiModel):
    """When a key counts; both ends belong to it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.start) || !has(self.end) || self.start <= self.end",
                "validFor ends before it starts",
            )
        )
    )

    start: Annotated[
        Moment | None,
        Field(description="The first moment, RFC 3339. Absent: from the beginning."),
    ] = None
    end: Annotated[
        Moment | None,
        Field(description="The last moment, RFC 3339. Absent: without end."),
    ] = None


class Key(ApiModel):
    """A pinned public key."""

    public_key_pem: Annotated[
        str,
        Field(
            alias="publicKeyPEM",
            description="A public key in PEM form: EC P-256, P-384 or P-521, or Ed25519.",
            min_length=64,
            max_length=4096,
            pattern=r"^\s*-----BEGIN PUBLIC KEY-----",
        ),
    ]
    valid_for: Annotated[
        Validity | None,
        Field(
            description="When the key counts: judged at the time of signing where a log or a timestamp proves it, else at the "
            "time of the decision. Absent: always. Ending it retires a key; what it must no longer open at all belongs in "
            "revoked.keyIds."
        ),
    ] = None


class Keyless(ApiModel):
    """A keyless identity, as Fulcio's certificates carry it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.identity) != has(self.identityRegexp)",
                "a keyless authority names either identity or identityRegexp",
            )
        )
    )

    issuer: Annotated[
        str, Field(description="The OIDC issuer, exact.", min_length=1, max_length=512)
    ]
    identity: Annotated[
        str | None,
        Field(
            description="The subject, exact: an e-mail address or a URI. One of identity and identityRegexp.",
            min_length=1,
            max_length=512,
        ),
    ] = None
    identity_regexp: Annotated[
        str | None,
        Field(
            description="The subject as a regular expression that must match the whole of it, in linear time: literals, . [] () | "
            "* + ? {m,n} \\d \\w \\s and escaped characters; no look-around, no back reference. Such as "
            "https://github\\.com/acme/models/\\.github/workflows/release\\.yml@refs/tags/v[0-9.]+",
            min_length=1,
            max_length=512,
        ),
    ] = None
    trust_root: Annotated[
        ShortName | None,
        Field(
            description="Name of the sigstore trusted root that vouches for it: one of spec.trustRoots, else one that the node has "
            "(a file in its trust-roots directory, or tuf). Absent: the only one there is; where there are several, the "
            "authority does not count.",
        ),
    ] = None
    claims: Annotated[
        dict[str, ClaimValue],
        Field(
            description="What else the certificate must say, exact, by the names of Fulcio's extensions, such as "
            "sourceRepositoryURI, sourceRepositoryRef, buildSignerURI or runnerEnvironment. Empty: no demand. A name that this "
            "version does not know is never satisfied.",
            json_schema_extra={"maxProperties": 16},
        ),
    ] = {}  # noqa: RUF012 - frozen, and pydantic copies it


class Authority(ApiModel):
    """Someone who may sign: a key or a keyless identity."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.key) != has(self.keyless)",
                "an authority is either a key or a keyless identity",
            )
        )
    )

    name: Annotated[ShortName, Field(description="Name of the authority, such as release.")]
    key: Annotated[Key | None, Field(description="A pinned public key.")] = None
    keyless: Annotated[
        Keyless | None,
        Field(
            description="A keyless identity: someone who signs with a short-lived certificate, proved by a transparency log."
        ),
    ] = None


class Require(ApiModel):
    """How many of the authorities must have signed."""

    threshold: Annotated[
        int,
        Field(
            description="How many distinct authorities must have signed, 1 to 16. Default 1. One key or identity under two names "
            "is one, and so are two identities under one name.",
            ge=1,
            le=16,
        ),
    ] = 1
    of: Annotated[
        tuple[ShortName, ...],
        Field(
            description="Names of authorities that count. Empty: all of them.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class TrustRoot(ApiModel):
    """A sigstore trusted root, inline."""

    name: Annotated[ShortName, Field(description="Name of the root, such as site7.")]
    trusted_root_json: Annotated[
        str,
        Field(
            alias="trustedRootJSON",
            description="A sigstore trusted_root.json, at most 128 KiB.",
            max_length=131_072,
        ),
    ]


class Content(ApiModel):
    """What an artifact may hold."""

    allow_files: Annotated[
        tuple[Pattern, ...],
        Field(
            description="File names that a model may hold; * and **. Empty: whatever the signed manifest names. Files that carry "
            "code (.pkl .pickle .joblib .pt .pth .ckpt .py .pyc .pyd .so .dll .dylib .exe .sh .jar .class, pytorch_model*.bin) are "
            "refused unless a pattern with the same ending names them, such as *.pkl; ** alone does not.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    max_bytes: Annotated[
        Quantity | None,
        Field(description="Most bytes of all files together, such as 20Gi. Absent: no limit."),
    ] = None
    max_files: Annotated[
        int | None,
        Field(description="Most files, 1 to 100000. Absent: no limit.", ge=1, le=100_000),
    ] = None


class Freshness(ApiModel):
    """How old trust may be before it is an alarm; never a stop."""

    max_trust_age: Annotated[
        Duration | None,
        Field(
            description="Trust that the node has not heard anew from the cluster for so long is reported as stale, in its "
            "ModelHost and metrics. Absent: never."
        ),
    ] = None
    max_signature_age: Annotated[
        Duration | None,
        Field(
            description="A signature older than this, by the time that a log or a timestamp proves, is named in the verification "
            "of the NodeModel, and so is one without such a time. Absent: never. It stops nobody: what must not run any more "
            "belongs in revoked."
        ),
    ] = None


class Signature(ApiModel):
    """Which signatures count."""

    formats: Annotated[
        tuple[Literal["OMS", "Cosign"], ...],
        Field(
            description="OMS: OpenSSF Model Signing, every file named in the statement. Cosign: cosign's signature over the "
            "artifact digest. Default: OMS. Empty: none, so nothing is allowed.",
            max_length=2,
            json_schema_extra=ATOMIC,
        ),
    ] = ("OMS",)
    predicate_types: Annotated[
        tuple[Pattern, ...],
        Field(
            description="Predicate types of the signed statement that count, exact. Empty: those of the formats.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    transparency_log: Annotated[
        Literal["Required", "IfPresent"],
        Field(
            description="Required: a signature counts only where a transparency log proves it. IfPresent (default): a key counts "
            "without; keyless signatures need the log either way."
        ),
    ] = "IfPresent"


class RevokedIdentity(ApiModel):
    """A keyless identity that is no longer trusted."""

    issuer: Annotated[
        str, Field(description="The OIDC issuer, exact.", min_length=1, max_length=512)
    ]
    subject: Annotated[
        Pattern,
        Field(description="The subject; * stands for anything but a slash, ** for anything."),
    ]
    not_after: Annotated[
        Moment | None,
        Field(
            description="Signatures that were provably made up to this moment, RFC 3339, still count. Absent: none does."
        ),
    ] = None


class Revoked(ApiModel):
    """What is no longer trusted: what one matching policy revokes counts in none."""

    key_ids: Annotated[
        tuple[HexSha256, ...],
        Field(
            description="Hex sha256 of PEM public keys that no longer count.",
            max_length=256,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    certificates: Annotated[
        tuple[HexSha256, ...],
        Field(
            description="Hex sha256 of DER certificates that no longer count: single keyless signatures.",
            max_length=256,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    identities: Annotated[
        tuple[RevokedIdentity, ...],
        Field(
            description="Keyless identities that no longer count.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    digests: Annotated[
        tuple[Digest, ...],
        Field(
            description="Model or artifact digests that may not be activated.",
            max_length=1024,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    on_active: Annotated[
        Literal["Revert", "KeepServing"],
        Field(
            description="What a revoked model that is active does. Revert (default): back to the last good one; where none is "
            "left it serves on and alarms. KeepServing: it serves on and alarms. What the node's own ceiling revokes is "
            "taken out of service, whatever stands here."
        ),
    ] = "Revert"


class TrustPolicySpec(ApiModel):
    """Who may sign what."""

    match: Annotated[Match, Field(description="Which models the policy speaks of.")] = Match()
    authorities: Annotated[
        tuple[Authority, ...],
        Field(
            description="Who may sign, 1 to 16.",
            min_length=1,
            max_length=16,
            json_schema_extra=map_list("name"),
        ),
    ]
    require: Annotated[Require, Field(description="How many of them must have signed.")] = Require()
    trust_roots: Annotated[
        tuple[TrustRoot, ...],
        Field(
            description="Sigstore trusted roots for the keyless authorities of this policy, at most 8. A node's own ceiling never "
            "rests on these.",
            max_length=8,
            json_schema_extra=map_list("name"),
        ),
    ] = ()
    content: Annotated[Content, Field(description="What an artifact may hold.")] = Content()
    freshness: Annotated[
        Freshness, Field(description="How old trust may be before it is an alarm.")
    ] = Freshness()
    signature: Annotated[Signature, Field(description="Which signatures count.")] = Signature()
    revoked: Annotated[Revoked, Field(description="What is no longer trusted.")] = Revoked()


class TrustPolicyStatus(ApiModel):
    """Whether the policy can be used."""

    observed_generation: Annotated[
        int,
        Field(
            description="The generation that this status speaks of; -1: nobody has looked yet.",
            ge=-1,
            le=2**53,
        ),
    ] = -1
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready: the policy is accepted.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()
