"""``linnet keygen``: a key pair for signing models.

- The private key is written once, readable by its owner only; nothing is ever overwritten.
"""

import argparse
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linnet_agent.verify.keys import key_id
from linnet_cli.errors import CliError
from linnet_cli.exits import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``keygen`` takes."""
    parser.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        default="linnet",
        help="writes PREFIX.key and PREFIX.pub (default: linnet)",
    )


def run(args: argparse.Namespace) -> int:
    """Write a new key pair."""
    private_pem, public_pem = generate_key()
    private, public = Path(f"{args.prefix}.key"), Path(f"{args.prefix}.pub")
    for path, content, mode in ((private, private_pem, 0o600), (public, public_pem, 0o644)):
        _write_new(path, content, mode=mode)
    print(f"{private}: keep it secret; {public}: goes into a TrustPolicy")
    print(f"key id {key_id(load_private_key(private_pem).public_key())}")
    return Exit.OK


def generate_key() -> tuple[bytes, bytes]:
    """Return a new P-256 key pair as PEM: private, public."""
    key = ec.generate_private_key(ec.SECP256R1())
    private_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private_pem, public_pem


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a private key that can sign models.

    Raises:
        CliError: It is not an unencrypted PEM key on P-256, P-384 or P-521.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        msg = "the private key is encrypted; give one that is not, such as from a secret store"
        raise CliError(msg) from error
    except ValueError as error:
        msg = f"the private key cannot be read: {error}"
        raise CliError(msg) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        msg = "the private key is not on P-256, P-384 or P-521"
        raise CliError(msg)
    return key


def make_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign with the hash of the key's size; the same bytes each time, where OpenSSL can."""
    algorithm = _HASHES[key.curve.name]()
    try:
        return key.sign(message, ec.ECDSA(algorithm, deterministic_signing=True))
    except UnsupportedAlgorithm:  # OpenSSL before 3.2: as good, but not reproducible
        return key.sign(message, ec.ECDSA(algorithm))


_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        msg = f"{path} is there already; keys are not overwritten"
        raise CliError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise CliError(msg) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
