"""Certificates for tests of the mesh: parties of one CA, and settings of processes that use them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from dev.certificates import Authority, peers, spiffe_id, write
from services.mesh.settings import MeshSettings, ServerSettings

LOOK_EVERY_S = 0.1
TRANSPORTS = ("grpc", "tunnel")
"""How calls may travel to a process; to its certificates that is all one."""


def party(folder: Path, authority: Authority, workload: str, *, bundle: str = "", uris: Sequence[str] = ()) -> Path:
    """A folder as a process of the workload has it; written anew, it is renewed."""
    issued = authority.issue(uris or [spiffe_id(workload)])
    write(folder, *issued, bundle=bundle or authority.pem)
    return folder


def client_settings(folder: Path) -> MeshSettings:
    return MeshSettings(mesh_tls_folder=str(folder), mesh_tls_look_every_s=LOOK_EVERY_S)


def server_settings(folder: Path, **given: Any) -> ServerSettings:  # Any: settings of whatever kind
    return ServerSettings(
        mesh_tls_folder=str(folder),
        mesh_tls_look_every_s=LOOK_EVERY_S,
        mesh_tls_peers=dict(peers()),
        drain_s=1.0,
        not_serving_pause_s=0.0,
        **given,
    )


def credentials(bundle: str, issued: tuple[str, str] | None) -> grpc.ChannelCredentials:
    """What a client shows that is not ours; None shows nothing."""
    chain, key = (part.encode() for part in issued) if issued else (None, None)
    return grpc.ssl_channel_credentials(bundle.encode(), key, chain)
