import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dev.certificates import Authority, spiffe_id, write
from services.mesh.clock import ManualClock
from services.mesh.telemetry import REGISTRY
from services.mesh.tls.certificates import FILE_BYTES_MAX, CertificateError, CertificateFiles
from tests.support.certificates import party

EDGE = [spiffe_id("edge")]
AUTHORITY = Authority.made()


def remaining_s(certificate: str) -> float:
    found = REGISTRY.get_sample_value("parley_mesh_certificate_remaining_seconds", {"certificate": certificate})
    assert found is not None
    return found


def reads(outcome: str) -> float:
    return REGISTRY.get_sample_value("parley_mesh_certificate_reads_total", {"outcome": outcome}) or 0.0


def test_files_are_what_a_secret_of_cert_manager_holds(tmp_path: Path) -> None:
    found = CertificateFiles(party(tmp_path, AUTHORITY, "edge")).current
    assert found.chain == (tmp_path / "tls.crt").read_bytes()
    assert found.key == (tmp_path / "tls.key").read_bytes()
    assert found.bundle == (tmp_path / "ca.crt").read_bytes()
    assert found.spiffe_id == "spiffe://parley.dev/edge"
    assert "PRIVATE" not in repr(found)


def test_bundle_may_lie_elsewhere(tmp_path: Path) -> None:
    folder, bundle = party(tmp_path / "edge", AUTHORITY, "edge"), tmp_path / "bundle.pem"
    (folder / "ca.crt").unlink()
    bundle.write_text(Authority.made().pem + AUTHORITY.pem)
    assert CertificateFiles(folder, bundle).current.bundle == bundle.read_bytes()


def test_ca_may_have_issued_another_one_in_between(tmp_path: Path) -> None:
    between = Authority.made("between", issuer=AUTHORITY)
    chain, key = between.issue(EDGE)
    write(tmp_path, chain + between.pem, key, bundle=AUTHORITY.pem)
    assert CertificateFiles(tmp_path).current.spiffe_id == EDGE[0]


def nothing(folder: Path) -> None:
    (folder / "tls.key").unlink()


def not_pem(folder: Path) -> None:
    (folder / "tls.crt").write_text("certificate")


def no_bundle(folder: Path) -> None:
    (folder / "ca.crt").write_text("")


def too_large(folder: Path) -> None:
    (folder / "ca.crt").write_text(AUTHORITY.pem + " " * FILE_BYTES_MAX)


def another_key(folder: Path) -> None:
    (folder / "tls.key").write_text(AUTHORITY.issue(EDGE)[1])


def no_key(folder: Path) -> None:
    (folder / "tls.key").write_text("key")


def another_ca(folder: Path) -> None:
    party(folder, Authority.made(), "edge", bundle=AUTHORITY.pem)


def nobody(folder: Path) -> None:
    write(folder, *AUTHORITY.issue([]), bundle=AUTHORITY.pem)


def two(folder: Path) -> None:
    write(folder, *AUTHORITY.issue([*EDGE, spiffe_id("auth")]), bundle=AUTHORITY.pem)


REFUSED = [
    (nothing, "cannot read .*tls.key: No such file"),
    (not_pem, "tls.crt holds no certificates in PEM"),
    (no_bundle, "ca.crt holds no certificates in PEM"),
    (too_large, "ca.crt is larger than 1048576 bytes"),
    (another_key, "tls.key is not the key of .*tls.crt"),
    (no_key, "tls.key holds no key in PEM"),
    (another_ca, "no CA in .*ca.crt has issued .*tls.crt: its peers would refuse it"),
    (nobody, "names .*one URI is needed"),
    (two, "names .*one URI is needed"),
]


@pytest.mark.parametrize(("damage", "told"), REFUSED)
def test_files_that_cannot_be_used_are_refused_at_start(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(party(tmp_path, AUTHORITY, "edge"))
    with pytest.raises(CertificateError, match=told):
        CertificateFiles(tmp_path)


@pytest.mark.parametrize(("damage", "told"), [case for case in REFUSED if case[0] is not nothing])
def test_files_that_cannot_be_used_later_leave_those_before_in_use(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    files = CertificateFiles(party(tmp_path, AUTHORITY, "edge"))
    before, refused = files.current, reads("refused")
    damage(tmp_path)
    with capture_logs() as logs:
        assert files.look() is before
    (line,) = logs
    assert line["event"] == "certificates_refused"
    assert re.search(told, line["error"])
    assert reads("refused") == refused + 1
    party(tmp_path, AUTHORITY, "edge")
    assert files.look() is not before


def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path) -> None:
    files = CertificateFiles(party(tmp_path, AUTHORITY, "edge"))
    before, taken = files.current, reads("taken")
    assert files.look() is before
    assert reads("taken") == taken
    party(tmp_path, AUTHORITY, "edge")
    assert files.look() is files.look() is not before
    assert reads("taken") == taken + 1


def test_time_until_the_end_is_told_for_the_leaf_and_for_the_first_ca_that_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    ends = clock.now() + timedelta(hours=2)
    chain, key = AUTHORITY.issue(EDGE, ends=ends)
    write(tmp_path, chain, key, bundle=AUTHORITY.pem)
    CertificateFiles(tmp_path, clock=clock)
    assert remaining_s("leaf") == pytest.approx(7_200, abs=1)
    clock.advance(7_000)
    assert remaining_s("leaf") == pytest.approx(200, abs=1)
    expected = (AUTHORITY.certificate.not_valid_after_utc - clock.now()).total_seconds()
    assert remaining_s("ca") == pytest.approx(expected, abs=1)


def test_expired_certificate_is_an_error_in_the_log_and_waits_for_its_renewal(tmp_path: Path) -> None:
    clock = ManualClock()
    chain, key = AUTHORITY.issue(EDGE, ends=clock.now() - timedelta(hours=1))
    write(tmp_path, chain, key, bundle=AUTHORITY.pem)
    with capture_logs() as logs:
        files = CertificateFiles(tmp_path, clock=clock)
        party(tmp_path, AUTHORITY, "edge")
        files.look()
    assert [(line["event"], line["log_level"], line["is_expired"]) for line in logs] == [
        ("certificates_in_use", "error", True),
        ("certificates_renewed", "info", False),
    ]
