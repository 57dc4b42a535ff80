"""`python -m dev certificates FOLDER`: a CA, and certificates by which the processes of one machine know each other.

What is made here is for contributors and tests: the CA's key lies beside what it signs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.errors import DevError
from dev.keyfile import write_private
from dev.ports import LOOPBACK

TRUST_DOMAIN: Final = "parley.dev"
CONSUMER: Final = "consumer"
"""Somebody else's process, which calls by gRPC with a token of its own."""
WORKLOADS: Final = ("edge", "auth", "conversation", "retrieval", "inference", CONSUMER)
CA_LIFE: Final = timedelta(days=3_650)
LEAF_LIFE: Final = timedelta(days=30)
SKEW: Final = timedelta(minutes=5)
"""A certificate is good from before it was made, for whoever's clock is late."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA of one's own.

    Attributes:
        key: it signs with.
        certificate: of itself.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def made(cls, name: str = "Parley on this machine", issuer: "Authority | None" = None) -> Self:
        """A new one, by its own word or by that of another."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issued_by = issuer.certificate.subject if issuer else subject
        builder = _builder(subject, issued_by, key, ends=datetime.now(UTC) + CA_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))

    @classmethod
    def kept(cls, folder: Path) -> Self:
        """The one in the folder; the first call makes it.

        Raises:
            DevError: what lies there is no CA.
        """
        files = folder / "ca.key", folder / "ca.crt"
        if not files[0].exists():
            made = cls.made()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(files[1], made.pem)
            write_private(files[0], _key_pem(made.key))
            return made
        try:
            key = load_pem_private_key(files[0].read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(files[1].read_bytes())
        except (OSError, ValueError) as error:
            raise DevError(f"{folder} holds no CA that was made here: {error}; remove it, or name another") from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def issue(
        self,
        uris: Sequence[str],
        *,
        names: Sequence[str] = ("localhost", LOOPBACK),
        ends: datetime | None = None,
    ) -> tuple[str, str]:
        """Certificate and key, in PEM.

        Args:
            uris: whom it names; one SPIFFE id, where it is to be taken.
            names: host names and addresses at which it serves.
            ends: of its life.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        ends = ends or datetime.now(UTC) + LEAF_LIFE
        builder = _builder(x509.Name([]), self.certificate.subject, key, ends=ends)
        builder = builder.add_extension(x509.SubjectAlternativeName([*_names(names), *_uris(uris)]), critical=True)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(Encoding.PEM).decode("ascii"), _key_pem(key)


def certificates(folder: Path) -> None:
    """Make a CA in the folder unless it has one, and a new certificate of each workload in a folder of its own."""
    authority = Authority.kept(folder)
    for workload in WORKLOADS:
        write(folder / workload, *authority.issue([spiffe_id(workload)]), bundle=authority.pem)


def write(folder: Path, chain: str, key: str, *, bundle: str) -> None:
    """Files as a process looks for them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / "ca.crt", bundle)
    write_private(folder / "tls.key", key)
    write_private(folder / "tls.crt", chain)


def spiffe_id(workload: str) -> str:
    """Of a workload on this machine."""
    return f"spiffe://{TRUST_DOMAIN}/{workload}"


def settings(folder: Path, workload: str) -> dict[str, str]:
    """What a process of the workload is told of the certificates in the folder, apart from its peers."""
    return {"PARLEY_MESH_TLS_FOLDER": str(folder / workload)}


def peers() -> Mapping[str, str]:
    """Workloads by SPIFFE id, as a server is told of them."""
    return {spiffe_id(workload): workload for workload in WORKLOADS}


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ends: datetime
) -> x509.CertificateBuilder:
    begins = min(datetime.now(UTC), ends) - SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]


def _uris(uris: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(uri) for uri in uris]


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
