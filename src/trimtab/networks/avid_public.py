"""The names and shapes of AVID's public pixel networks, mapped to those of `avid_unet3d`; knows tensors only."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

ATTENTION = {
    r"\.fn\.norm\.gamma": ".norm.gain",
    r"\.fn\.fn(\.fn)?\.to_qkv\.": ".qkv.",
    r"\.fn\.fn(\.fn)?\.to_out\.": ".out.",
}
BLOCK = {
    r"\.mlp\.1\.": ".modulation.",
    r"\.block1\.proj\.": ".first.",
    r"\.block2\.proj\.": ".second.",
    r"\.block1\.norm\.gamma": ".first_norm.gain",
    r"\.block2\.norm\.gamma": ".second_norm.gain",
    r"\.res_conv\.": ".skip.",
}
PLACES = {
    r"^init_conv\.": "stem.",
    r"^init_temporal_attn\.": "stem_time.",
    r"^time_rel_pos_bias\.relative_attention_bias\.": "frame_number.bias.",
    r"^time_mlp\.1\.": "step.0.",
    r"^time_mlp\.3\.": "step.2.",
    r"^action_emb\.": "action.",
    r"^null_action_emb$": "null_action",
    r"^(down|up)s\.(\d+)\.0\.": r"\1.\2.first.",
    r"^(down|up)s\.(\d+)\.1\.": r"\1.\2.second.",
    r"^(down|up)s\.(\d+)\.2\.": r"\1.\2.space.",
    r"^(down|up)s\.(\d+)\.3\.": r"\1.\2.time.",
    r"^(down|up)s\.(\d+)\.4\.": r"\1.\2.resample.",
    r"^mid_block1\.": "middle_first.",
    r"^mid_block2\.": "middle_second.",
    r"^mid_spatial_attn\.": "middle_space.",
    r"^mid_temporal_attn\.": "middle_time.",
    r"^final_conv\.0\.": "last.",
    r"^final_down\.": "shrink.",
    r"^out_mlp\.": "head.",
    r"^final_conv\.1\.": "answer.",
}


def from_public(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the public network (`Unet3D` of AVID's pixel code) under this network's names and shapes.

    Names are rewritten by the tables above; convolutions lose their time axis of length one, gains their axes of length
    one; the rotary frequencies, which every attention there repeats, are kept once. The adapter's last factor and shift of
    the mask, or without a mask its last mixing of what is added to the prior's answer, lie outside that network
    (`mixture_conv` of the diffusion): pass them along under that name. The public classifier (`Unet3DEncoder`) is mapped in
    the same way.
    """
    mapped = {}
    for name, value in weights.items():
        if name.endswith("rotary_emb.freqs"):
            mapped["frame_number.frequencies"] = value
            continue
        if name.startswith("mixture_conv."):
            place = "mask" if len(value) == 1 else "added"  # of the frames, where there is no mask
            mapped[name.replace("mixture_conv", place)] = value.flatten(2, 3) if value.ndim == 5 else value
            continue
        new = name
        for pattern, replacement in (PLACES | ATTENTION | BLOCK).items():
            new = re.sub(pattern, replacement, new)
        if new.endswith(".gain"):
            value = value.flatten()
        elif value.ndim == 5:
            value = value.squeeze(2)
        elif value.ndim == 4:  # the 1x1 convolutions of linear attention are matrices here
            value = value.flatten(1)
        mapped[new] = value
    return mapped
