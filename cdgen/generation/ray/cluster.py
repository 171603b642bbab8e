"""A Ray cluster: connecting to it, and the room that its nodes have for workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from cdgen.errors import UsageError, one_line

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Share:
    """What one worker takes of a node."""

    cpus: int
    gpus: int  # 0 or 1


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    name: str
    cpus: int
    gpus: int

    def room(self, share: Share) -> int:
        """Return how many workers fit, if the node does nothing else."""
        fit = self.cpus // share.cpus
        return min(fit, self.gpus // share.gpus) if share.gpus else fit


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address` (auto, local or HOST:PORT); None does nothing.

    `local` starts a cluster of this machine, which ends with the block. Ray takes over SIGTERM, so
    enter this before `StopSignals`. Raises UsageError.
    """
    if address is None:
        yield
        return
    if find_spec("ray") is None:
        raise UsageError("ray is not installed: pip install 'cdgen[ray]'")
    _require_reachable(address)
    # A cluster that cdgen itself starts reports to nobody; the user's own setting wins.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own lines are coloured even in a file.
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    import ray

    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,  # every worker would repeat the notes about the models
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray {address}: {one_line(error, 300)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raise UsageError for an address that is none, or at which nobody listens: Ray itself would
    try for a minute, then end the process."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal():
        raise UsageError(f"--ray: expected auto, local or HOST:PORT, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--ray {address}: no cluster there ({one_line(error)}): start one with"
            " ray start --head, or give --ray local"
        ) from error


def nodes() -> list[Node]:
    """Return the nodes that are alive, in a fixed order."""
    import ray

    found = [
        Node(
            id=node["NodeID"],
            name=node["NodeManagerHostname"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: node.id)


def share_of(cpus: int, device: str) -> Share:
    """Return the share of a worker on `device`: cpu, cuda, or auto, which is a GPU if some node
    has one. Raises UsageError if no node has room for it."""
    alive = nodes()
    gpus = 0 if device == "cpu" else 1 if device == "cuda" or any(n.gpus for n in alive) else 0
    share = Share(cpus, gpus)
    if not any(node.room(share) for node in alive):
        have = ", ".join(f"{n.name}: {n.cpus} CPUs, {n.gpus} GPUs" for n in alive[:10])
        wanted = f"{cpus} CPUs{' and a GPU' if gpus else ''}"
        raise UsageError(f"--ray: no node has room for a worker of {wanted} ({have})")
    return share
