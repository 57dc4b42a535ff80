"""The platform's own processes: who they are, by a secret of each."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.mesh.errors import CallerForbidden, CredentialsInvalid

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NOBODY: Final = hashlib.sha256(b"").hexdigest()
SECRETS_MAX: Final = 2
"""Of a workload: the one that it has, and the one that it gets next."""
_NO_HASHES: Final = (_NOBODY,) * SECRETS_MAX


@dataclass(frozen=True, slots=True, repr=False)
class WorkloadProof:
    """What a caller says that it is, and the secret that shall prove it.

    Attributes:
        peer: whom the certificate of its connection names; None where connections have none.
    """

    name: str
    secret: str
    peer: str | None = None


class Workloads:
    """Knows the workloads by the SHA-256 of their secrets.

    Args:
        hashes: by workload name, in lower-case hexadecimal digits; two while a secret gives way to the next one.
    """

    def __init__(self, hashes: Mapping[str, str | Sequence[str]]) -> None:
        self._hashes = {
            name: _checked(name, [given] if isinstance(given, str) else given) for name, given in hashes.items()
        }

    def prove(self, proof: WorkloadProof) -> str:
        """The name of the workload.

        Raises:
            CredentialsInvalid: unknown, or not its secret; which of them is not told, not even by the time it takes.
            CallerForbidden: the secret came with the certificate of another workload.
        """
        digest = hashlib.sha256(proof.secret.encode()).hexdigest()
        known = self._hashes.get(proof.name, _NO_HASHES)
        matches = sum(hmac.compare_digest(digest, each) for each in known)  # looks at all of them
        if not matches or not proof.secret:
            raise CredentialsInvalid
        if proof.peer is not None and proof.peer != proof.name:
            raise CallerForbidden("the certificate of the connection is not that of this workload")
        return proof.name


def _checked(name: str, digests: Sequence[str]) -> tuple[str, ...]:
    """As many for every workload, so that a wrong secret takes as long for any."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a workload: a-z, 0-9 and - only")
    if not 0 < len(digests) <= SECRETS_MAX:
        raise ValueError(f"{name!r} must have one hash, or {SECRETS_MAX} while its secret is exchanged")
    for digest in digests:
        if _HASH.fullmatch(digest) is None:
            raise ValueError(f"the hash of {name!r} must be a SHA-256 in 64 lower-case hexadecimal digits")
        if digest == _NOBODY:
            raise ValueError(f"the hash of {name!r} is that of an empty secret")
    return (*digests, *_NO_HASHES)[:SECRETS_MAX]
