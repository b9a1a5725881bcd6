"""What agents made of this host beyond their own folders (swap) goes with the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from services.cluster.layout import CHECKOUT, NODES, Layout

LEAVE_S_MAX = 1800.0
"""swap is read back into memory first"""


def all_nodes(layout: Layout) -> Iterator[str]:
    """A sentence for each node that has left something. Only those that made swap are asked."""
    for node in NODES:
        folder = layout.node(node)
        if not (folder / "swap.json").exists():
            continue
        settings = {"ASV_NODE": node, "ASV_STATE": str(folder), "ASV_POOLS": f"default={layout.pool}"}
        done = subprocess.run(
            [sys.executable, "-m", "services.node", "leave"], cwd=CHECKOUT, timeout=LEAVE_S_MAX, check=False, text=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(CHECKOUT)} | settings, capture_output=True,
        )  # fmt: skip
        if done.returncode:
            yield f"{node}: {done.stderr.strip()}"
