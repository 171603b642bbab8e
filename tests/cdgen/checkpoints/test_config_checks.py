"""Checkpoints that config.json alone refuses: code of their own, quantized weights, encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import add_code, opened, refusal, write_model


def answer_yes(*_: object) -> str:
    return "y"


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", answer_yes)
    folder = write_model(tmp_path / "good")
    ran = add_code(folder, model_type="their_own")
    message = refusal(folder)
    assert "config.json: model_type 'their_own' needs the code that its auto_map names" in message
    assert len(message.splitlines()) == 1
    assert not ran.exists()


@pytest.mark.parametrize("model_type", [None, 7, "Llama", ["llama"], "deberta"], ids=repr)
def test_code_without_a_model_type_that_is_known(tmp_path: Path, model_type: Any) -> None:
    folder = write_model(tmp_path / "good", model_type=model_type, auto_map={"AutoConfig": "x.Y"})
    assert "needs the code that its auto_map names" in refusal(folder)


def test_a_model_that_transformers_has_needs_no_code(tmp_path: Path) -> None:
    """Falcon, Phi and others were published with code before transformers had them."""
    folder = write_model(tmp_path / "good", model_type="falcon")
    ran = add_code(folder)
    assert opened(folder).vocab_size == 6
    assert not ran.exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config: unnamed"),
        ({"quantization_config": "awq"}, "quantization_config: unnamed"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, ": compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, ": fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: unnamed"),
    ],
    ids=["gptq", "no method", "text", "older key", "nested", "mlx"],
)
def test_quantized_weights_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    message = refusal(write_model(tmp_path / "good", **config))
    assert "the weights are quantized" in message and says in message
    assert "bf16, fp16 or fp32" in message


@pytest.mark.parametrize("name", ["quantize_config.json", "hf_quant_config.json"])
def test_quantization_may_stand_in_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "good")
    (folder / name).write_text('{"bits": 4}')
    assert f"the weights are quantized ({name})" in refusal(folder)


@pytest.mark.parametrize("value", [None, {}])
def test_no_quantization_is_none(tmp_path: Path, value: object) -> None:
    assert opened(write_model(tmp_path / "good", quantization_config=value)).vocab_size == 6


def test_an_encoder_decoder_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "good", model_type="t5", is_encoder_decoder=True)
    assert "t5 is an encoder-decoder: give a causal language model" in refusal(folder)
