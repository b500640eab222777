"""Channel binding data of type tls-server-end-point (RFC 5929, section 4.1): a hash of the server's certificate.

The hash is that of the certificate's signature, SHA-256 where that is MD5 or SHA-1. Ed25519 and Ed448 sign without one:
RFC 5929 leaves them undefined, PostgreSQL and libpq give up on them, and so there is no binding."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes


def end_point(certificate: x509.Certificate) -> bytes | None:
    """Gives the binding data; None if none is defined for this certificate."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def end_point_of_der(der: bytes | None) -> bytes | None:
    """Gives the same for a certificate in ssl's format (DER)."""
    if der is None:
        return None
    try:
        return end_point(x509.load_der_x509_certificate(der))
    except ValueError:
        return None


def end_point_of_pem(pem: bytes) -> bytes | None:
    """Gives the same for the first certificate of a PEM file, which is the one that a server shows."""
    try:
        return end_point(x509.load_pem_x509_certificates(pem)[0])
    except (ValueError, IndexError):
        return None
