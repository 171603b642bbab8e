"""A corpus whose rows are inspected: its plan, and the models that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen import __version__
from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import Pair, open_pair, tokenizer_sha256
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.model_names import ModelName
from cdgen.corpus.plan import Plan, library_versions
from cdgen.corpus.reader import row_of
from cdgen.device import backend_name, choose_device, device_kind
from cdgen.differences import differences
from cdgen.engine.memory import SLOT_MULTIPLE
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.inspection.positions import TokenSequence
from cdgen.inspection.strategies import Strategies


@dataclass(frozen=True)
class InspectedCorpus:
    """A corpus and its models."""

    out: Path
    plan: Plan  # as this machine can follow it
    pair: Pair
    strategies: Strategies
    notes: tuple[str, ...]  # what may change a draw, for the user

    def sequence(self, sequence_id: int) -> TokenSequence:
        """Return the tokens of a row.

        Raises UsageError if there is no such row yet, StorageError if it does not fit the plan.
        """
        return self.checked(row_of(self.out, sequence_id, ["tokens", "prompt_tokens"]))

    def checked(self, row: dict[str, Any]) -> TokenSequence:
        """Return the tokens of a row. Raises StorageError if they do not fit the plan."""
        if not self._fits(row["tokens"], row["prompt_tokens"]):
            raise StorageError(
                f"{self.out}: sequence {row['sequence_id']} is not one of its plan; try cdgen"
                " verify"
            )
        return TokenSequence(row["sequence_id"], row["tokens"], row["prompt_tokens"])

    def _fits(self, tokens: Any, prompt_tokens: Any) -> bool:
        longest = self.plan.prompts.prompt_tokens + self.plan.max_new_tokens
        try:
            is_whole = 1 <= prompt_tokens <= len(tokens) <= longest
            return is_whole and all(0 <= token < self.plan.vocab_size for token in tokens)
        except TypeError:  # a file that others wrote may hold anything
            return False


def open_corpus(out: Path, good: Path | None = None, bad: str | None = None) -> InspectedCorpus:
    """Open the plan in `out` and the models that it names; `good` and `bad` say where they are.

    A plan without a BAD may be given any. Raises UsageError if a model is to be named, ModelError
    if it does not open, PlanMismatch if it is not the one that wrote the corpus.
    """
    folder = CorpusFolder(out)
    plan, names = folder.plan, folder.model_names
    good = good or _folder_of(names.good if names else None, "good", out)
    source = parse_bad(bad) if bad else _bad_of(plan, names.bad if names else None, out)
    pair = open_pair(good, source)
    _require_models(plan, pair, out)
    here = _plan_here(plan)
    return InspectedCorpus(
        out, here, pair, Strategies.of_plan(plan), (*pair.notes, *_changes(plan, here))
    )


def _bad_of(plan: Plan, name: ModelName | None, out: Path) -> BadSource:
    if plan.bad_is_checkpoint:
        return BadSource("folder", _folder_of(name, "bad", out))
    return parse_bad(plan.bad)


def _folder_of(name: ModelName | None, role: str, out: Path) -> Path:
    """Return the folder of a model that a corpus knows by name: one of this name here, or in the
    hub's cache. Raises UsageError if there is neither."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if name is None:
        raise UsageError(f"{out} does not say which model is its {role.upper()}: give --{role}")
    if Path(name.name).is_dir():
        return Path(name.name)
    try:
        return Path(snapshot_download(name.name, revision=name.revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise UsageError(
            f"{out}: its {role.upper()} was {name}, which is no folder here: give --{role}"
        ) from error


def _require_models(plan: Plan, pair: Pair, out: Path) -> None:
    """Raise PlanMismatch unless the pair is the one that wrote the corpus."""
    found = {"GOOD": pair.good.sha256, "tokenizer": tokenizer_sha256(pair.tokenizer)}
    wanted = {"GOOD": plan.good_sha256, "tokenizer": plan.tokenizer_sha256 or found["tokenizer"]}
    if plan.bad != "none":
        wanted["BAD"] = plan.bad
        found["BAD"] = pair.bad_source.plan_text(pair.bad.sha256 if pair.bad else None)
    if changed := differences(wanted, found):
        raise PlanMismatch(
            f"{out} was written by other models: {'; '.join(changed)}.\n"
            "Give the ones that wrote it with --good and --bad."
        )


def _plan_here(plan: Plan) -> Plan:
    """Return the plan as this machine follows it: in float32 and with few slots if it was written
    on another kind of device."""
    device = "cpu" if plan.device_type == "cpu" else choose_device("auto")
    lean, dtype = plan.decoder == "lean", plan.dtype
    update: dict[str, Any] = {}
    if device != plan.device_type or device_kind(device, lean) != plan.device:
        dtype = "float32"
        update = {"dtype": dtype, "kv_dtype": dtype, "slots": SLOT_MULTIPLE}
    update |= {
        "cdgen_version": __version__,
        "libraries": library_versions(plan.format),
        "device": device_kind(device, lean),
        "backend": backend_name(device),
    }
    return plan.model_copy(update=update)


def _changes(plan: Plan, here: Plan) -> list[str]:
    """Return a line about what differs from the machine that wrote the corpus."""
    changed = differences(plan.fields, here.fields)
    return [f"a draw may differ from the corpus's own: {'; '.join(changed)}"] if changed else []
