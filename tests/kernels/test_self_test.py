"""The self-test of `cdgen doctor` passes where the kernels are right, and only there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from cdgen.kernels import self_test as module
from cdgen.kernels.dispatch import NotBuilt
from cdgen.kernels.self_test import self_test

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the Triton kernels, which take a minute in the interpreter, where they are not
    what is tested."""
    if not request.node.get_closest_marker("thorough"):
        monkeypatch.setattr(module, "interpreting", lambda: False)


def results(backend: str) -> dict[str, str]:
    return {one.op: one.result for one in self_test() if one.backend == backend}


def test_every_build_of_the_native_kernels_is_right(instruction_set: str) -> None:
    found = results("cpu")
    assert set(found.values()) == {"ok"}, self_test()


def test_every_op_is_in_it() -> None:
    """An op is a module of kernels/ that chooses a backend."""
    for path in (ROOT / "kernels").glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if _is_name(node)}
        if "choose_backend" in names and path.stem != "dispatch":
            assert path.stem in module._CALLS


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


@pytest.mark.parametrize("amount", [0.01, float("nan")])
def test_a_kernel_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    right = module.swiglu

    def wrong(x: torch.Tensor, backend: str) -> torch.Tensor:
        out = right(x, backend)
        out[-1, -1] += amount * (backend == "cpu")
        return out

    monkeypatch.setattr(module, "swiglu", wrong)
    found = [one for one in self_test() if one.result == "differs"]
    assert [(one.op, one.backend) for one in found] == [("swiglu", "cpu")]
    assert found[0].reason.startswith("off by up to ")


def test_one_wrong_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module._draws

    def wrong(out: module.SampleOutput) -> module.Tensors:
        tokens, *rest = right(out)
        calls.append(0)
        return tokens + (len(calls) == 1), *rest

    calls: list[int] = []
    monkeypatch.setattr(module, "_draws", wrong)
    assert results("cpu")["sample_contrastive"] == "differs"


def test_a_kernel_that_raises_does_not_end_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Triton Error [CUDA]:\nno binary")

    monkeypatch.setattr(module, "layer_norm", fails)
    (found,) = (one for one in self_test() if one.result == "differs")
    assert found.reason == "RuntimeError: Triton Error [CUDA]: no binary"


def test_what_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "native", NotBuilt())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = self_test()
    assert {one.result for one in found} == {"not available here"}
    reasons = {(one.backend, one.reason) for one in found}
    assert reasons == {
        ("cpu", "not built: pip install -e ."),
        ("triton", "needs a CUDA device"),
        ("triton", "has no triton kernel"),
    }


@pytest.mark.thorough
def test_triton_kernels_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, or else in Triton's interpreter, with fewer rows and tokens."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(module, "R", 6)
        monkeypatch.setattr(module, "V", 111)
        # The interpreter runs programs one after the other; of 512, most would find nothing to do.
        monkeypatch.setattr("cdgen.kernels.gpu.sample_contrastive.HEAD_PROGRAMS", 1)
    found = results("triton")
    assert {op for op, result in found.items() if result != "ok"} == {*module._CPU_ONLY}
