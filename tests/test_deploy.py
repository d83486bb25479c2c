"""examples/deploy: its flags, files, probes, times and metrics are those that the server has."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from served_model import demo, serve  # noqa: F401  (fixtures)
from typer.main import get_command

from jaxengine.config import EngineConfig
from jaxengine.supervisor import END_SECONDS
from serving.cli import app
from serving.commands.serve import read_config_file
from serving.config import ServerConfig, split_arguments
from serving.http_server import AFTER_ABORT

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "examples" / "deploy"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
UNIT = DEPLOY / "systemd" / "jaxengine.service"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
MANIFESTS = [manifest for file in FILES for manifest in yaml.safe_load_all(file.read_text())]
POD = next(m for m in MANIFESTS if m["kind"] == "Deployment")["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
EXPRESSIONS = [
    rule["expr"]
    for group in yaml.safe_load((DEPLOY / "grafana" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((DEPLOY / "grafana" / "jaxengine.json").read_text())


def settings(directive):
    """Values of a directive of the unit, in their order."""
    return re.findall(rf"^{directive}=(.*)$", UNIT.read_text(), re.MULTILINE)


def docker(instruction):
    """Its words, where they are written as JSON."""
    (found,) = re.findall(rf"^\s*{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(found)


COMMANDS = {
    "docker": docker("CMD(?= .\"serve)"),
    "systemd": settings("ExecStart")[0].split()[1:],
    "kubernetes": CONTAINER["args"],
}  # fmt: skip


def chosen(name):
    """What the command line of an example sets, read by the command itself."""
    command, *words = COMMANDS[name]
    return get_command(app).commands[command].make_context(command, words).params


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines_are_understood(name):
    values = chosen(name)
    port = {
        "docker": int(re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)[0]),
        "systemd": 8000,
        "kubernetes": CONTAINER["ports"][0]["containerPort"],
    }[name]
    assert values["port"] == port
    ServerConfig.from_arguments(port=port, shutdown_timeout=values["shutdown_timeout"])


def test_the_services_options_are_understood():
    server, engine = split_arguments(read_config_file(DEPLOY / "systemd" / "server.yaml"))
    assert ServerConfig.from_arguments(**server).api_key
    EngineConfig(**engine)


def test_nothing_is_killed_before_it_has_ended():
    after = AFTER_ABORT + END_SECONDS
    assert int(settings("TimeoutStopSec")[0]) > chosen("systemd")["shutdown_timeout"] + after
    assert settings("KillMode") == ["mixed"]
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["spec"]["terminationGracePeriodSeconds"] > pause + chosen("kubernetes")["shutdown_timeout"] + after
    (told,) = re.findall(r"--stop-timeout (\d+)", (ROOT / "docs" / "deploy" / "docker.md").read_text())
    assert int(told) > chosen("docker")["shutdown_timeout"] + after


def test_probes_and_metrics_are_there(serve):  # noqa: F811
    served = serve(api_key=("key",), metrics_prefix="both")
    paths = [CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    paths += [url.split("8000")[1] for url in re.findall(r"http://127\.0\.0\.1:8000/\w+", DOCKERFILE)]
    assert len(paths) == 4
    assert [served.http.get(path).status_code for path in paths] == [200] * 4
    monitor = next(m for m in MANIFESTS if m["kind"] == "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    (scrape,) = yaml.safe_load((DEPLOY / "grafana" / "prometheus.yaml").read_text())["scrape_configs"]
    for path in (monitor["path"], scrape["metrics_path"]):
        assert served.http.get(path).status_code == 401
        answer = httpx.get(served.url + path, headers={"Authorization": "Bearer key"})
    samples = {s.name: set(s.labels) for f in text_string_to_metric_families(answer.text) for s in f.samples}
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    variables = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]
    assert len(panels) > 20
    for expression in (*EXPRESSIONS, *panels, *variables):
        for prefix in ("jaxengine", "vllm"):
            used = set(metric_names(expression.replace("${prefix}", prefix)))
            assert used, expression
            assert used <= samples.keys() | {"up"}, expression
    labels = set.union(*samples.values())
    for expression in (*EXPRESSIONS, *panels):
        for by in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(by.split(", ")) <= labels | {"instance"}, expression


def metric_names(expression):
    plain = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(?:by|on) \([^)]*\)|, (model_name|instance)\)', " ", expression)
    return [name for name in re.findall(r"\b[a-z_][a-z0-9_:]*\b(?!\s*\()", plain) if name != "and"]


def test_names_within_the_manifests_fit():
    kinds = {(manifest["kind"], manifest.get("metadata", {}).get("name")) for manifest in MANIFESTS}
    for volume in POD["spec"]["volumes"]:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        assert claim is None or ("PersistentVolumeClaim", claim) in kinds
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {v["name"] for v in POD["spec"]["volumes"]}
    for manifest in MANIFESTS:
        selector = manifest.get("spec", {}).get("selector", {})
        selector = selector.get("matchLabels", selector)
        assert all(POD["metadata"]["labels"][name] == value for name, value in selector.items())
    kept = next(m for m in MANIFESTS if m["kind"] == "Kustomization")["resources"]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in kept)
    volumes = docker("VOLUME")
    assert {"/models", "/home/jaxengine/.cache"} == set(volumes)
    assert set(volumes) <= {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}


def test_the_image_has_all_that_the_package_needs():
    """What .dockerignore lets in is enough to find every package and what it depends on."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in allowed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {project["project"]["readme"], *project["project"]["license-files"]} <= set(allowed)
    copied = [word for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()]
    assert all(path == "." or path in allowed for path in copied)
    for extra, needed in (("cuda", "nvidia-cuda-nvcc"), ("cpu", "jax>=")):
        command = [sys.executable, DEPLOY / "docker" / "requirements.py", extra]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert needed in told
        assert ("nvidia" in told) == (extra == "cuda")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_the_unit_is_one(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/jaxengine/bin/jaxengine", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert UNIT.name not in done.stdout + done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl")
def test_the_manifests_are_put_together():
    command = ["kubectl", "kustomize", DEPLOY / "kubernetes"]
    made = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert all(manifest["metadata"]["namespace"] == "jaxengine" for manifest in made if manifest["kind"] != "Namespace")
    assert len(made) >= 6
