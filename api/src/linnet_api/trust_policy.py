"""TrustPolicy: who may sign what. Cluster-wide; every matching policy must allow, and no match is a deny."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import ATOMIC, ApiModel, Digest, Duration, ShortName, map_list, rules

Pattern = Annotated[str, Field(min_length=1, max_length=256)]


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


class Key(ApiModel):
    """A pinned public key."""

    public_key_pem: Annotated[
        str,
        Field(
            alias="publicKeyPEM",
            description="An EC P-256, P-384 or P-521 public key in PEM form.",
            min_length=64,
            max_length=4096,
            pattern=r"^\s*-----BEGIN PUBLIC KEY-----",
        ),
    ]


class Keyless(ApiModel):
    """A keyless identity, as Fulcio's certificates carry it."""

    issuer: Annotated[
        str, Field(description="The OIDC issuer, exact.", min_length=1, max_length=512)
    ]
    identity: Annotated[
        str | None,
        Field(
            description="The subject, exact. One of identity and identityRegexp.", max_length=512
        ),
    ] = None
    identity_regexp: Annotated[
        str | None,
        Field(
            description="The subject as a regular expression that must match whole.", max_length=512
        ),
    ] = None


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
            description="A keyless identity. Agents of this version count no keyless signature; refusals and status say so."
        ),
    ] = None


class Require(ApiModel):
    """How many of the authorities must have signed."""

    threshold: Annotated[
        int,
        Field(
            description="How many distinct authorities must have signed, 1 to 16. Default 1.",
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
            description="File names that a model may hold; * and **. Empty: whatever the signed manifest names.",
            max_length=64,
            json_schema_extra=ATOMIC,
        ),
    ] = ()


class Freshness(ApiModel):
    """How old trust may be before it is an alarm; never a stop."""

    max_trust_age: Annotated[
        Duration | None,
        Field(
            description="Trust that was not refreshed for so long is reported as stale. Absent: never. Not measured yet; "
            "status says so."
        ),
    ] = None


class Signature(ApiModel):
    """Which signature formats count."""

    formats: Annotated[
        tuple[Literal["OMS", "Cosign"], ...],
        Field(
            description="OMS: OpenSSF Model Signing. Cosign: cosign bundles. Default: OMS. Agents of this version read OMS "
            "alone: without it here they refuse everything.",
            max_length=2,
            json_schema_extra=ATOMIC,
        ),
    ] = ("OMS",)


class Revoked(ApiModel):
    """What is no longer trusted."""

    key_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)], ...],
        Field(
            description="Hex sha256 of PEM public keys that no longer count.",
            max_length=256,
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
            "left it serves on and alarms, unless the node's own ceiling revokes it. Not acted on yet, and status says so: what "
            "is active serves on either way, and is not activated again; name another model in the deployment."
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
            description="Sigstore trusted roots for keyless authorities, at most 8. Not used before those count.",
            max_length=8,
            json_schema_extra=map_list("name"),
        ),
    ] = ()
    content: Annotated[Content, Field(description="What an artifact may hold.")] = Content()
    freshness: Annotated[Freshness, Field(description="How old trust may be.")] = Freshness()
    signature: Annotated[Signature, Field(description="Which signature formats count.")] = (
        Signature()
    )
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
