"""The API reference shows the shapes that the code states beside its arguments."""

from __future__ import annotations

import inspect

from argument_comments import described

from cdgen.kernels.reference import philox4x32
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import RowStatus, SampleOutput


def test_arguments_of_a_function() -> None:
    fields = described(inspect.getsource(sample_contrastive))
    assert fields[0] == ":param good: [B, V] float32 | bfloat16 | float16, any row stride"
    assert ":param sequence_ids: [B] int64" in fields
    names = [field.split()[1].rstrip(":") for field in fields]
    assert {*names} <= {*inspect.signature(sample_contrastive).parameters}


def test_result_of_a_function() -> None:
    fields = described(inspect.getsource(philox4x32))
    assert fields[-1] == ":returns: [..., 4] int64, each word in [0, 2**32)"


def test_fields_of_a_class() -> None:
    assert ":ivar tokens: [B] int64, -1 unless status is OK" in described(
        inspect.getsource(SampleOutput)
    )
    assert described(inspect.getsource(RowStatus))[0].startswith(":ivar GOOD_NOT_FINITE: one of")
