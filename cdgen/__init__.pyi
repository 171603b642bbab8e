"""The types of the public names, which `__init__.py` loads on first use."""

from cdgen import hf as hf
from cdgen.generation.loaded_pair import load_pair as load_pair
from cdgen.kernels.sample_contrastive import sample_contrastive as sample_contrastive
from cdgen.kernels.sample_contrastive import sample_contrastive_heads as sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput as SampleOutput
from cdgen.kernels.sampling_params import SamplingParams as SamplingParams

__version__: str
