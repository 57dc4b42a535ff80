"""Steps of a release, with programs of the test's own in the place of docker, cosign and helm."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dev.home import ROOT
from dev.tools import release, rollout

DIGEST = f"sha256:{'a' * 64}"
VERSION = release.version()
CHANGELOG = f"# Changelog\n\n## [{VERSION}] - 2026-11-23\n"
CHART = f"version: {VERSION}\nappVersion: {VERSION}\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that write down how they were called; returns the file."""
    calls = tmp_path / "calls"
    calls.touch()
    for name in ("docker", "cosign", "helm", "kubectl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{calls}\ncase "$1" in push) echo "Digest: {DIGEST}";; esac\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(release, "DIST", tmp_path / "dist")
    return calls


def told(images: tuple[release.Image, ...] = release.IMAGES) -> None:
    release.DIST.mkdir(exist_ok=True)
    for image in images:
        image.metadata.write_text(json.dumps({"containerimage.digest": DIGEST}))


def test_a_tag_changelog_and_chart_of_one_version_are_a_release() -> None:
    assert release.problems(f"v{VERSION}", CHANGELOG, CHART) == []


@pytest.mark.parametrize(
    ("tag", "changelog", "chart", "says"),
    [
        (VERSION, CHANGELOG, CHART, "the tag is"),
        (f"v{VERSION}", "## [Unreleased]\n", CHART, "CHANGELOG.md has no section"),
        (f"v{VERSION}", CHANGELOG, f"version: {VERSION}\nappVersion: 9.9.9\n", "appVersion 9.9.9"),
        (f"v{VERSION}", CHANGELOG, f"appVersion: {VERSION}\n", "version nothing"),
    ],
)
def test_a_release_that_does_not_fit_together_is_refused(tag: str, changelog: str, chart: str, says: str) -> None:
    (problem,) = release.problems(tag, changelog, chart)
    assert says in problem


def test_images_are_pushed_with_provenance_and_the_digest_is_told(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    told()
    assert release.main(["image-push", "--repository", "ghcr.io/acme/parley"]) == 0
    first, second = programs.read_text().splitlines()
    assert "--target parley " in first
    assert f"--tag ghcr.io/acme/parley:{VERSION} --push --provenance=mode=max" in first
    assert f"--tag ghcr.io/acme/parley:{VERSION}-sentence-transformers --push" in second
    assert re.search(r"REVISION=[0-9a-f]{40} ", first)
    assert (tmp_path / "outputs").read_text() == f"digest={DIGEST}\n"


def test_an_image_for_this_machine_is_not_pushed(programs: Path) -> None:
    assert release.main(["image"]) == 0
    assert "--load" in programs.read_text()
    assert "--push" not in programs.read_text()


def test_a_digest_is_signed_never_a_tag(programs: Path) -> None:
    told()
    assert release.main(["image-sign", "--repository", "ghcr.io/acme/parley"]) == 0
    calls = programs.read_text().splitlines()
    assert len(calls) == 2 * len(release.IMAGES)
    assert all(call.endswith(f"ghcr.io/acme/parley@{DIGEST}") for call in calls)
    assert [call.split()[1] for call in calls] == ["sign", "attest"] * len(release.IMAGES)


def test_what_was_not_pushed_cannot_be_signed(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["image-sign", "--repository", "ghcr.io/acme/parley"]) == 1
    assert "make image-push" in capsys.readouterr().err
    assert programs.read_text() == ""


def test_signature_and_bill_are_verified_against_the_workflow(programs: Path) -> None:
    arguments = ["--repository", "ghcr.io/acme/parley", "--digest", DIGEST, "--identity", "^https://forge/acme"]
    assert release.main(["image-verify", *arguments]) == 0
    calls = programs.read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["verify", "verify-attestation"]
    assert all("--certificate-identity-regexp ^https://forge/acme --certificate-oidc-issuer" in call for call in calls)


def test_a_chart_is_signed_by_the_digest_that_the_registry_gave(programs: Path) -> None:
    assert release.main(["chart", "--repository", "oci://ghcr.io/acme/charts"]) == 0
    assert programs.read_text().splitlines()[-1] == f"cosign sign --yes ghcr.io/acme/charts/parley@{DIGEST}"


def test_a_program_that_fails_ends_the_step(programs: Path) -> None:
    (programs.parent / "bin" / "docker").write_text("#!/bin/sh\nexit 3\n")
    assert release.main(["image"]) == 1


def test_staging_gets_chart_values_and_image_by_digest(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM_VALUES", "components: {}\n")
    monkeypatch.setenv("KUBECONFIG_CONTENT", "apiVersion: v1\n")
    monkeypatch.setenv("KUBECONFIG", "")
    chart = ["--chart", "oci://ghcr.io/acme/charts/parley", "--repository", "ghcr.io/acme/parley", "--digest", DIGEST]
    assert rollout.main(["staging", *chart]) == 0
    (call,) = programs.read_text().splitlines()
    assert call.startswith(f"helm upgrade --install parley oci://ghcr.io/acme/charts/parley --version {VERSION}")
    assert f"--set image.repository=ghcr.io/acme/parley --set image.digest={DIGEST}" in call
    assert "--atomic" in call
    assert re.search(r"--values \S+/values.yaml", call)
    assert not Path(os.environ["KUBECONFIG"]).exists()


def test_smoke_is_the_test_of_the_chart(programs: Path) -> None:
    assert rollout.main(["smoke", "--release", "chat", "--namespace", "prod"]) == 0
    assert programs.read_text().startswith("helm test chat --namespace prod")


@pytest.mark.parametrize("url", ["", "file:///etc/passwd"])
def test_a_canary_that_nothing_can_judge_is_not_begun(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("PROMETHEUS_URL", url)
    assert rollout.main(["canary"]) == 1
    assert "PROMETHEUS_URL" in capsys.readouterr().err
    assert programs.read_text() == ""


def test_bills_of_materials_are_made_by_a_tool_from_a_hashed_lock() -> None:
    lock = (ROOT / "requirements" / "release.lock").read_text(encoding="utf-8")
    assert re.search(r"^cyclonedx-bom==", lock, flags=re.MULTILINE)


def test_the_steps_need_nothing_but_python() -> None:
    lines = "import sys; sys.path[:0] = ['.']; import dev.tools.release, dev.tools.rollout"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", lines], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
