"""The certificates of a process: read from files, judged before they are used, and followed while they are renewed.

gRPC's own errors for a key that does not fit, or for a certificate of a CA that nobody trusts, come with the first call
and do not name the file. Here they are found when the files are read, and the ones before stay in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.settings import MeshSettings, SettingsError

CHAIN_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
BUNDLE_FILE: Final = "ca.crt"
"""The names in a Secret of cert-manager, and in every other of the type kubernetes.io/tls."""
FILE_BYTES_MAX: Final = 1024 * 1024
SPIFFE_SCHEME: Final = "spiffe://"

_log = telemetry.logger("mesh.tls")
_REMAINING: Final = telemetry.gauge(
    "parley_mesh_certificate_remaining_seconds",
    "Time until a certificate of this process expires: its own (leaf), and the first of the CAs that it trusts (ca).",
    ["certificate"],
)
_LIFE: Final = telemetry.gauge(
    "parley_mesh_certificate_life_seconds",
    "From the beginning to the end of the certificate, which tells how much of it is left.",
    ["certificate"],
)
_READ: Final = telemetry.counter(
    "parley_mesh_certificate_reads",
    "Changed certificate files that were read: taken, or refused with the ones before left in use.",
    ["outcome"],
)

_Signature = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """The files cannot be used; the message says which and why, and holds nothing of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What one look at the files found, and what goes together.

    Attributes:
        key, chain, bundle: PEM; the chain begins with the process's own certificate.
        spiffe_id: whom that names.
        begins_at, expires_at: its life.
        bundle_expires_at: the end of the CA that ends first.
    """

    key: bytes
    chain: bytes
    bundle: bytes
    spiffe_id: str
    begins_at: datetime
    expires_at: datetime
    bundle_expires_at: datetime

    def __repr__(self) -> str:
        return f"Certificates(spiffe_id={self.spiffe_id!r}, expires_at={self.expires_at.isoformat()})"


class CertificateFiles:
    """The files, and what of them is in use.

    Args:
        folder: with `tls.crt`, `tls.key` and, unless `bundle` is given, `ca.crt`.
        bundle: CA certificates that peers must come from.

    Attributes:
        current: the newest that was sound. Threads of gRPC read it too.

    Raises:
        CertificateError: they cannot be used, or are not there.
    """

    def __init__(self, folder: Path, bundle: Path | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._paths = (folder / CHAIN_FILE, folder / KEY_FILE, bundle or folder / BUNDLE_FILE)
        self._clock = clock
        self._signature: _Signature = ()
        self.current = self._read()
        self._signature = self._seen()
        _REMAINING.labels("leaf").set_function(lambda: self._remaining_s(self.current.expires_at))
        _REMAINING.labels("ca").set_function(lambda: self._remaining_s(self.current.bundle_expires_at))
        _LIFE.labels("leaf").set_function(self._life_s)
        for outcome in ("taken", "refused"):
            _READ.labels(outcome)
        self._tell("certificates_in_use")

    def look(self) -> Certificates:
        """Reads the files again if they changed; gives what is to be used from now on."""
        try:
            # Before it is read: a change in between is seen at the next look, at the latest.
            seen = self._seen()
            if seen != self._signature:
                self.current = self._read()
                self._signature = seen
                _READ.labels("taken").inc()
                self._tell("certificates_renewed")
        except CertificateError as error:
            # Files that are written one after the other do not fit for a moment; the next look finds them whole.
            _READ.labels("refused").inc()
            _log.warning("certificates_refused", error=str(error))
        return self.current

    def _tell(self, event: str) -> None:
        told = self.current
        remaining_s = min(self._remaining_s(told.expires_at), self._remaining_s(told.bundle_expires_at))
        tell = _log.error if remaining_s <= 0 else _log.info
        tell(event, spiffe_id=told.spiffe_id, remaining_s=round(remaining_s), is_expired=remaining_s <= 0)

    def _remaining_s(self, ends: datetime) -> float:
        return (ends - self._clock.now()).total_seconds()

    def _life_s(self) -> float:
        return (self.current.expires_at - self.current.begins_at).total_seconds()

    def _seen(self) -> _Signature:
        try:
            found = [path.stat() for path in self._paths]
        except OSError as error:
            raise CertificateError(f"cannot look at {error.filename}: {error.strerror}") from error
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)

    def _read(self) -> Certificates:
        chain, key, bundle = (_content(path) for path in self._paths)
        leaf, *rest = _parsed(self._paths[0], chain)
        authorities = _parsed(self._paths[2], bundle)
        if not _is_key_of(self._paths[1], key, leaf):
            raise CertificateError(f"{self._paths[1]} is not the key of {self._paths[0]}")
        last = rest[-1] if rest else leaf
        if not any(_has_issued(authority, last) for authority in authorities):
            raise CertificateError(f"no CA in {self._paths[2]} has issued {self._paths[0]}: its peers would refuse it")
        return Certificates(
            key=key,
            chain=chain,
            bundle=bundle,
            spiffe_id=_spiffe_id(self._paths[0], leaf),
            begins_at=leaf.not_valid_before_utc,
            expires_at=leaf.not_valid_after_utc,
            bundle_expires_at=min(authority.not_valid_after_utc for authority in authorities),
        )


def certificate_files(settings: MeshSettings | None) -> CertificateFiles | None:
    """The files that the settings name, one and the same for all of a process; None where TLS is off.

    Raises:
        SettingsError: they cannot be used.
    """
    if settings is None or not settings.mesh_tls_folder:
        return None
    try:
        return _shared(settings.mesh_tls_folder, settings.mesh_tls_bundle)
    except CertificateError as error:
        raise SettingsError(f"PARLEY_MESH_TLS_FOLDER: {error}") from error


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Credentials of a port: whoever connects shows a certificate of the bundle; each handshake is with `current`."""
    served = files.current

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # Called by threads of gRPC, before each handshake.
        nonlocal served
        found = files.current
        if found is served:
            return None
        served = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        renewed,  # type: ignore[arg-type] # gRPC's stub forgets that None means "as before"
        require_client_authentication=True,
    )


def channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """Credentials of a channel; they are what they are, so a renewal needs another channel."""
    return grpc.ssl_channel_credentials(certificates.bundle, certificates.key, certificates.chain)


@cache
def _shared(folder: str, bundle: str) -> CertificateFiles:
    return CertificateFiles(Path(folder), Path(bundle) if bundle else None)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pairs = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, certificates.bundle)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise CertificateError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return content


def _parsed(path: Path, content: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificates in PEM") from error


def _is_key_of(path: Path, key: bytes, leaf: x509.Certificate) -> bool:
    try:
        return load_pem_private_key(key, password=None).public_key() == leaf.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} holds no key in PEM that needs no password") from error


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _spiffe_id(path: Path, leaf: x509.Certificate) -> str:
    """The one URI that the certificate names; X.509-SVID, section 2: exactly one."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        uris = []
    else:
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(SPIFFE_SCHEME):
        raise CertificateError(f"{path} names {uris!r}: one URI is needed, {SPIFFE_SCHEME}<trust domain>/<path>")
    return uris[0]
