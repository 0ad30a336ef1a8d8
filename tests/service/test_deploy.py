"""The files in deploy/ fit the service: metrics, labels, settings and paths exist; Ray runs two replicas of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"\b(?:dragoman|process|python)_[a-z_]+\b")
LABELS = re.compile(r"(\b[a-z_]+)\{([^}]*)\}")
GROUPING = re.compile(r"\b(?:by|ignoring) \(([^)]*)\)")
ADDED_BY_PROMETHEUS = {"instance", "job"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    content = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


@pytest.fixture
def samples(make_app: Callable[..., FastAPI]) -> dict[str, set[str]]:
    """The labels of each sample that the service exports, once everything in it has happened."""
    application = make_app()
    metrics = application.state.service.metrics
    metrics.on_step(1, 0.1)
    metrics.on_admitted(0.1)
    metrics.on_finished("finished", 0.1, 1, 1)
    metrics.count_cache("hit")
    metrics.count_document("done")
    metrics._warnings.labels("stub", "cut").inc()
    with TestClient(application) as client:
        client.post("/v1/translate", json={"texts": "été", "source": "fr", "target": "en"})
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    found: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    """Return all queries of a dashboard."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def complaints(expression: str, samples: dict[str, set[str]]) -> list[str]:
    """Return what an expression asks of the service that is not there."""
    used = METRIC.findall(expression)
    found = [f"no metric {name}" for name in used if name not in samples]
    known = set().union(*(samples.get(name, set()) for name in used)) | ADDED_BY_PROMETHEUS
    for name, matchers in LABELS.findall(expression):
        labels = {matcher.split("=")[0].strip(" !") for matcher in matchers.split(",")}
        found += [f"no label {label} of {name}" for label in labels - samples.get(name, set()) - ADDED_BY_PROMETHEUS]
    for grouping in GROUPING.findall(expression):
        found += [f"no label {label}" for label in set(grouping.split(", ")) - known]
    return found if used else [*found, "no metric at all"]


def test_every_metric_of_the_dashboard_exists(dashboard: dict[str, Any], samples: dict[str, set[str]]) -> None:
    queries = expressions(dashboard)
    assert len(queries) > 20
    assert [(query, found) for query in queries if (found := complaints(query, samples))] == []
    variable = dashboard["templating"]["list"][1]["query"]["query"]
    assert METRIC.findall(variable) == ["dragoman_build_info"]


def test_every_metric_of_the_alerts_exists(alerts: list[dict[str, Any]], samples: dict[str, set[str]]) -> None:
    assert [(rule["alert"], found) for rule in alerts if (found := complaints(rule["expr"], samples))] == []
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 3


def test_every_metric_of_ours_is_on_the_dashboard(dashboard: dict[str, Any], samples: dict[str, set[str]]) -> None:
    shown = " ".join(expressions(dashboard))
    stems = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in samples if name.startswith("dragoman_")}
    missing = sorted(stem for stem in stems if stem not in shown)
    # The tokens of a segment and the bare numbers of steps say less than the rates that are shown.
    left_out = ["accepting", "decoded_rows", "segment_tokens", "steps"]
    assert missing == [f"dragoman_engine_{name}" for name in left_out]


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(dragoman_nothing_total[5m])", "no metric dragoman_nothing_total"),
        ('dragoman_texts_total{key="x"}', "no label key of dragoman_texts_total"),
        ("sum by (address) (dragoman_texts_total)", "no label address"),
        ("up", "no metric at all"),
    ],
)
def test_mistakes_in_expressions_are_found(expression: str, complaint: str, samples: dict[str, set[str]]) -> None:
    assert complaints(expression, samples) == [complaint]


def test_the_panels_of_the_dashboard_have_their_own_place(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # Grafana's grid is 24 wide
    assert all(panel["title"] for panel in panels)


def test_metrics_are_never_labelled_with_callers(samples: dict[str, set[str]]) -> None:
    labels = set().union(*samples.values())
    assert labels & {"key", "key_id", "caller", "address", "client", "name", "user"} == set()


def test_prometheus_scrapes_what_the_service_has(client: TestClient) -> None:
    content = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = content["scrape_configs"]
    assert client.get(job["metrics_path"]).status_code == 200
    assert all((DEPLOY / name).is_file() for name in content["rule_files"])
    assert job["static_configs"][0]["targets"] == ["dragoman:8000"]


def test_compose_sets_only_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text(encoding="utf-8"))
    services = content["services"]
    environment: dict[str, str] = services["dragoman"]["environment"]
    names = {name.removeprefix("DRAGOMAN_").lower() for name in environment}
    assert names <= set(Settings.model_fields)
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    settings = Settings.load()
    assert settings.data_directory == Path("/data")
    assert settings.limits_storage == "memory://"
    grace = int(services["dragoman"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_seconds + settings.shutdown_timeout_seconds
    assert {name for name, service in services.items() if "profiles" not in service} == {"dragoman"}
    assert {"data:/data"} <= set(services["dragoman"]["volumes"])
    assert set(content["volumes"]) == {"data"}
    mounted = [volume.split(":")[0] for volume in services["prometheus"]["volumes"]]
    assert all((DEPLOY / path).is_file() for path in mounted)


# Ray

TWO_REPLICAS = """
import sys, urllib.request, json
import ray
from ray import serve
from deploy.ray_serve import create

variables = {"PYTHONPATH": sys.argv[1], "DRAGOMAN_DECODER": "plain", "DRAGOMAN_NUM_WORKERS": "1"}
ray.init(num_cpus=3, include_dashboard=False, runtime_env={"env_vars": variables}, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(create(num_replicas=2))
address = "http://127.0.0.1:" + sys.argv[2]
body = json.dumps({"texts": "Bonjour.", "source": "fr", "target": "en"}).encode()
headers = {"Content-Type": "application/json"}
texts, processes = set(), set()
for attempt in range(200):
    request = urllib.request.Request(address + "/v1/translate", body, headers)
    texts.add(json.load(urllib.request.urlopen(request))["translations"][0]["text"])
    metrics = urllib.request.urlopen(address + "/metrics").read().decode()
    processes.add(next(line for line in metrics.splitlines() if line.startswith("process_start_time_seconds")))
    if len(processes) == 2:
        break
print(json.dumps({"texts": sorted(texts), "processes": len(processes)}))
serve.shutdown()
ray.shutdown()
"""


@pytest.fixture
def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_ray_runs_two_replicas(free_port: int, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    # In a process of its own: Ray starts many, and warns about what is not ours.
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS, os.pathsep.join([str(ROOT), *sys.path]), str(free_port)],
        cwd=ROOT,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)},  # Ray keeps a token there
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [result] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"texts"')]
    assert result["processes"] == 2
    assert len(result["texts"]) == 1
