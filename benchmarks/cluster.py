"""Two nodes of a Ray cluster on this machine, one killed in the middle: are the bits those of a local run?

    python -m benchmarks.cluster ESC10_FOLDER

The second node has a file system of its own where the system allows that (a mount namespace, which needs root): an
empty run folder and an empty cache in place of the driver's. Elsewhere it is told to use nothing of what it sees
(EARSIGHT_UNSHARED=1). It gets its spectrograms and the state of its trials from the driver. Once both nodes have a
checkpoint in the run folder, its raylet and its workers get SIGKILL. Exit code 0 where all bits are equal.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
STORE = str(150 * 2**20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folds", default="1,2")
    parser.add_argument("--keep", type=Path, help="folder for the runs; default one that is thrown away")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="earsight-cluster-") as scratch:
        return compare(asked, Path(scratch).resolve())


def compare(asked: argparse.Namespace, scratch: Path) -> int:
    runs = (asked.keep or scratch / "runs").resolve()
    command = [sys.executable, "-m", "earsight", "crossval", str(asked.data), "--folds", asked.folds, "--threads", "1"]
    command += ["--set", f"training.epochs={asked.epochs}"]
    environment = os.environ | {
        "EARSIGHT_CACHE": str(scratch / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # A node's death is noticed within seconds.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    for name in ("local", "ray"):
        (runs / name).mkdir(parents=True)
    began = time.monotonic()
    subprocess.run([*command, "--out", str(runs / "local")], env=environment, check=True, stdout=subprocess.DEVNULL)
    print(f"local: {time.monotonic() - began:.0f} s, one trial after the other, one thread", flush=True)
    address = f"127.0.0.1:{free_port()}"
    nodes: list[subprocess.Popen[bytes]] = []
    began = time.monotonic()
    try:
        nodes.append(start_head(address, scratch, environment))
        second, own = start_second(address, scratch, runs / "ray", environment)
        nodes.append(second)
        print(f"second node: {'a file system of its own' if own else 'told to share no file'}", flush=True)
        driver = subprocess.Popen(
            [*command, "--out", str(runs / "ray"), "--on", "ray"],
            env=environment | {"RAY_ADDRESS": address},
            stdout=subprocess.DEVNULL,
        )
        nodes.append(driver)
        killed = kill_when_trained(second, driver, runs / "ray", folds=asked.folds.split(","))
        status = driver.wait()
    finally:
        for process in reversed(nodes):
            kill(process)
    print(f"cluster: {time.monotonic() - began:.0f} s, exit code {status}, {killed} processes got SIGKILL", flush=True)
    return report(runs, asked.folds.split(",")) if status == 0 and killed else 1


def start_head(address: str, scratch: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    host, _, port = address.partition(":")
    options = ["--head", "--node-ip-address", host, "--port", port, "--include-dashboard", "false"]
    # A path of Ray's sockets may not be long.
    options += ["--temp-dir", tempfile.mkdtemp(prefix="ray-", dir="/tmp"), "--num-cpus", "1"]
    return start([*RAY, "start", *options, *ports(20000)], address, environment, alive=1)


def start_second(
    address: str, scratch: Path, run: Path, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], bool]:
    """The node that is killed, and whether it has a file system of its own."""
    join = [*RAY, "start", "--address", address, "--node-ip-address", "127.0.0.1", "--num-cpus", "1", *ports(21000)]
    own = os.name == "posix" and shutil.which("unshare") is not None
    own = own and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    if own:
        empty = 'mount -t tmpfs none "$1" && mount -t tmpfs none "$2" && shift 2 && exec "$@"'
        join = ["unshare", "-m", "sh", "-c", empty, "sh", str(run), environment["EARSIGHT_CACHE"], *join]
    else:
        environment = environment | {"EARSIGHT_UNSHARED": "1", "EARSIGHT_CACHE": str(scratch / "cache-of-second")}
    return start(join, address, environment, alive=2), own


def ports(first: int) -> list[str]:
    """Ports that the other node does not use."""
    options = {"min-worker-port": first, "max-worker-port": first + 900, "dashboard-agent-listen-port": first + 990}
    return [part for name, port in options.items() for part in (f"--{name}", str(port))] + [
        *("--object-store-memory", STORE, "--block")
    ]


def start(command: list[str], address: str, environment: dict[str, str], *, alive: int) -> subprocess.Popen[bytes]:
    """Start a node, and wait until the cluster counts it."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    count = (
        f"import logging, ray; ray.init(address='{address}', logging_level=logging.ERROR, log_to_driver=False);"
        "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    )
    while process.poll() is None:
        found = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True)
        if f"alive {alive}" in found.stdout:
            return process
        time.sleep(1)
    raise SystemExit(f"{' '.join(command)}: ended with exit code {process.returncode}")


def kill_when_trained(
    second: subprocess.Popen[bytes], driver: subprocess.Popen[bytes], run: Path, *, folds: list[str]
) -> int:
    """Wait for two checkpoints, one of which came through the mailbox, and kill the node that sent it."""
    while driver.poll() is None:
        marks = [run / f"fold-{fold}" / "seed-0" / "checkpoint.safetensors" for fold in folds]
        if sum(mark.is_file() for mark in marks) >= 2:
            return kill(second)
        time.sleep(0.1)
    return 0


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL a process and all below it; returns how many there were."""
    if process.poll() is not None:
        return 0
    pids = [process.pid, *below(process.pid)]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # ended meanwhile
    process.wait()
    return len(pids)


def below(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    out: list[int] = []
    edge = {pid}
    while edge:
        edge = {child for child, parent in pairs if parent in edge}
        out += edge
    return out


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def report(runs: Path, folds: list[str]) -> int:
    unequal = 0
    for fold in folds:
        ours, theirs = (runs / name / f"fold-{fold}" / "seed-0" for name in ("ray", "local"))
        model = (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
        with np.load(ours / "predictions.npz") as one, np.load(theirs / "predictions.npz") as other:
            logits = one["logits"].tobytes() == other["logits"].tobytes()
        left = [path.name for path in ours.iterdir() if path.name.startswith(".") or "checkpoint" in path.name]
        print(f"fold {fold}: model file {word(model)}, logits {word(logits)}, left over: {left or 'nothing'}")
        unequal += not (model and logits) or bool(left)
    return 1 if unequal else 0


def word(equal: bool) -> str:
    return "bit-equal" if equal else "DIFFERENT"


if __name__ == "__main__":
    sys.exit(main())
