"""The probe that tells a causal language model from one that sees the tokens that it is to predict.

Encoders such as BERT have a causal class in transformers as well, and attend in both directions
unless their config says is_decoder; some decoders leak in some versions of transformers.
"""

from __future__ import annotations

from typing import Any

import torch

from cdgen.checkpoints.config_checks import CONTEXT_KEYS

_LONGEST = 64  # tokens: long enough for the chunks and windows of most architectures
# The change of the earlier logits, as a share of that of the later ones. Rounding: at most 3e-6 in
# float32, in mixtures of experts of 8 to 32. Encoders: 3e-4 and more freshly initialised, in
# weights of 0.02, and 0.09 and more in weights as large as trained ones.
_LIMIT = 5e-5
_LIMIT_16_BITS = 0.05


@torch.no_grad()  # not inference mode: what a model keeps of it may be trained on
def sees_the_future(model: Any) -> bool:
    """Return whether later tokens change the logits of earlier positions.

    Two texts share their first half and differ in every later token. In a causal model the logits
    of the first half then differ by rounding only: not at all in most models, a little where
    tokens are sorted into batches, as in a mixture of experts. Models that give NaN are not judged
    here; their logits are refused where they are used.
    """
    half, texts = _texts(model.config.get_text_config(), model.device)
    was_training = model.training
    model.eval()
    first, second = (model(input_ids=text, use_cache=False).logits.float() for text in texts)
    model.train(was_training)
    change = (first - second).abs()
    limit = _LIMIT if torch.finfo(model.dtype).eps < 1e-6 else _LIMIT_16_BITS
    return bool(change[:, :half].max() > limit * change[:, half:].max())


def _texts(config: Any, device: torch.device) -> tuple[int, list[torch.Tensor]]:
    """Return the length of the shared half, and two texts [1, T] int64."""
    stated = (getattr(config, key, None) for key in CONTEXT_KEYS)
    room = min((positions for positions in stated if positions), default=2 * _LONGEST)
    length = max(2, min(_LONGEST, room // 2))  # some models count their positions from 2 on
    padding = getattr(config, "pad_token_id", None)  # some take a text's length from it
    ids = torch.tensor([i for i in range(config.vocab_size) if i != padding])
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(ids), (1, length), generator=generator)
    others = (places + 1) % len(ids)
    half = length // 2
    texts = [ids[places], ids[torch.cat([places[:, :half], others[:, half:]], 1)]]
    return half, [text.to(device) for text in texts]
