"""A sweep on a Ray cluster of which a node dies half-way: two nodes on this machine, one core each, one of them killed.

    python scripts/ray_node_killed.py FOLDER method=random seed=range(6) num_eval=1 ...

What the sweep leaves lies in FOLDER: the same command there, on whatever engine, completes it. Prints what the sweep
said and ends with its exit status: 0 where Ray ran the lost jobs again on the other node, 3 where some were lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PATIENCE = 600.0  # seconds for both nodes to begin


def main() -> None:
    folder, *settings = sys.argv[1:]
    said, code = sweep_with_a_node_killed(Path(folder), settings)
    print(said)
    sys.exit(code)


def sweep_with_a_node_killed(folder: Path, settings: list[str], after: float = 1.0) -> tuple[str, int]:
    """Run the sweep of `settings` in `folder` on two nodes, and kill one `after` seconds from when a job runs on each.

    Returns what the command printed on standard error, and its exit status.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        launcher = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}"]
        with tempfile.TemporaryFile("w+") as said:
            running = subprocess.Popen(
                [sys.executable, "-m", "ddrank.run", "-m", *settings, *launcher],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            deadline = time.monotonic() + _PATIENCE
            while len(list(folder.rglob("log.txt"))) < 2 and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(after)
            cluster.remove_node(doomed, allow_graceful=False)
            code = running.wait()
            said.seek(0)
            return said.read(), code
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
