"""Training recipes (recipes/*.yaml), checked before anything is read or written."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from cdgen.errors import UsageError
from cdgen.settings import problems, read_yaml

_MANY = 1_000_000_000  # far above any real run, and far below what would exhaust memory or patience


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Section):
    """Text below the data folder, or a named dataset, and how it is used.

    `split` says what one document is. `rows`: a line of a text file, or a row of any other.
    `blank_lines`: the text between blank lines. `titles`: the text after a line `= = = Title`.
    `endoftext`: the text between <|endoftext|> marks. `chapters`: a chapter of the books in rows
    with author, title and text. `length`: a piece of about `words` words, cut at sentence ends, for
    text without such marks.
    """

    name: str
    path: Path  # text, JSON lines or Parquet, plain or compressed; a folder of them; a corpus
    text_column: str = "text"  # of JSON and Parquet; a dotted name means a nested field
    licence: str  # goes into the model card
    split: Literal["rows", "blank_lines", "titles", "endoftext", "chapters", "length"]
    words: int = Field(default=0, ge=0, le=_MANY)  # `length` only
    titles: tuple[str, ...] = ()  # `chapters` only: the books to use; empty means all
    # Turn punctuation into ASCII, and put each line, or hard-wrapped paragraph, on one line.
    clean: Literal["lines", "paragraphs"] | None = None
    repeat: int = Field(default=1, ge=1, le=1000)  # copies of each training document per epoch
    validation: float = Field(default=0.05, ge=0, lt=1)  # share of the documents, or of whole books
    prompts: float = Field(default=0.05, ge=0, lt=1)  # share whose beginnings become prompts

    @model_validator(mode="after")
    def _fields_fit(self) -> Source:
        if (self.split == "length") != (self.words > 0):
            raise ValueError("`words` above 0 and `split: length` go together")
        if self.titles and self.split != "chapters":
            raise ValueError("`titles` names books: it goes with `split: chapters`")
        if self.validation + self.prompts >= 1:
            raise ValueError("validation and prompts leave nothing to train on: less than 1 in all")
        return self


class Synthetic(_Section):
    """A finalized corpus of `cdgen generate`."""

    name: str
    path: Path  # relative to the working directory, unlike a source's
    weight: float = Field(default=1.0, gt=0)  # share among the corpora
    # Put an end-of-text after rows that were cut off, as Ulm et al. 2025 do. It teaches the model
    # to stop anywhere.
    false_ends: bool = False


class Mixing(_Section):
    """The share of synthetic text in training.

    `replace`: synthetic text takes that share of the recipe's steps, so real text gives way, as in
    Ulm et al. 2025. `add`: real text is read as often as without it, and steps are added.
    """

    ratio: float = Field(ge=0, lt=1)
    mode: Literal["replace", "add"] = "replace"
    corpora: tuple[Synthetic, ...] = Field(min_length=1)


class ModelShape(_Section):
    hidden_size: int = Field(ge=1, le=1 << 20)
    intermediate_size: int = Field(ge=1, le=1 << 22)
    num_hidden_layers: int = Field(ge=1, le=1 << 12)
    num_attention_heads: int = Field(ge=1, le=1 << 16)
    num_key_value_heads: int = Field(ge=1, le=1 << 16)
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelShape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if self.hidden_size // self.num_attention_heads % 2:  # rotary embeddings rotate pairs
            raise ValueError("hidden_size / num_attention_heads, a head's size, must be even")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self


# The kinds are told apart before they are checked, so that an error is about the wrong field.
_Shape = Annotated[ModelShape, Tag("<shape>")]
_Config = Annotated[Path, Tag("<path>")]
Model = Annotated[
    _Shape | _Config,
    Discriminator(lambda value: "<path>" if isinstance(value, str | Path) else "<shape>"),
]


class Training(_Section):
    """Optimization: a linear warm-up, then a cosine that ends at zero on the last step.

    `muon` optimizes the matrices between embedding and head, AdamW the rest. `decay`: `matrices`
    spares norms, biases and embeddings; `paper` spares, like Ulm et al. 2025, parameters with
    "bias" or "layer_norm.weight" in their names, which for a Llama is none. `attention` is the
    attn_implementation of transformers: sdpa runs PyTorch's own flash attention if it can; the
    flash_attention kinds need a GPU and their packages.
    """

    steps: int = Field(ge=1, le=_MANY)
    batch_blocks: int = Field(ge=1, le=_MANY)  # blocks per optimiser step
    micro_batch_blocks: int = Field(ge=1, le=_MANY)  # blocks per forward pass
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(ge=0)  # 0: no clipping
    checkpoint_every: int = Field(ge=1)
    bf16: bool  # autocast; the master weights stay float32
    compile: bool
    optimizer: Literal["adamw", "muon"] = "adamw"
    decay: Literal["matrices", "paper"] = "matrices"
    # AdamW's second. In runs of a few thousand steps the usual 0.999 averages over too many.
    beta2: float = Field(default=0.95, gt=0, lt=1)
    tensorboard: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    milestones: bool = True  # chck_1M, chck_2M, ...: the revisions that BabyLM requires

    @model_validator(mode="after")
    def _attention_fits(self) -> Training:
        if self.attention.startswith("flash") and not self.bf16:
            raise ValueError(f"attention: {self.attention} computes in bfloat16: set bf16")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Training:
        if self.batch_blocks % self.micro_batch_blocks:
            raise ValueError("batch_blocks must be a multiple of micro_batch_blocks")
        if self.steps % self.checkpoint_every:
            raise ValueError("steps must be a multiple of checkpoint_every")
        if self.warmup_steps > self.steps:
            raise ValueError("warmup_steps must be at most steps")
        return self


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's seeds


class Recipe(_Section):
    name: str
    seed: Seed
    # Divides the documents into train, prompts and validation; default: seed. Runs that differ only
    # in their seed share a split if they name one here.
    split_seed: Seed | None = None
    # Trained on the sources, or an existing one's folder, relative to the working directory.
    tokenizer: Literal["byte-level", "sentencepiece"] | Path = "byte-level"
    # At least 256 bytes, up to four special tokens and one learned token.
    vocab_size: int = Field(ge=261, le=1 << 24)
    # Also max_position_embeddings, so every position is trained.
    block_size: int = Field(ge=2, le=1 << 24)
    sources: tuple[Source, ...] = Field(min_length=1)
    model: Model  # a Llama, or any config.json of transformers or its folder
    training: Training
    # BAD is the last checkpoint at least this many nats/token above GOOD; none for a student.
    bad_gap: float | None = Field(default=None, gt=0)
    synthetic: Mixing | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        corpora = self.synthetic.corpora if self.synthetic else ()
        names = [*(s.name for s in self.sources), *(c.name for c in corpora)]
        if len(set(names)) != len(names):
            raise ValueError(f"sources and corpora must have different names, got {names}")
        # `real` is the stream of all sources, `all` the loss over them.
        if taken := {"real", "all"}.intersection(names):
            raise ValueError(f"{', '.join(taken)}: expected another name of a source or corpus")
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Recipe:
        if not any(source.validation for source in self.sources):
            raise ValueError("no source has a validation part: there is nothing to measure")
        return self

    @property
    def holdout_seed(self) -> int:
        """Return the seed of the split into train, prompts and validation."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def total_steps(self) -> int:
        """Return the steps of the run: the recipe's, plus those that added synthetic text needs."""
        mixing, steps = self.synthetic, self.training.steps
        if mixing is None or mixing.mode == "replace":
            return steps
        return math.ceil(steps / (1 - Fraction(repr(mixing.ratio))))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises UsageError for an unreadable file, invalid YAML, or invalid fields,
    each of them named."""
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UsageError(f"{path}: {'; '.join(problems(error))}; correct the recipe") from error
