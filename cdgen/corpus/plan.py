"""The plan: everything that decides the bytes of a corpus, and its division into work."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from cdgen.device import device_type
from cdgen.differences import differences
from cdgen.errors import PlanMismatch, StorageError, one_line
from cdgen.settings import first_problem
from cdgen.storage import record_checksum

Format = Literal["parquet", "jsonl"]  # of a corpus's files
_MOST_RANGES = 1 << 24  # which status and verify look for one by one
_DECIDING_LIBRARIES = ("torch", "transformers", "tokenizers")


def library_versions(format: Format) -> dict[str, str]:
    """Return the installed versions of the libraries that may change a logit or a file."""
    writer = ("pyarrow",) if format == "parquet" else ()
    return {name: version(name) for name in (*_DECIDING_LIBRARIES, *writer)}


class FrozenModel(BaseModel):
    """An immutable record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptPlan(FrozenModel):
    """The prompts: hashes of the source and of the tokens, and their number."""

    source_sha256: str
    tokens_sha256: str
    count: int = Field(ge=1)
    prompt_tokens: int = Field(ge=1)  # most tokens of a prompt, BOS included


class SamplingPlan(FrozenModel):
    """The fields of `SamplingParams`, without importing torch."""

    good_weight: float
    bad_weight: float
    alpha: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    masked_score: float | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `masked_score` out if it is None, so that older plans keep their hash."""
        return {name: value for name, value in fields(self).items() if value is not None}


class Plan(FrozenModel):
    """Everything that decides the bytes of a corpus.

    Sequence s continues prompt s // sequences_per_prompt. Range r holds the sequences
    [r * range_size, (r + 1) * range_size), cut at num_sequences; it is the unit of work, of commit
    and of loss. Raises pydantic's ValidationError on an impossible value.
    """

    format_version: Literal[1] = 1
    cdgen_version: str
    format: Format = "parquet"
    libraries: dict[str, str] = Field(default_factory=lambda plan: library_versions(plan["format"]))
    prompts: PromptPlan
    good_sha256: str
    # The tokens before every document, usually BOS or none. None: an older cdgen did not record
    # them.
    prefix_token_ids: tuple[int, ...] | None = None
    tokenizer_sha256: str = ""  # `pair.tokenizer_sha256`; "" in the oldest corpora
    bad: str  # sha256 of BAD, "dropout:P", "layers:N", "window:N" or "none"
    sampling: SamplingPlan
    strategy: Literal["cd", "vanilla", "plausible"]
    seed: int
    sequences_per_prompt: int = Field(ge=1)
    num_sequences: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    on_eos: Literal["stop", "continue"]
    eos_token_ids: tuple[int, ...]
    vocab_size: int = Field(ge=1)
    logprobs: bool
    slots: int = Field(ge=1)
    range_size: int = Field(ge=1)
    rows_per_file: int = Field(default=50_000, ge=1)
    dtype: str  # of weights and activations
    kv_dtype: str = "float32"  # of the KV cache
    device: str  # the kind of device, as `device.device_kind` names it
    decoder: Literal["lean", "transformers"]
    backend: str

    @model_validator(mode="after")
    def _count_sequences(self) -> Self:
        expected = self.prompts.count * self.sequences_per_prompt
        if self.num_sequences != expected:
            raise ValueError(
                f"num_sequences: expected {self.prompts.count} prompts x "
                f"{self.sequences_per_prompt} = {expected}, got {self.num_sequences}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self.num_ranges > _MOST_RANGES:
            raise ValueError(
                f"range_size: expected at most {_MOST_RANGES} ranges, got {self.num_ranges}"
            )
        return self

    @property
    def sha256(self) -> str:
        """The hash of the plan's canonical JSON."""
        return record_checksum(self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """The plan in JSON types."""
        unrecorded = {"prefix_token_ids"} if self.prefix_token_ids is None else None
        return self.model_dump(mode="json", exclude=unrecorded)

    @property
    def bad_is_checkpoint(self) -> bool:
        """Whether `bad` is a checkpoint's hash."""
        return self.bad != "none" and ":" not in self.bad

    @property
    def device_type(self) -> str:
        """cpu or cuda"""
        return device_type(self.device)

    @property
    def num_ranges(self) -> int:
        return -(-self.num_sequences // self.range_size)

    def sequence_ids(self, range_index: int) -> range:
        start = range_index * self.range_size
        return range(start, min(start + self.range_size, self.num_sequences))

    def prompt_id(self, sequence_id: int) -> int:
        return sequence_id // self.sequences_per_prompt

    @property
    def ranges_per_file(self) -> int:
        """The number of whole ranges in a file of at most `rows_per_file` rows, at least one."""
        return max(1, self.rows_per_file // self.range_size)

    @property
    def num_files(self) -> int:
        return -(-self.num_ranges // self.ranges_per_file)

    def file_ranges(self, file_index: int) -> range:
        start = file_index * self.ranges_per_file
        return range(start, min(start + self.ranges_per_file, self.num_ranges))


Stored = TypeVar("Stored", bound=BaseModel)


def parse_stored(kind: type[Stored], fields: object, origin: object, what: str) -> Stored:
    """Return the record of a `kind` that was stored in `origin`. Raises StorageError if it is no
    such record, as `what` calls it."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problem = one_line(first_problem(error, what), 300)
        raise StorageError(f"{origin} is not a {what} of this cdgen: {problem}.") from error


def parse_plan(fields: object, origin: str) -> Plan:
    """Return the plan that was stored in `origin`.

    Raises PlanMismatch if it has another format version, StorageError if it is no plan.
    """
    if not isinstance(fields, Mapping):
        raise StorageError(f"{origin} is not a plan of this cdgen: it holds no fields.")
    found, known = fields.get("format_version"), Plan.model_fields["format_version"].default
    if found != known:
        raise PlanMismatch(
            f"{origin} has corpus format {found!r:.40}, this cdgen writes {known}: "
            "use the cdgen version that began the corpus, or choose another --out."
        )
    return parse_stored(Plan, fields, origin, "plan")


def as_recorded(new: Plan, old: Plan) -> Plan:
    """Return `new` without what the cdgen that made `old` did not record."""
    if old.prefix_token_ids is None:  # the record of the prompts holds them too, and is compared
        return new.model_copy(update={"prefix_token_ids": None})
    return new


def require_same(old: Plan, new: Plan, out: object) -> None:
    """Raise PlanMismatch with every difference between two plans."""
    new = as_recorded(new, old)
    changed = differences(old.fields, new.fields)
    if changed:
        raise PlanMismatch(
            f"{out} holds a corpus made from another plan: {'; '.join(changed)}.\n"
            "Use the earlier values to resume it, or choose another --out."
        )
