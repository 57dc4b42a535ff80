"""Has the real Helm lint and render the chart, and kubeconform judge what comes out."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from dev.observe.promql import Matcher, selectors
from tests.deploy.kubernetes import MINORS, Schemas, made_schemas
from tests.deploy.renders import (
    GOLDEN,
    KUBERNETES,
    NAMESPACE,
    RELEASE,
    SETS,
    containers,
    environment,
    helm,
    is_of_another_folder,
    normalised,
    pods,
    render,
)
from tests.deploy.schema import CHART

REMEDY: Final = "look at what changed with `make chart` and `git diff`, and commit it if it is meant"
_JUDGED_S_MAX: Final = 120.0

every_set = pytest.mark.parametrize("values", SETS)


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Schemas:
    return made_schemas(tmp_path_factory.mktemp("schemas"))


@pytest.mark.parametrize("values", [None, *SETS])
def test_lint_finds_nothing(values: str | None) -> None:
    files = [] if values is None else ["--values", str(CHART / "ci" / f"{values}.yaml")]
    done = helm("lint", "--strict", "--namespace", NAMESPACE, str(CHART), *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@every_set
def test_render_is_the_committed_one(values: str) -> None:
    assert normalised(render(values)) == (GOLDEN / f"{values}.json").read_text(encoding="utf-8"), REMEDY


@pytest.mark.parametrize("minor", MINORS)
@every_set
def test_kubernetes_knows_every_field(values: str, minor: str, schemas: Schemas, tmp_path: Path) -> None:
    manifests = render(values, "--kube-version", f"{minor}.0")
    path = tmp_path / "manifests.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    done = subprocess.run(
        schemas.command(minor, path), capture_output=True, text=True, timeout=_JUDGED_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary == {"valid": len(manifests), "invalid": 0, "errors": 0, "skipped": 0}


def test_schemas_are_strict(schemas: Schemas, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIp": "None"}})
    )
    done = subprocess.run(
        schemas.command(MINORS[0], path), capture_output=True, text=True, timeout=_JUDGED_S_MAX, check=False
    )
    assert done.returncode == 1
    assert "clusterIp" in done.stdout


def test_every_alert_and_dashboard_is_carried_along() -> None:
    carried = [each["metadata"]["name"] for each in render("ha") if is_of_another_folder(each)]
    files = (CHART / "alerts").glob("*.yaml")
    rules = [path for path in files if re.search(r"^groups:", path.read_text(), re.MULTILINE)]
    dashboards = list((CHART / "dashboards").glob("*.json"))
    assert len(carried) == len(set(carried)) == len(rules) + len(dashboards)


def test_rules_are_about_their_own_installation_alone() -> None:
    rules = [
        rule
        for each in render("ha")
        if each["kind"] == "PrometheusRule"
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) > 100
    own = Matcher("namespace", "=", NAMESPACE)
    for rule in rules:
        assert rule["labels"]["namespace"] == NAMESPACE
        narrow = {each.name for each in selectors(rule["expr"]) if own not in each.matchers}
        assert narrow <= {"prometheus_rule_evaluation_failures_total"}, rule["expr"]


def test_alerts_arrive_as_they_were_written() -> None:
    written = {path.stem: path for path in (CHART / "alerts").glob("*.yaml")}
    for each in render("ha"):
        if each["kind"] == "PrometheusRule":
            text = written[each["metadata"]["name"].removeprefix(f"{RELEASE}-")].read_text(encoding="utf-8")
            assert [group["name"] for group in each["spec"]["groups"]] == re.findall(
                r"^ *- name: \"?([\w.:-]+)", text, re.MULTILINE
            )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("minimal", ["one replica; its restart is an outage", "image: a tag can be moved", "REGISTRATION: open"]),
        ("ha", ["SCRIPTED: scripted models are for tests"]),
        ("kafka", ["FORWARDED_ALLOW_IPS: empty", "a role of its own for migrations"]),
    ],
)
def test_notes_warn_of_what_is_not_safe(values: str, told: list[str], tmp_path: Path) -> None:
    said = notes(tmp_path, "--values", str(CHART / "ci" / f"{values}.yaml"))
    warnings = said.partition("WARNINGS")[2]
    assert [part for part in told if part not in warnings] == [], said


def test_notes_of_a_sound_installation_warn_of_nothing(tmp_path: Path) -> None:
    values = str(CHART / "ci" / "ha.yaml")
    assert "WARNINGS" not in notes(
        tmp_path, "--values", values, "--set", "settings.inference.PARLEY_INFERENCE_SCRIPTED="
    )


def test_without_certificates_processes_call_in_the_clear_and_the_notes_warn(tmp_path: Path) -> None:
    manifests = render("ha", "--set", "mtls.enabled=false")
    assert not {each["kind"] for each in manifests} & {"Certificate", "Issuer"}
    for name, pod in pods(manifests):
        for container in containers(pod):
            assert not {"PARLEY_MESH_TLS_FOLDER", "PARLEY_HEALTH_LISTEN"} & environment(container).keys(), name
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            if "grpc" in ports:
                assert container["readinessProbe"]["grpc"]["port"] == ports["grpc"]
    assert "mtls: off" in notes(tmp_path, "--set", "mtls.enabled=false")


def test_after_a_restore_everything_is_forgotten_before_any_process_is_there(tmp_path: Path) -> None:
    restored = ("--set", "migrations.afterRestore=true")
    manifests = [each for each in render("sharded", *restored) if each["metadata"]["name"] == f"{RELEASE}-migrations"]
    policy, job = sorted(manifests, key=lambda each: each["kind"] == "Job")
    steps = containers(job["spec"]["template"])
    assert [(each["command"][2].removeprefix("services."), each["args"]) for each in steps] == [
        (service, [command])
        for command in ("migrate", "after-restore")
        for service in ("auth", "conversation", "retrieval", "inference")
    ]
    needed = {"auth": {"PARLEY_DATABASE_URL", "PARLEY_VALKEY_URL"}}
    for each in steps[4:]:
        secret = {name for name, value in environment(each).items() if value is None}
        assert secret == needed.get(each["command"][2].removeprefix("services."), {"PARLEY_VALKEY_URL"})
    ports = {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]}
    assert ports == {53, 5432, 6379, 26379}
    assert "migrations.afterRestore: on" in notes(tmp_path, *restored)


def test_notes_tell_how_many_connections_postgresql_has_to_bear(tmp_path: Path) -> None:
    # Of each component its replicas and the one more of a rollout, ten connections each: five with two, one with one;
    # beside them one in each API of conversation, two in each of its workers and of inference.
    assert "PostgreSQL sees up to 185 connections" in notes(tmp_path)


def notes(folder: Path, *arguments: str) -> str:
    """What Helm would print after an installation; without a cluster it only tells what stands in a manifest."""
    chart = folder / "parley"
    shutil.copytree(CHART, chart)
    written = chart / "templates" / "NOTES.txt"
    (chart / "templates" / "_written.tpl").write_text(
        '{{- define "written" -}}' + written.read_text(encoding="utf-8") + "{{- end -}}", encoding="utf-8"
    )
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\ntext: {{ include "written" . | toJson }}\n', encoding="utf-8"
    )
    show = ("--show-only", "templates/notes.yaml", "--kube-version", KUBERNETES)
    done = helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, *show, *arguments)
    assert done.returncode == 0, done.stderr
    return str(yaml.safe_load(done.stdout)["text"])
