"""Make what a release consists of: images, their bills of materials, signatures, and the chart.

Workflows call `make`, `make` calls this; nothing of a release exists in a workflow alone. What is signed is a digest,
never a tag. It runs on a bare Python beside docker, cosign and helm.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.tools import deployment
from dev.tools.environment import ROOT

DIST = ROOT / "dist"
CHART = ROOT / "helm" / "parley"
_SBOM_HOME = ROOT / ".build" / "sbom"
_SIGNERS_ISSUER = "https://token.actions.githubusercontent.com"


class ReleaseError(Exception):
    """The release cannot be made as it is; the message is for the person who makes it."""


@dataclass(frozen=True, slots=True)
class Image:
    """A target of the Dockerfile that is released.

    Attributes:
        target: its name there.
        suffix: of its tag.
    """

    target: str
    suffix: str

    @property
    def lock(self) -> Path:
        """What it holds."""
        return ROOT / "requirements" / f"image{self.suffix}.lock"

    @property
    def metadata(self) -> Path:
        """What the builder tells about it."""
        return DIST / f"image{self.suffix}.json"

    @property
    def bill(self) -> Path:
        """Its bill of materials."""
        return DIST / f"image{self.suffix}.cdx.json"

    def digest(self) -> str:
        """What the registry calls it for ever."""
        if not self.metadata.is_file():
            raise ReleaseError(f"{self.metadata} is missing: `make image-push` writes it")
        found = str(json.loads(self.metadata.read_text(encoding="utf-8")).get("containerimage.digest", ""))
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
            raise ReleaseError(f"{self.metadata} holds no digest")
        return found


IMAGES = (Image("parley", ""), Image("sentence-transformers", "-sentence-transformers"))


def version() -> str:
    """The version of everything that is released together."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def problems(tag: str, changelog: str, chart: str) -> list[str]:
    """What keeps this checkout from being released as ``tag``."""
    wanted = version()
    found = [] if tag == f"v{wanted}" else [f"the tag is {tag!r}, and pyproject.toml says version {wanted}"]
    if not re.search(rf"^## \[{re.escape(wanted)}\] - \d{{4}}-\d\d-\d\d$", changelog, flags=re.MULTILINE):
        found.append(f"CHANGELOG.md has no section `## [{wanted}] - YYYY-MM-DD`")
    for name in ("version", "appVersion"):
        said = re.search(rf'^{name}: "?([^"\n]+)"?$', chart, flags=re.MULTILINE)
        if said is None or said[1] != wanted:
            found.append(f"Chart.yaml says {name} {said[1] if said else 'nothing'}, and it has to be {wanted}")
    return found


def check(tag: str) -> None:
    """Refuse a tag that this checkout does not belong to."""
    changelog, chart = (path.read_text(encoding="utf-8") for path in (ROOT / "CHANGELOG.md", CHART / "Chart.yaml"))
    if found := problems(tag, changelog, chart):
        raise ReleaseError("\n  ".join(["this is no release:", *found]))


def build(image: Image, repository: str, *, push: bool) -> None:
    """Build one target; pushed, it carries its provenance, and its digest is kept in ``dist/``."""
    DIST.mkdir(exist_ok=True)
    arguments = {
        "VERSION": version(),
        "REVISION": _git("rev-parse", "HEAD"),
        # Of the commit: the same commit makes the same labels.
        "CREATED": _git("log", "-1", "--format=%cI"),
        "SOURCE": os.environ.get("SOURCE", ""),
        "UV_TORCH_BACKEND": os.environ.get("UV_TORCH_BACKEND", ""),
    }
    if base := os.environ.get("PYTHON_IMAGE"):
        arguments["PYTHON_IMAGE"] = base
    command = ["docker", "buildx", "build", "--target", image.target]
    command += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    command += ["--tag", f"{repository}:{version()}{image.suffix}"]
    if push:
        command += ["--push", "--provenance=mode=max", "--metadata-file", str(image.metadata)]
    else:
        command += ["--load"]
    _run([*command, str(ROOT)])


def write_bills() -> None:
    """Write the bills of materials of all images, with a tool that is itself locked."""
    deployment.install_libraries(ROOT / "requirements" / "release.lock", _SBOM_HOME)
    for image in IMAGES:
        write_bill(image)


def write_bill(image: Image) -> None:
    """Write the CycloneDX bill of materials of an image's lock, hashes included."""
    DIST.mkdir(exist_ok=True)
    command = [str(_SBOM_HOME / "bin" / "cyclonedx-py"), "requirements", str(image.lock.relative_to(ROOT))]
    command += ["--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible"]
    _run([*command, "--spec-version", "1.6", "--output-format", "JSON", "--output-file", str(image.bill)])


def sign(image: Image, repository: str) -> None:
    """Sign the pushed image without a key, by who the workflow is, and attach its bill of materials as signed."""
    subject = f"{repository}@{image.digest()}"
    _run(["cosign", "sign", "--yes", subject])
    _run(["cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", str(image.bill), subject])


def verify(repository: str, digest: str, identity: str) -> None:
    """Refuse an image that was not signed by the release workflow, whose address ``identity`` matches."""
    signer = ["--certificate-identity-regexp", identity, "--certificate-oidc-issuer", _SIGNERS_ISSUER]
    _run(["cosign", "verify", *signer, f"{repository}@{digest}"])
    _run(["cosign", "verify-attestation", "--type", "cyclonedx", *signer, f"{repository}@{digest}"])


def push_chart(repository: str) -> None:
    """Package the chart, push it to an OCI repository (`oci://registry/owner/charts`) and sign it by its digest."""
    DIST.mkdir(exist_ok=True)
    _run(["helm", "package", str(CHART), "--destination", str(DIST)])
    command = ["helm", "push", str(DIST / f"parley-{version()}.tgz"), repository]
    pushed = subprocess.run(command, check=True, capture_output=True, text=True)
    told = pushed.stdout + pushed.stderr
    print(told, end="")
    digest = re.search(r"sha256:[0-9a-f]{64}", told)
    if digest is None:
        raise ReleaseError("helm did not tell the digest of the chart that it pushed")
    _run(["cosign", "sign", "--yes", f"{repository.removeprefix('oci://')}/parley@{digest[0]}"])


def main(arguments: Sequence[str]) -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.release", description=__doc__)
    parser.add_argument("step", choices=["check", "sbom", "image", "image-push", "image-sign", "image-verify", "chart"])
    parser.add_argument("--tag", default="")
    parser.add_argument("--repository", default="parley")
    parser.add_argument("--digest", default="")
    parser.add_argument("--identity", default="")
    chosen = parser.parse_args(arguments)
    try:
        _step(chosen)
    except (ReleaseError, subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"release {chosen.step}: {error}", file=sys.stderr)
        return 1
    return 0


def _step(chosen: argparse.Namespace) -> None:
    match chosen.step:
        case "check":
            check(chosen.tag)
        case "sbom":
            write_bills()
        case "image":
            build(IMAGES[0], chosen.repository, push=False)
        case "image-push":
            for image in IMAGES:
                build(image, chosen.repository, push=True)
            _tell("digest", IMAGES[0].digest())
        case "image-sign":
            for image in IMAGES:
                sign(image, chosen.repository)
        case "image-verify":
            verify(chosen.repository, chosen.digest, chosen.identity)
        case _:
            push_chart(chosen.repository)


def _tell(name: str, value: str) -> None:
    """Say it to people, and to the jobs of a workflow that come after this one."""
    print(f"{name} {value}")
    if outputs := os.environ.get("GITHUB_OUTPUT"):
        with Path(outputs).open("a", encoding="utf-8") as file:
            file.write(f"{name}={value}\n")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: list[str]) -> None:
    print("release:", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
