from pathlib import Path

import pytest
from cryptography import x509

from dev.certificates import CONSUMER, WORKLOADS, Authority, certificates, spiffe_id
from dev.errors import DevError


def leaf(folder: Path, workload: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / workload / "tls.crt").read_bytes())


def test_every_workload_has_a_certificate_of_one_ca(tmp_path: Path) -> None:
    certificates(tmp_path)
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    for workload in (*WORKLOADS, CONSUMER):
        found = leaf(tmp_path, workload)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [spiffe_id(workload)]
        assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_once_more_renews_the_certificates_and_keeps_the_ca(tmp_path: Path) -> None:
    certificates(tmp_path)
    before, authority = leaf(tmp_path, "edge"), (tmp_path / "ca.crt").read_text()
    certificates(tmp_path)
    assert leaf(tmp_path, "edge").serial_number != before.serial_number
    assert (tmp_path / "ca.crt").read_text() == authority


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    certificates(tmp_path)
    keys = [tmp_path / "ca.key", *tmp_path.glob("*/tls.key")]
    assert len(keys) == len(WORKLOADS) + 1
    assert [key for key in keys if key.stat().st_mode & 0o077] == []


def test_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("key")
    with pytest.raises(DevError, match="holds no CA that was made here"):
        Authority.kept(tmp_path)
