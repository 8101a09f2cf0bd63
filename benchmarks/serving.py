"""Live serving beside its peers, with the same weights on the same processors, and batch beside a bare loop.

wrk (Debian: apt install wrk) sends the test texts one a request over 1, 8 and 32 connections. The services take turns,
several rounds, and the median of the rounds counts. Peers that this environment lacks live in their own:

    python -m venv .evergreen/peers/bentoml   # then pip install bentoml and this package with [serve] there
    python benchmarks/serving.py [--rounds 3] [--seconds 10] [--only NAME…] [--peers FOLDER]
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import matplotlib.pyplot as plt
import psutil
import pyarrow.parquet as pq
from record import save_result

RESULT, TABLE, PLOT = (Path("benchmarks/results", f"serving.{suffix}") for suffix in ("json", "md", "png"))
PEERS = Path("benchmarks/peers")
TORCH = "FastAPI, transformers, 2 processes"
CONNECTIONS = (1, 8, 32)
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local i = 0
request = function()
  i = i %% #bodies + 1
  return wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, bodies[i])
end
"""


@dataclass(frozen=True)
class Peer:
    """A service to measure: how it is started and asked."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/classify"
    body: str = '{"text": %s}'
    setup: list[str] | None = None


def list_peers(folder: Path, scratch: Path) -> list[Peer]:
    """Every service, ours first; those of other environments where these exist."""
    here, bundle = str(Path(sys.executable).parent), str(Path("models/text").resolve())
    uvicorn = [f"{here}/uvicorn", "--port", str(PORT), "--log-level", "warning", "--app-dir", str(PEERS)]
    two_threads = {"BUNDLE": bundle, "THREADS": "2", "WEIGHTS": "models/text-weights"}
    one_thread = two_threads | {"THREADS": "1"}
    serve = ["serve", "--port", str(PORT)]
    state = {"EVERGREEN_STATE_DIR": str(scratch / "state")}
    model = str(scratch / "mlflow-model")
    peers = [
        Peer("evergreen", [f"{here}/evergreen", *serve], state),
        Peer("evergreen, no log", [sys.executable, str(PEERS / "without_log.py"), *serve], state),
        Peer("LitServe, its own queue", [sys.executable, str(PEERS / "litserve_queue.py"), str(PORT)], one_thread),
        Peer("FastAPI, runtime, 1 process of 2 threads", [*uvicorn, "fastapi_runtime:app"], two_threads),
        Peer("FastAPI, runtime, 2 processes", [*uvicorn, "--workers", "2", "fastapi_runtime:app"], one_thread),
        Peer("FastAPI, transformers, 1 process", [*uvicorn, "fastapi_transformers:app"], two_threads),
        Peer(
            "FastAPI, transformers, 2 processes", [*uvicorn, "--workers", "2", "fastapi_transformers:app"], one_thread
        ),
        Peer(
            "mlflow models serve",
            [f"{here}/mlflow", "models", "serve", "-m", model, "-p", str(PORT), "--env-manager", "local", "-w", "2"],
            path="/invocations",
            body='{"inputs": [%s]}',
            setup=[sys.executable, str(PEERS / "mlflow_model.py"), model],
            environment=one_thread | {"PATH": f"{here}:{os.environ['PATH']}"},
        ),
    ]
    bentoml, ray = folder / "bentoml/bin/bentoml", folder / "ray/bin/python"
    if bentoml.exists():
        command = [
            str(bentoml.resolve()),
            "serve",
            "bentoml_service:Texts",
            "--port",
            str(PORT),
            "--working-dir",
            str(PEERS),
        ]
        peers.append(Peer("BentoML", command, one_thread | {"BENTOML_DO_NOT_TRACK": "true"}, body='{"texts": [%s]}'))
    if ray.exists():
        command = [str(ray.absolute()), str(PEERS / "ray_service.py"), str(PORT)]
        peers.append(Peer("Ray Serve", command, one_thread | {"RAY_USAGE_STATS_ENABLED": "0"}))
    return peers


def read_texts() -> list[str]:
    """The test texts."""
    texts: list[str] = pq.read_table("data/text/test.parquet")["text"].to_pylist()
    return texts


@contextmanager
def run(peer: Peer) -> Iterator[tuple[psutil.Process, float]]:
    """Start a service; yield its process and the seconds to its first answer."""
    body = peer.body % json.dumps("Thanks for the quick rebooking!")
    start = time.perf_counter()
    process = subprocess.Popen(
        peer.command, env=os.environ | peer.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                headers = {"Content-Type": "application/json"}
                if httpx.post(URL + peer.path, content=body, headers=headers, timeout=20).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.perf_counter() - start > 120:
                raise SystemExit(f"{peer.name}: does not start; try {' '.join(peer.command)}")
            time.sleep(0.02)
        yield psutil.Process(process.pid), time.perf_counter() - start
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT if "ray" in peer.command[0] else signal.SIGTERM)
        _, alive = psutil.wait_procs([process, *family], timeout=20)
        for left in alive:
            left.kill()


def load(peer: Peer, texts: list[str], connections: int, seconds: float, scratch: Path) -> dict[str, float]:
    """Send requests for a while; return requests per second, p50 and p99 in milliseconds, and failed requests."""
    bodies, script = scratch / "bodies", scratch / "script.lua"
    bodies.write_text("".join(peer.body % json.dumps(text) + "\n" for text in texts))
    script.write_text(SCRIPT % (bodies, peer.path))
    wrk = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "30s",
        "--latency",
        "-s",
        str(script),
        URL,
    ]
    output = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    factor = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    percentiles = {p: float(v) * factor[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\b", output)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return {
        "requests_per_second": float(rate[1]) if rate else 0.0,
        "p50_ms": percentiles["50"],
        "p99_ms": percentiles["99"],
        "failed": int(failed[1]) if failed else 0,
    }


def measure_memory(process: psutil.Process) -> dict[str, float]:
    """Resident memory of a service's processes in MB: summed, and with shared pages shared out."""
    family = [process, *process.children(recursive=True)]
    infos = [member.memory_full_info() for member in family]
    return {
        "processes": len(family),
        "resident_mb": sum(info.rss for info in infos) / 1e6,
        "proportional_mb": sum(info.pss for info in infos) / 1e6,
    }


def measure_round(peer: Peer, texts: list[str], seconds: float, scratch: Path) -> dict[str, Any]:
    """Start a service and ask it over each number of connections."""
    if peer.setup and not (scratch / "mlflow-model").exists():
        subprocess.run(peer.setup, env=os.environ | peer.environment, check=True, capture_output=True)
    with run(peer) as (process, cold_start):
        load(peer, texts, 8, 2, scratch)
        loads = {str(n): load(peer, texts, n, seconds, scratch) for n in CONNECTIONS}
        return {"cold_start_seconds": cold_start, **measure_memory(process), "connections": loads}


def combine(rounds: list[Any]) -> Any:
    """The median of each figure over rounds of the same shape."""
    if isinstance(rounds[0], dict):
        return {key: combine([one[key] for one in rounds]) for key in rounds[0]}
    return round(statistics.median(rounds), 3)


def measure_beside_batch(peer: Peer, texts: list[str], seconds: float, scratch: Path) -> dict[str, Any]:
    """A single caller's latency while nothing else runs, and while a batch of texts does."""
    rows = scratch / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n in range(40) for text in texts))
    with run(peer):
        load(peer, texts, 1, 2, scratch)
        alternating: dict[str, list[dict[str, float]]] = {"idle": [], "beside_batch": []}
        for _ in range(3):
            alternating["idle"].append(load(peer, texts, 1, seconds, scratch))
            with rows.open("rb") as file:
                job = httpx.post(f"{URL}/v1/batches", files={"file": ("rows.jsonl", file)}, timeout=60).json()
            time.sleep(3)
            alternating["beside_batch"].append(load(peer, texts, 1, seconds, scratch))
            state = httpx.get(f"{URL}/v1/batches/{job['id']}").json()
            assert state["status"] == "running", f"the batch was {state['status']} before the load ended"
            httpx.delete(f"{URL}/v1/batches/{job['id']}")
            time.sleep(1)
    figures: dict[str, Any] = {name: combine(rounds) for name, rounds in alternating.items()}
    return figures | {"p99_ratio": round(figures["beside_batch"]["p99_ms"] / figures["idle"]["p99_ms"], 3)}


def measure_batch(texts: list[str], rounds: int, scratch: Path) -> dict[str, Any]:
    """Texts per second of `evergreen batch` beside a bare ONNX Runtime loop in two processes, in turns."""
    many = [f"{text} {n}" for n in range(8) for text in texts]  # no two alike: nothing is saved
    source, target = scratch / "in.jsonl", scratch / "out.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in many))
    evergreen = [sys.executable, "-m", "bare_loop", "evergreen", str(source), str(target)]
    bare = [sys.executable, "-m", "bare_loop", "bare", str(source), str(target)]
    rates: dict[str, list[float]] = {"evergreen": [], "bare": []}
    for _ in range(rounds):
        for name, command in (("bare", bare), ("evergreen", evergreen)):
            output = subprocess.run(command, cwd=PEERS, capture_output=True, text=True, check=True).stdout
            rates[name].append(float(output.strip().splitlines()[-1]))
    medians = {f"{name}_texts_per_second": round(statistics.median(values), 1) for name, values in rates.items()}
    ratio = statistics.median(ours / limit for ours, limit in zip(rates["evergreen"], rates["bare"], strict=True))
    return {"texts": len(many), **medians, "ratio": round(ratio, 3)}


def compare(services: dict[str, Any]) -> dict[str, float]:
    """Our figures beside the best peer's, which another peer may be at each number of connections."""
    ours = services["evergreen"]
    peers = {name: figures for name, figures in services.items() if not name.startswith("evergreen")}
    ratios = {}
    for n in map(str, CONNECTIONS):
        best = max(peer["connections"][n]["requests_per_second"] for peer in peers.values())
        ratios[f"rate_{n}"] = ours["connections"][n]["requests_per_second"] / best
        ratios[f"p99_{n}"] = ours["connections"][n]["p99_ms"] / min(
            peer["connections"][n]["p99_ms"] for peer in peers.values()
        )
    ratios["p50_1"] = ours["connections"]["1"]["p50_ms"] / min(p["connections"]["1"]["p50_ms"] for p in peers.values())
    torch = services.get(TORCH)
    if torch:
        ratios["resident_to_torch"] = ours["resident_mb"] / torch["resident_mb"]
    unlogged = services.get("evergreen, no log")
    if unlogged:
        rates = [(ours["connections"][n], unlogged["connections"][n]) for n in map(str, CONNECTIONS)]
        ratios["log_cost"] = 1 - statistics.mean(a["requests_per_second"] / b["requests_per_second"] for a, b in rates)
    return {name: round(value, 3) for name, value in ratios.items()}


def write_table(services: dict[str, Any]) -> None:
    """Write the figures as a Markdown table."""
    heads = [f"{n} caller{'s' * (n > 1)}: req/s, p50, p99" for n in CONNECTIONS]
    lines = ["| service | " + " | ".join(heads) + " | first answer | resident |", "| --- |" + " ---: |" * 5]
    for name, figures in services.items():
        cells = [
            f"{load['requests_per_second']:.0f}, {load['p50_ms']:.1f}, {load['p99_ms']:.1f} ms"
            for load in figures["connections"].values()
        ]
        memory = f"{figures['resident_mb']:.0f} MB"
        lines.append(f"| {name} | {' | '.join(cells)} | {figures['cold_start_seconds']:.1f} s | {memory} |")
    TABLE.write_text("\n".join(lines) + "\n")


def plot(services: dict[str, Any]) -> None:
    """Draw requests per second against p99, a line a service, a point for each number of callers."""
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    for name, figures in services.items():
        loads = figures["connections"].values()
        style = "o-" if name.startswith("evergreen") else "s--"
        axes.plot([x["p99_ms"] for x in loads], [x["requests_per_second"] for x in loads], style, label=name)
    axes.set(xscale="log", xlabel="p99 (ms)", ylabel="requests per second", title="1, 8 and 32 callers, two processors")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(PLOT, dpi=120)


def main() -> None:
    """Measure everything in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", nargs="+", help="services to measure; nothing is saved")
    parser.add_argument("--peers", type=Path, default=Path(".evergreen/peers"), help="environments of other peers")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not on PATH; install it: apt install wrk")
    texts = read_texts()
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        peers = [peer for peer in list_peers(args.peers, scratch) if not args.only or peer.name in args.only]
        rounds: dict[str, list[Any]] = {peer.name: [] for peer in peers}
        for _ in range(args.rounds):
            for peer in peers:
                rounds[peer.name].append(measure_round(peer, texts, args.seconds, scratch))
                print(peer.name, json.dumps(rounds[peer.name][-1]), flush=True)
        services = {name: combine(measured) for name, measured in rounds.items()}
        if args.only:
            return
        beside_batch = measure_beside_batch(peers[0], texts, args.seconds, scratch)
        print(beside_batch, flush=True)
        batch = measure_batch(texts, args.rounds, scratch)
        print(batch, flush=True)
    packages = ["fastapi", "litserve", "mlflow", "onnxruntime", "torch", "transformers", "uvicorn"]
    write_table(services)
    plot(services)
    save_result(RESULT, packages, services=services, compared=compare(services), beside_batch=beside_batch, batch=batch)


if __name__ == "__main__":
    main()
