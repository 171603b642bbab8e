"""Write synthetic pre-training corpora by contrasting two language models.

The public names load on first use, so that `cdgen --help` imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import Any

# In a checkout the folders `kernels`, `train`, `eval` and `bench` are beside this one, in an
# installed wheel below it. With extend_path, `python -m cdgen` in a checkout finds the installed
# ones.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

_PUBLIC = {
    "SamplingParams": "cdgen.kernels.sampling_params",
    "SampleOutput": "cdgen.kernels.sampling_params",
    "sample_contrastive": "cdgen.kernels.sample_contrastive",
    "sample_contrastive_heads": "cdgen.kernels.sample_contrastive",
    "load_pair": "cdgen.generation.loaded_pair",
}
__all__ = ["__version__", "hf", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "hf":  # a folder, which needs transformers
        return import_module("cdgen.hf")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cdgen' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
