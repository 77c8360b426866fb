"""Who signs: a certificate made at first use and kept in the user's settings, or the user's own.

The one made here is signed by its own key: it says that two files come from the same place, not who that is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.files import read_bytes

VARIABLE = "TRIPORTRAIT_CERTIFICATE"  # a PEM file with a key and its certificates
MADE_NAME = "triportrait, self-signed"
_YEARS = 20
_LARGEST_PEM = 1 << 20  # bytes


@dataclass(frozen=True)
class Identity:
    """A private key and its certificates.

    Attributes:
        key: PEM, PKCS 8. certificates: PEM, the signer's first, then those that vouch for it.
        algorithm: of C2PA: es256, es384, es512, ps256 or ed25519.
        origin: the file they come from, for sentences.
    """

    key: bytes
    certificates: bytes
    algorithm: str
    origin: str


def config_folder() -> Path:
    """Where settings of this user lie: $XDG_CONFIG_HOME/triportrait, or ~/.config/triportrait."""
    root = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        return (Path(root) if os.path.isabs(root) else Path.home() / ".config") / "triportrait"
    except RuntimeError as error:  # a user without a home
        raise InputError("settings: expected a home folder, this user has none; set XDG_CONFIG_HOME") from error


def find_identity(certificate: Path | None = None, key: Path | None = None) -> Identity:
    """The user's own key and certificates, else those made at first use.

    Args:
        certificate: PEM file of certificates, the signer's first; None takes what $TRIPORTRAIT_CERTIFICATE names, else
            `signing.pem` in the settings, which is made when it is missing.
        key: PEM file of the private key; None looks for it among the certificates.

    Raises:
        InputError: a file is missing or damaged, the key has a passphrase, is of no use, or is another certificate's.
    """
    if certificate is None and key is not None:
        raise InputError("--key: expected --certificate beside it, none came; name the certificate of this key")
    if certificate is None and os.environ.get(VARIABLE):
        certificate = Path(os.environ[VARIABLE])
    if certificate is None:
        certificate = config_folder() / "signing.pem"
        if not certificate.exists():
            return _make(certificate)
    pem = _read(certificate)
    return _identity(pem if key is None else _read(key), pem, certificate, key or certificate)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, _LARGEST_PEM)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{path}: expected a PEM file to sign with, not readable ({reason}); check the path"
        ) from error


def _identity(key_pem: bytes, certificates_pem: bytes, certificate_path: Path, key_path: Path) -> Identity:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        certificates = x509.load_pem_x509_certificates(certificates_pem)
    except ValueError as error:
        raise InputError(
            f"{certificate_path}: expected certificates in PEM, got none; {_mend(certificate_path)}"
        ) from error
    try:
        key: Any = serialization.load_pem_private_key(key_pem, None)
    except TypeError as error:
        raise InputError(f"{key_path}: expected a key without a passphrase; save it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{key_path}: expected a private key in PEM, got none; {_mend(key_path)}") from error
    if certificates[0].public_key() != key.public_key():
        raise InputError(
            f"{key_path}: expected the key of the first certificate in {certificate_path}, got another; name its key"
        )
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    return Identity(plain, chain, _algorithm(key, key_path), str(certificate_path))


def _mend(path: Path) -> str:
    return "remove it, a new one is made" if path.parent == config_folder() else "name another file"


def _algorithm(key: Any, path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(key.curve.name)
        if found:
            return found
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise InputError(
        f"{path}: expected a key on P-256, P-384, P-521 or Ed25519, or RSA from 2048 bits, got another; choose one"
    )


def _make(path: Path) -> Identity:
    """A key and a certificate for it; kept in `path`, which only its owner can read."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, MADE_NAME), x509.NameAttribute(NameOID.COMMON_NAME, MADE_NAME)]
    )
    now = datetime.now(UTC)
    unused = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    # The profile that C2PA asks of a signer: an end entity for signatures, with one of its purposes, and both key ids.
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **unused), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem += certificate.public_bytes(serialization.Encoding.PEM)
    try:
        pem = _keep(path, pem)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{path}: the key that signs manifests could not be kept ({reason}); make its folder writable, or name "
            "your own with --certificate"
        ) from error
    return _identity(pem, pem, path, path)


def _keep(path: Path, pem: bytes) -> bytes:
    """Write a file that only its owner can read, whole; of two that come at once the first stays, and is returned."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with replacing(path, overwrite=False, permissions=0o600) as part:
            part.write_bytes(pem)
    except InputError:  # it appeared meanwhile
        return read_bytes(path, _LARGEST_PEM)
    return pem
