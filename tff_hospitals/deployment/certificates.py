"""X.509 certificates of a test federation: an authority, the server, the hospitals (mutual TLS).

A real federation takes its own authority; the files have the same names. Certificates say who a *connection* belongs
to; messages are signed besides, so that nobody needs to trust whoever ends the connection.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import pathlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tff_hospitals.deployment.keys import write_private
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_CLOCKS_APART = datetime.timedelta(minutes=5)


class Authority:
    """Signs certificates of one federation.

    Args:
      name: of the federation.
      days: that everything it signs is valid.
    """

    def __init__(self, name: str, days: float = 90.0):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name, self._days = _named(f"{name.encode()[:48].decode(errors='ignore')} authority"), days
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        blank = self._blank(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate = blank.add_extension(usage, True).sign(self._key, hashes.SHA256())

    def write_server(self, folder: pathlib.Path, hosts: Sequence[str]) -> None:
        """A server's key and certificate for its host names or addresses, and the authority's certificate."""
        # Clients compare the names behind; the first one is for people, and may not be as long as a host's name.
        self._write(folder, hosts[0][:64], [_host(one) for one in hosts], ExtendedKeyUsageOID.SERVER_AUTH)

    def write_hospital(self, folder: pathlib.Path, hospital_id: str) -> None:
        """The same for a hospital: its id is the certificate's name."""
        self._write(folder, hospital_id, [], ExtendedKeyUsageOID.CLIENT_AUTH)

    def write_key(self, path: pathlib.Path) -> None:
        """The authority's own key; it belongs on no machine of the federation."""
        write_private(path, _key_pem(self._key))

    def _write(
        self, folder: pathlib.Path, name: str, hosts: list[x509.GeneralName], purpose: x509.ObjectIdentifier
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        blank = self._blank(_named(name), key).add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        blank = blank.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if hosts:
            blank = blank.add_extension(x509.SubjectAlternativeName(hosts), False)
        certificate = blank.sign(self._key, hashes.SHA256())
        write_private(folder / KEY, _key_pem(key))
        files.write_bytes(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
        files.write_bytes(folder / AUTHORITY, self.certificate.public_bytes(serialization.Encoding.PEM))

    def _blank(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS_APART)
            .not_valid_after(now + datetime.timedelta(days=self._days))
        )


def host_problems(hosts: Sequence[str]) -> list[Problem]:
    """Why no certificate can be made out to host names or addresses."""
    remedy = "give host names, in letters of ASCII, or addresses"
    if not hosts:
        return [Problem("hosts", "none", "must be at least one name or address", remedy)]
    return [Problem("hosts", one, "is no host name or address", remedy) for one in hosts if not _is_host(one)]


def problems(path: os.PathLike[str] | str, now: datetime.datetime | None = None) -> list[Problem]:
    """What is wrong with a certificate file: unreadable, expired, not valid yet (or the clock is wrong).

    Args:
      path: of the PEM file.
      now: default the clock's.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pathlib.Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return [Problem("certificate", str(path), f"must be a PEM certificate ({error})", "name the file of one")]
    now = now or datetime.datetime.now(datetime.timezone.utc)
    first = certificate.not_valid_before_utc
    last = certificate.not_valid_after_utc
    if now < first:
        bound = f"is valid from {first:%Y-%m-%d %H:%M} UTC on, and it is {now:%Y-%m-%d %H:%M} here"
        return [Problem("certificate", str(path), bound, "set the clock of this machine")]
    if now > last:
        bound = f"expired on {last:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here"
        return [Problem("certificate", str(path), bound, "have it renewed by the federation's authority")]
    return []


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_host(name: str) -> bool:
    try:
        _host(name)
    except ValueError:
        return False
    return 0 < len(name) < 254 and not set(name) & set(" /\\@")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())
