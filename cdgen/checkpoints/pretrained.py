"""Load models, configs and tokenizers of transformers: from the checked files only, running no code
of theirs, and whole or not at all.

Everything that reads a checkpoint by way of transformers goes through this module. transformers
itself would ask whether to run a checkpoint's code, and draw missing tensors at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from cdgen.checkpoints.causality import sees_the_future
from cdgen.checkpoints.loading_report import (
    require_all_tensors,
    require_no_surplus,
    require_ties,
)
from cdgen.checkpoints.other_folders import ADAPTER
from cdgen.errors import CdgenError, ModelError, is_out_of_memory, is_panic, one_line

# No question, no code of the checkpoint, no download.
_LOCAL_DATA = {"trust_remote_code": False, "local_files_only": True}
_ROOM = 1 << 28  # numbers that a model may compute itself, such as masks and angles
_NEW_HEAD = "score.weight"  # of a classifier that is fine-tuned from a language model


def read_config(folder: Path) -> Any:
    """Return the config of transformers in a folder or a config.json. Raises ModelError."""
    from transformers import AutoConfig

    with errors_of(folder):
        config = AutoConfig.from_pretrained(folder, **_LOCAL_DATA)
        # A config may name another weight file than the one that was checked, a package of kernels
        # to fetch and run, or outputs without names.
        vars(config).pop("transformers_weights", None)
        if config._attn_implementation not in ("eager", "sdpa"):
            config._attn_implementation = None  # transformers' own choice
        config.return_dict = True
        return config


def load_pretrained_tokenizer(folder: Path) -> Any:
    """Return the fast tokenizer as AutoTokenizer sets it up. Raises ModelError."""
    from transformers import AutoTokenizer

    with errors_of(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL_DATA)
    if not tokenizer.is_fast:
        raise ModelError(f"{folder} has no usable fast tokenizer: save its tokenizer.json there")
    return tokenizer


def load_causal_lm(folder: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Load a causal language model.

    Raises ModelError unless the checkpoint holds exactly the tensors that its config.json asks
    for, and the model predicts each token from the ones before it.
    """
    from transformers import AutoModelForCausalLM

    model, report = _from_pretrained(AutoModelForCausalLM, folder, read_config(folder), dtype)
    require_all_tensors(folder, report)
    require_ties(folder, model)
    model = model.to(device)
    with errors_of(folder):
        leaks = sees_the_future(model)
    if leaks:
        raise ModelError(
            f"{folder}: {model.config.model_type} is not causal here: its logits depend on later"
            " tokens. Give a causal language model (an encoder may need is_decoder true)"
        )
    require_no_surplus(folder, report)  # an encoder often has some: better said is what it is
    return model


def load_sequence_classifier(folder: Path, labels: int) -> Any:
    """Load a causal language model in float32 as a classifier of texts. Its head is new, drawn from
    torch's generator; everything else comes from the checkpoint, or raises ModelError."""
    from transformers import AutoModelForSequenceClassification

    config = read_config(folder)
    config.num_labels = labels
    model, report = _from_pretrained(
        AutoModelForSequenceClassification, folder, config, torch.float32
    )
    report["missing_keys"] = set(report["missing_keys"]) - {_NEW_HEAD}
    if not hasattr(model, "score"):
        raise ModelError(
            f"{folder}: transformers has no classifier of the last token for {config.model_type}:"
            " give a causal language model"
        )
    report["unexpected_keys"] = _without_the_old_head(folder, model, report["unexpected_keys"])
    require_all_tensors(folder, report)
    require_no_surplus(folder, report)
    return model


def tied_tensors(folder: Path) -> set[str]:
    """Return the names of the tensors that config.json makes one, such as embedding and head.
    Raises ModelError."""
    tied = _without_weights(folder).all_tied_weights_keys
    return {*tied.keys(), *tied.values()}


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Turn whatever transformers raises into a ModelError that names `folder`."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # cdgen shows its own progress, and a bar would fill log files
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is refused here, in a line
    try:
        yield
    except (CdgenError, MemoryError):
        raise
    except ImportError as error:
        text = f"{folder} needs a package that is not installed: {one_line(error, 300)}"
        raise ModelError(text) from error
    except BaseException as error:  # a config that does not fit raises anything
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        text = f"transformers cannot load {folder}: {kind}{one_line(error, 300)}"
        raise ModelError(text) from error
    finally:
        logging.set_verbosity(verbosity)


def _from_pretrained(
    auto_class: Any, folder: Path, config: Any, dtype: torch.dtype
) -> tuple[Any, dict[str, Any]]:
    """Return the model in evaluation mode, and transformers' report of missing, unexpected and
    mismatched tensors."""
    _require_weights_for(folder)
    with errors_of(folder), _without_adapter(folder) as weights:
        model, report = auto_class.from_pretrained(
            weights,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused by name
            output_loading_info=True,
            **_LOCAL_DATA,
        )
    # What a model computes itself is no weight: masks, angles, positions.
    report["unexpected_keys"] = report["unexpected_keys"] - {n for n, _ in model.named_buffers()}
    return model.eval(), report


def _require_weights_for(folder: Path) -> None:
    """Raise ModelError, before memory is taken, if the model of config.json is far larger than its
    weight files: transformers would first make room for what is missing."""
    model = _without_weights(folder)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))  # a byte each or more
    if numbers > held + _ROOM:
        raise ModelError(
            f"{folder}: config.json describes a model of {numbers:,} numbers, but its weight files"
            f" have {held:,} bytes: one of them is another model's"
        )


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a folder that holds `folder` without a PEFT adapter: transformers would apply it if
    peft is installed, and no other part of cdgen does."""
    if not (folder / ADAPTER).exists():
        yield folder
        return
    with TemporaryDirectory() as view:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                Path(view, path.name).symlink_to(path.absolute())
        yield Path(view)


def _without_the_old_head(folder: Path, classifier: Any, surplus: Iterable[str]) -> set[str]:
    """Return the tensors of `surplus` that the language model lacks as well."""
    language_model = _without_weights(folder)
    ignored = language_model._keys_to_ignore_on_load_unexpected or ()
    known = language_model.state_dict().keys() - classifier.state_dict().keys()
    return {
        name
        for name in surplus
        if name not in known and not any(re.search(pattern, name) for pattern in ignored)
    }


def _without_weights(folder: Path) -> Any:
    """Return the language model of a config, with tensors that have names and shapes only."""
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    with errors_of(folder), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
