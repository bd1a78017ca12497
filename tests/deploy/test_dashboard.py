"""The dashboard and the alerts, asked of a real Prometheus that scrapes real servers under load."""

import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
import yaml
from skimage import data

from demo.studio import Process, free_port
from icmformer import Caches, Engine
from icmformer.serving.metrics import Metrics
from tests.conftest import TINY
from tests.deploy.manifests import DEPLOY
from tests.ls_backend.conftest import body, click, png
from tests.serverless.conftest import coded, payload

DASHBOARD = json.loads((DEPLOY / "grafana" / "icmformer.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def expressions():
    """Every query of the dashboard, as (panel, text)."""
    return [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def test_panels_have_places_of_their_own_and_say_what_they_show():
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert all(
            target["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for target in panel["targets"]
        )


def test_queries_name_metrics_that_there_are():
    told = Metrics(Engine.from_weights(TINY, runtime="torch"), Caches().states).text().decode()
    families = set(re.findall(r"^# TYPE (\w+)", told, re.M))
    for _, text in [*expressions(), *((rule["alert"], rule["expr"]) for rule in RULES)]:
        for name in re.findall(r"icmformer_\w+", text):
            assert name in families or re.sub(r"_(bucket|sum|count)$", "", name) in families, name


class Prometheus:
    """A real one, scraping every second."""

    def __init__(self, folder, targets):
        program = shutil.which("prometheus")
        if not program:
            pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"]["scrape_interval"] = config["global"]["evaluation_interval"] = "1s"
        config["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
        for job in config["scrape_configs"]:
            job.pop("dns_sd_configs", None)
            job["static_configs"] = [{"targets": [targets.pop(job["job_name"])]}]
        assert not targets
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port(0)}"
        options = ["--config.file", str(folder / "prometheus.yml"), "--storage.tsdb.path", str(folder / "data")]
        command = [program, *options, "--web.listen-address", self.url.removeprefix("http://")]
        self._process = Process("prometheus", command, {}, folder / "prometheus.log")
        self._process.start()
        self._process.wait_for(f"{self.url}/-/ready", 60)
        self.stop = self._process.stop

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=20) as reply:
            return json.loads(reply.read())["data"]

    def samples(self, text):
        """Labels and value of each sample that an instant query gives."""
        return [
            (found["metric"], float(found["value"][1])) for found in self.get("/api/v1/query", query=text)["result"]
        ]


@pytest.fixture
def servers(studio, tmp_path):
    """Both servers, small caches; (backend address, function address)."""
    studio.files |= {f"/data/upload/1/{n}.png": png(np.roll(data.chelsea(), 9 * n, axis=1)) for n in range(40)}
    ports = free_port(0), free_port(0)
    environment = {
        "LABEL_STUDIO_URL": studio.url,
        "ICMFORMER_CACHE_DIR": str(tmp_path / "cache"),
        "ICMFORMER_IMAGE_CACHE_MB": "2",
        "ICMFORMER_FEATURE_CACHE_MB": "8",
    }
    commands = (
        [sys.executable, "-m", "icmformer", "serve", "label-studio", "--port", str(ports[0])],
        [sys.executable, "-m", "icmformer", "serve", "cvat", "--port", str(ports[1])],
    )
    running = [Process(c[2], c, environment, tmp_path / f"{c[2]}.log") for c in commands]
    for process in running:
        process.start()
    running[0].wait_for(f"http://127.0.0.1:{ports[0]}/health", 120)
    running[1].wait_for(f"http://127.0.0.1:{ports[1]}/__internal/health", 120)
    yield [f"127.0.0.1:{port}" for port in ports]
    for process in running:
        process.stop()


def post(address, path, content):
    call = urllib.request.Request(f"http://{address}{path}", json.dumps(content).encode())
    call.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(call, timeout=60) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        error.close()
        return None


def load(backend, function, until):
    """What annotators do: clicks, corrections, saves; and requests that are refused."""
    turn = 0
    while not until():
        turn += 1
        items = [click(30, 40, identity=f"{turn}-1"), click(70, 20, positive=False, identity=f"{turn}-2")]
        image = f"/data/upload/1/{turn % 40}.png"
        answers = [post(backend, "/predict", body(*items[:n], image=image, task=turn)) for n in (1, 2)]
        regions = answers[turn % 2]["results"][0]["result"]
        post(backend, "/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": turn, "result": regions}})
        post(backend, "/predict", [])
        photo = coded(np.roll(data.chelsea(), -7 * turn, axis=1))
        post(function, "/", payload(photo, [(170.5, 120.5)]))
        post(function, "/", payload(photo, [(170.5, 120.5)], [(20, 20)]))
        post(function, "/", payload("@@", [(1, 1)]))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_panel_shows_something_after_load(servers, tmp_path):
    backend, function = servers
    prometheus = Prometheus(tmp_path, {"label-studio-backend": backend, "cvat-function": function})
    try:
        end = time.monotonic() + 15
        worker = threading.Thread(target=load, args=(backend, function, lambda: time.monotonic() > end))
        worker.start()
        worker.join()
        time.sleep(2)
        up = {metric["job"]: value for metric, value in prometheus.samples("up")}
        assert up == {"label-studio-backend": 1, "cvat-function": 1}
        for title, text in expressions():
            asked = text.replace("$__rate_interval", "1m").replace("$instance", ".*")
            found = prometheus.samples(asked)
            assert found, f"{title} is empty: {asked}"
            assert all(math.isfinite(value) for _, value in found), f"{title}: {found}"
            jobs = {metric.get("job") for metric, _ in found} - {None}
            only_label_studio = title.startswith(("Clicks per object", "First masks accepted"))
            assert not jobs or jobs == ({"label-studio-backend"} if only_label_studio else set(up)), (title, jobs)
        ((_, share),) = prometheus.samples(
            next(text for title, text in expressions() if title == "First masks accepted")
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
        )
        assert 0.3 < share < 0.7  # every second mask was accepted after its first click
        rules = [rule for group in prometheus.get("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES}
        assert all(rule["health"] == "ok" for rule in rules), rules
    finally:
        prometheus.stop()


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian: apt-get install prometheus)"
)
@pytest.mark.parametrize("check", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_takes_the_files(check):
    command = ["promtool", "check", check[0], str(DEPLOY / "prometheus" / check[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
