"""`cdgen generate --ray`: the bytes of one process, whatever happens to nodes and to the driver.

The thorough tests run a real cluster of two nodes on this machine, with one CPU each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_experiment
from generate_process import starter

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.pair import open_pair
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.prompts import open_table
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import status
from cdgen.errors import Interrupted, PlanMismatch
from cdgen.experiment.processes import RayProcess
from cdgen.experiment.record import read_stages
from cdgen.generation.config import GenerateConfig
from cdgen.generation.ray import workers as ray_workers
from cdgen.generation.ray.cluster import Node, Share, connected, share_of
from cdgen.generation.ray.driver import RayDriver
from cdgen.generation.ray.range_worker import (
    ModelFiles,
    Order,
    RangeWorker,
    model_files,
    with_absolute_models,
)
from cdgen.generation.ray.workers import Worker, WorkerLost, Workers
from cdgen.generation.run import generate
from cdgen.generation.signals import StopSignals

Published = Callable[[Path], dict[str, bytes]]
PATIENCE = 240.0  # seconds
RANGES = 25

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def start(
    tiny_pair: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.Popen[str]]:
    """Start `cdgen generate` for 5 x 80 sequences in 25 ranges as a process of its own."""
    return starter(tiny_pair, tmp_path_factory.mktemp("prompts"), 80)


@pytest.fixture(scope="module")
def by_one(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the corpus with one process, and keep its ranges."""
    out = tmp_path_factory.mktemp("ray") / "one"
    process = start(out, "--workers", 1)
    assert process.wait() == 0, process.stderr.read()
    return out


# ---- a real cluster ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head without CPUs and two nodes with one each."""
    from ray.cluster_utils import Cluster

    found, store = Cluster(), {"object_store_memory": 80 << 20}
    try:
        for node in ({"num_cpus": 0, "include_dashboard": False}, {"num_cpus": 1}, {"num_cpus": 1}):
            add_node(found, **node, **store)
        yield found
    finally:
        found.shutdown()


def add_node(cluster: Any, **node: Any) -> None:
    """Add a node, at the second or third try if need be: Ray gives its agents 15 s to start, which
    a busy machine may exceed."""
    for _ in range(2):
        with suppress(Exception):  # nothing narrower is raised
            cluster.add_node(**node)
            return
    cluster.add_node(**node)


def wait_for(out: Path, ranges: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many ranges are committed."""
    until = time.monotonic() + PATIENCE
    while not CorpusFolder(out).has_plan or status(out).ranges_done < ranges:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_driver_that_is_stopped_and_one_that_is_killed(
    cluster: Any, start: Callable[..., Any], by_one: Path, tmp_path: Path, published: Published
) -> None:
    out, address = tmp_path / "out", cluster.address
    stopped = start(out, "--ray", address)
    wait_for(out, 2, stopped)
    (worker,) = status(out).workers  # the driver beats for all
    assert worker.pid == stopped.pid
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 75
    said = stopped.stderr.read()
    assert "Run the same command again" in said and "Traceback" not in said

    done = status(out).ranges_done
    assert 2 <= done < RANGES - 3
    killed = start(out, "--ray", address)
    wait_for(out, done + 2, killed)
    killed.kill()
    killed.wait()

    done = status(out).ranges_done
    assert done < RANGES
    again = start(out, "--ray", address, "--workers", 1)
    assert again.wait() == 0, again.stderr.read()
    assert published(out) == published(by_one)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_stages_of_an_experiment_on_nodes(cluster: Any, tiny_pair: Any, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("w3\n")
    models = ("--good", str(tiny_pair.good), "--strategy", "vanilla", "--prompts", str(prompts))
    sizes = ("--num-sequences", "100000", "--max-new-tokens", "50", "--prompt-tokens", "4")
    commands = [("--help",), ("status", "nowhere"), ("generate", *models, *sizes, "--out", "out")]
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    here = os.getcwd()
    with connected(cluster.address):
        os.chdir(tmp_path)  # where a stage runs, too
        try:
            stages = [
                RayProcess(command, log, share_of(1, "auto"))
                for command, log in zip(commands, logs, strict=True)
            ]
        finally:
            os.chdir(here)
        assert [stage.wait(PATIENCE) for stage in stages[:2]] == [0, 2]
        assert "Usage" in logs[0].read_text() and "holds no cdgen corpus" in logs[1].read_text()
        until = time.monotonic() + PATIENCE
        while not CorpusFolder(out).has_plan:
            assert stages[2].poll() is None and time.monotonic() < until
            time.sleep(0.05)
        stages[2].send_signal(signal.SIGINT)
        assert stages[2].wait(PATIENCE) == 75
    assert "Run the same command again to resume" in logs[2].read_text()


@pytest.mark.thorough
@pytest.mark.timeout(1200)  # three minutes beside other jobs
def test_an_experiment_on_nodes_is_that_of_one_machine(cluster: Any, tmp_path: Path) -> None:
    """Weights, rows, scores and their comparison are the same; the page is there."""
    data = toy_experiment.write_text(tmp_path / "data")
    recipe = toy_experiment.write_recipe(tmp_path, seeds=[1])
    command = [sys.executable, "-m", "cdgen", "run", recipe, "--data", data]
    here, nodes = tmp_path / "here", tmp_path / "nodes"
    for out, more in ((here, ()), (nodes, ("--ray", cluster.address))):
        ended = subprocess.run(
            [*map(str, [*command, "--out", out, *more])],
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as many as a stage on a node has
            stderr=subprocess.PIPE,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
    assert {*read_stages(nodes)} == {*read_stages(here)}
    for stages in (read_stages(here), read_stages(nodes)):
        assert all((stage.state, stage.attempts) == ("done", 1) for stage in stages.values())
    expected = outcome(here)
    assert {name.partition("/")[0] for name in expected} == {*PARTS_OF_EXPERIMENT}
    assert outcome(nodes) == expected
    pages = [page_without_times(out) for out in (here, nodes)]
    assert pages[0] == pages[1]


PARTS_OF_EXPERIMENT = ("base", "students", "corpora", "measures", "tasks", "eval", "compare")
OF_TRAINING = ("*.safetensors", "mixture.json", "validation.jsonl", "prompts.jsonl")


def outcome(out: Path) -> dict[str, bytes]:
    """Return the files of an experiment but those with a time, a rate or its path in them."""
    patterns = [f"{run}/**/{name}" for run in ("base", "students") for name in OF_TRAINING]
    patterns += ["corpora/*/data/*", "measures/*", "tasks/**/*", "compare/*"]
    patterns += [f"eval/*/{name}" for name in ("predictions/*", "results.*", "*.md", "*.csv")]
    return {
        str(path.relative_to(out)): path.read_bytes()
        for pattern in patterns
        for path in out.glob(pattern)
        if path.is_file()
    }


def page_without_times(out: Path) -> dict[str, Any]:
    """Return the numbers of the page of an experiment; those that a run takes are left out."""
    assert (out / "report.html").is_file() and (out / "report.md").is_file()
    numbers = json.loads((out / "results.json").read_text())
    kept = ("answer", "warnings", "missing_students", "against_real_text", "against_vanilla")
    return {name: numbers[name] for name in kept}


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_node_that_is_lost(
    cluster: Any, start: Callable[..., Any], by_one: Path, tmp_path: Path, published: Published
) -> None:
    out = tmp_path / "out"
    process = start(out, "--ray", cluster.address)
    wait_for(out, 4, process)
    cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
    code, said = process.wait(), process.stderr.read()
    assert code == 0, said
    assert re.search(r"a worker on \S+ was lost .*(goes to another worker|is started)\n", said)
    assert "\x1b" not in said
    assert published(out) == published(by_one)


# ---- without a cluster -------------------------------------------------------------------------


def test_ray_is_not_installed(cdgen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgen.generation.ray.cluster.find_spec", lambda name: None)
    flags = ("--good", "g", "--strategy", "vanilla", "--prompts", "p", "--out", tmp_path / "out")
    ended = cdgen("generate", *flags, "--ray", "local")
    assert ended.code == 2
    assert ended.err == "cdgen: ray is not installed: pip install 'cdgen[ray]'\n"


@pytest.mark.parametrize("address", ["somewhere", "ray://host:1", "host:", ":1", "host:x", ""])
def test_what_is_no_address(cdgen: Any, tmp_path: Path, address: str) -> None:
    flags = ("--good", "g", "--strategy", "vanilla", "--prompts", "p", "--out", tmp_path / "out")
    ended = cdgen("generate", *flags, "--ray", address)
    assert ended.code == 2
    assert ended.err == f"cdgen: --ray: expected auto, local or HOST:PORT, got {address}\n"


def test_nobody_listens(cdgen: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = ("--good", "g", "--strategy", "vanilla", "--prompts", "p", "--out", tmp_path)
        ended = cdgen("generate", *flags, "--ray", address)
    assert ended.code == 2
    assert ended.err.startswith(f"cdgen: --ray {address}: no cluster there")
    assert ended.err.count("\n") == 1


@pytest.fixture(scope="module")
def half(tiny_pair: Any, tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """Write every second range of a corpus with one process; return its settings."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "prompts.txt").write_text("w3\nw10 w11\nw17 w18 w19\n")
    config = GenerateConfig(
        good=tiny_pair.good,
        bad=str(tiny_pair.bad),
        prompts=str(folder / "prompts.txt"),
        out=folder / "out",
        max_new_tokens=12,
        num_sequences=24,
        prompt_tokens=4,
        slots=16,
        range_size=16,
        shard="0/2",
    )
    generate(config, shows_progress=False)
    return config


@pytest.fixture
def order(half: GenerateConfig) -> Order:
    """Return what a worker is to load for that corpus."""
    plan = CorpusFolder(half.out).plan
    return Order(half, plan.prompts, plan.good_sha256, plan.bad, plan, 1)


def range_file(order: Order, worker: RangeWorker, index: int) -> tuple[bytes, bytes]:
    """Return the bytes that a worker makes of a range, and those that one process has committed."""
    folder = CorpusFolder(order.config.out)
    table, ids = open_table(folder.prompts), folder.plan.sequence_ids(index)
    first, last = folder.plan.prompt_id(ids.start), folder.plan.prompt_id(ids.stop - 1)
    before = worker.drawn().tokens
    encoded, drawn = worker.write(index, [table[p] for p in range(first, last + 1)])
    assert drawn.tokens - before == encoded.counts.new_tokens
    return encoded.data, folder.range_path(index).read_bytes()


def test_a_worker_makes_the_files_of_one_process(order: Order) -> None:
    worker = RangeWorker()
    assert worker.load(order, None) == order.plan
    for index in (2, 4):  # one that begins within a prompt's sequences, and the short last one
        made, committed = range_file(order, worker, index)
        assert made == committed


def test_models_that_are_not_on_the_node_come_through_the_store(
    order: Order, tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = open_pair(tiny_pair.good, parse_bad(str(tiny_pair.bad)))
    monkeypatch.setattr(ray, "get", lambda stored: stored)
    files = ModelFiles(
        *({p.name: p.read_bytes() for p in model_files(m)} for m in (pair.good, pair.bad))
    )
    elsewhere = {"good": tmp_path / "nowhere", "bad": str(tiny_pair.good)}
    order = replace(order, config=order.config.model_copy(update=elsewhere))
    worker = RangeWorker()
    assert worker.load(order, None) is None
    assert worker.load(order, files) == order.plan
    made, committed = range_file(order, worker, 0)
    assert made == committed


def test_a_corpus_of_an_older_cdgen(order: Order) -> None:
    assert order.plan is not None
    older = order.plan.model_copy(update={"prefix_token_ids": None})
    assert RangeWorker().load(replace(order, plan=older), None) == older


def test_other_models_at_the_same_path_are_not_used(order: Order) -> None:
    assert RangeWorker().load(replace(order, good_sha256="0" * 64), None) is None


def test_a_worker_without_the_engine_of_another_plan(order: Order) -> None:
    assert order.plan is not None
    other = order.plan.model_copy(update={"device": "cpu OTHER"})
    made = RangeWorker().load(replace(order, plan=other), None)
    assert made is not None and made.device != "cpu OTHER"


def test_paths_of_models_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folders = GenerateConfig(good=Path("g"), bad="b", prompts="p", out=Path("o"))
    found = with_absolute_models(folders)
    assert (found.good, found.bad) == (tmp_path / "g", str(tmp_path / "b"))
    of_good = folders.model_copy(update={"bad": "layers:2"})
    assert with_absolute_models(of_good).bad == "layers:2"


def test_room_on_a_node() -> None:
    node = Node("1", "host", cpus=7, gpus=2)
    assert [node.room(Share(cpus, 0)) for cpus in (1, 2, 8)] == [7, 3, 0]
    assert [node.room(Share(cpus, 1)) for cpus in (1, 4)] == [2, 1]
    assert Node("2", "head", cpus=0, gpus=0).room(Share(1, 0)) == 0


class Pool(Workers):
    """Workers that are no actors."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.said: list[str] = []

    def end(self, worker: Worker) -> None:
        self.alive.remove(worker)


@pytest.fixture
def pool(order: Order, monkeypatch: pytest.MonkeyPatch) -> Pool:
    nodes = [Node("1", "one", 1, 0), Node("2", "two", 1, 0)]
    monkeypatch.setattr(ray_workers, "nodes", lambda: nodes)
    pair = open_pair(order.config.good, parse_bad(order.config.bad))
    pool = Pool(order.config, Share(1, 0), pair, order.prompts, order.plan)
    pool.say = pool.said.append
    pool.alive = [Worker(node, None, None) for node in nodes]
    return pool


class Inline:
    """An actor whose calls are made when their result is asked for, in this process."""

    def __init__(self, order: Order) -> None:
        self.worker = RangeWorker()
        self.worker.load(order, None)
        self.write = self

    def remote(self, index: int, prompts: list[list[int]]) -> tuple[int, list[list[int]]]:
        return index, prompts


@pytest.fixture
def driven(
    pool: Pool, order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RayDriver]:
    """Return a driver of a new corpus, whose two workers are lost at the given ranges, so often."""

    def make(losses: dict[int, int]) -> RayDriver:
        folder = CorpusFolder(tmp_path / "new")
        with folder.set_up():
            shutil.copytree(
                CorpusFolder(order.config.out).prompts, folder.prompts, dirs_exist_ok=True
            )
            folder.open_plan(order.plan)
        actor = Inline(order)

        def hire(most: int) -> None:
            while len(pool.alive) < min(most, 2):
                pool.alive.append(Worker(Node("1", "one", 2, 0), actor, None))
                driver._give(pool.alive[-1])

        def result(worker: Worker) -> Any:
            index, prompts = worker.call
            worker.call = None
            if losses.get(index, 0) > 0:
                losses[index] -= 1
                pool.end(worker)
                raise WorkerLost("killed")
            return actor.worker.write(index, prompts)

        monkeypatch.setattr(pool, "hire", hire)
        monkeypatch.setattr(pool, "result", result)
        monkeypatch.setattr(pool, "ended", lambda: [w for w in pool.alive if w.call is not None])
        monkeypatch.setattr(RayDriver, "_look", lambda driver: None)
        for worker in pool.alive:
            worker.actor = actor
        table = open_table(folder.prompts)
        driver = RayDriver(folder, Shard(0, 1), table, pool, StopSignals(), False)
        return driver

    return make


def committed(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / ".cdgen/ranges").iterdir()}


def test_a_lost_range_is_made_by_another_worker(
    driven: Callable[..., RayDriver], half: GenerateConfig
) -> None:
    driver = driven({0: 2, 3: 1})
    said: list[str] = []
    driver.workers.say = said.append
    driver.write()
    assert len(said) == 3
    assert said[0] == "a worker on one was lost (killed): range 0 goes to another worker"
    assert not driver.workers.alive and not driver.queue
    made, kept = committed(driver.folder.out), committed(half.out)
    assert len(made) == 2 * 5 and len(kept) == 2 * 3
    assert {name: made[name] for name in kept} == kept
    assert driver.progress.meter.sequences == 72


@pytest.mark.thorough
def test_a_range_that_kills_three_workers_ends_the_run(
    driven: Callable[..., RayDriver],
) -> None:
    driver = driven({4: 3})
    with pytest.raises(Interrupted, match="range 4 has cost 3 workers"):
        driver.write()
    assert status(driver.folder.out).ranges_done == 4


def test_a_signal_keeps_what_has_come_back(
    driven: Callable[..., RayDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driven({})
    give = driver._give

    def stop_after_the_second(worker: Worker) -> None:
        give(worker)
        if worker.index == 1:
            driver.signals.seen.append(signal.SIGTERM)

    monkeypatch.setattr(driver, "_give", stop_after_the_second)
    with pytest.raises(BaseException, match="stopped by a signal"):
        driver.write()
    assert status(driver.folder.out).ranges_done == 2
    assert [worker.index for worker in driver.workers.alive] == [0, 1]


def test_a_signal_tells_how_long_ranges_are_waited_for(
    driven: Callable[..., RayDriver],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    driver = driven({})
    give = driver._give

    def stop_after_the_second(worker: Worker) -> None:
        give(worker)
        if worker.index == 1 and not driver.signals.seen:
            driver.signals.seen.append(signal.SIGTERM)
            driver.signals.grace, driver.signals.deadline = 30.0, time.monotonic() + 30.0

    monkeypatch.setattr(driver, "_give", stop_after_the_second)
    with pytest.raises(
        BaseException, match="by a signal; the ranges in progress were finished first"
    ):
        driver.write()
    said = "cdgen: stopping: up to 30 s (--grace) are left for 2 ranges in progress (a second"
    assert capsys.readouterr().err.count(said) == 1
    assert status(driver.folder.out).ranges_done == 2


def test_a_node_that_would_write_other_bytes_is_left_out(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.plan is not None
    other = pool.plan.model_copy(update={"device": "cpu OTHER"})
    monkeypatch.setattr(pool, "result", lambda worker: other)
    first, second = pool.alive
    assert pool.loaded(first) is None
    assert [worker.node.name for worker in pool.alive] == ["two"]
    assert pool.said[0].startswith("one is left out, it would write other bytes: device: ")
    assert pool.loaded(second) is None
    with pytest.raises(PlanMismatch, match="can make this corpus: of one, it would write"):
        pool.hire(1)


def test_a_node_that_lacks_a_package_is_left_out(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(worker: Worker) -> None:
        raise ModuleNotFoundError("No module named 'pyarrow'")

    monkeypatch.setattr(pool, "result", lacking)
    assert pool.loaded(pool.alive[0]) is None
    assert pool.said == ["one is left out, it lacks a package: No module named 'pyarrow'"]
    assert [worker.node.name for worker in pool.alive] == ["two"]


def test_another_corpus_is_refused_at_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pool.plan is not None
    other = pool.plan.model_copy(update={"device": "cpu OTHER", "seed": 7})
    monkeypatch.setattr(pool, "result", lambda worker: other)
    with pytest.raises(PlanMismatch, match="seed: "):
        pool.loaded(pool.alive[0])
    assert not pool.refused


def test_workers_that_keep_dying_end_the_run(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(worker: Worker) -> SimpleNamespace:
        raise WorkerLost("no module named cdgen")

    monkeypatch.setattr(pool, "result", lost)
    dead = Worker(Node("3", "gone", 1, 0), None, None)  # that its worker died is no wonder
    assert [pool.loaded(dead) for _ in range(5)] == [None] * 5
    assert [pool.loaded(pool.alive[0]) for _ in range(2)] == [None] * 2
    why = "a worker on gone was lost while it loaded the models (no module named cdgen)"
    assert pool.said[0] == f"{why}: another one is started"
    with pytest.raises(Interrupted, match=r"3 workers in a row.*no module named cdgen"):
        pool.loaded(pool.alive[0])


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead"
            " because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit"
            " detail: Worker unexpectedly exits with a connection error code 2. End of file. There"
            " are some potential root causes. (1) The process is killed by SIGKILL by OOM killer",
            "its process was killed, often because memory ran out, or has crashed",
        ),
        (
            "The actor died because its node has died. Node Id: 0f\n\tthe actor's node was"
            " terminated unexpectedly: health check failed",
            "its node has died",
        ),
        (
            "The actor e9f80599 is unavailable: The actor is temporarily unavailable: RpcError: RPC"
            " error: Connection reset by peer rpc_code: 14. The task may or may not have run",
            "it cannot be reached any more",
        ),
        ("It went away.\nNobody knows why. Look at the logs of", "Nobody knows why"),
        ("", "RayError"),
    ],
)
def test_the_cause_of_a_loss_in_a_few_words(said: str, cause: str) -> None:
    class RayError(Exception):
        pass

    assert ray_workers.cause_of_loss(RayError(said)) == cause


def test_a_cluster_without_nodes_is_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "nodes", list)
    pool.alive.clear()
    pool.hire(1)
    pool.deadline = time.monotonic() - 1
    with pytest.raises(Interrupted, match="no node of the cluster has had room"):
        pool.hire(1)
