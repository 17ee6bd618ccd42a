"""An 8-layer CNN in the manner of SoundNet, for comparing representations without pretrained weights.

Comes in: pictures (batch, channels, bands, frames) float32, of 8 bands and 16 frames or more. Goes out: logits
(batch, classes).

SoundNet (Aytar, Vondrick and Torralba 2016, arXiv 1610.09001) runs eight convolutions over the wave: 16, 32, 64, 128,
256, 512 and 1024 filters, each with batch normalisation and a ReLU, max pooling after the first, second and fifth, and
an eighth layer of outputs. Palanisamy et al. 2020 compared representations with an 8-layer CNN like it over pictures.
This one takes SoundNet's widths and places of pooling into two dimensions:

====== ======= ====== ====== ======== ================
layer  filters kernel stride pooling  of 128 x 250 left
====== ======= ====== ====== ======== ================
conv1  16      7 x 7  1      2 x 2    64 x 125
conv2  32      5 x 5  1      2 x 2    32 x 63
conv3  64      5 x 5  2               16 x 32
conv4  128     3 x 3  2               8 x 16
conv5  256     3 x 3  1      2 x 2    4 x 8
conv6  512     3 x 3  1               4 x 8
conv7  1024    3 x 3  1               4 x 8
fc     classes over the mean of the whole map
====== ======= ====== ====== ======== ================
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# Filters, kernel, stride, and whether the map is halved by pooling afterwards.
_LAYERS = (
    *((16, 7, 1, True), (32, 5, 1, True), (64, 5, 2, False), (128, 3, 2, False)),
    *((256, 3, 1, True), (512, 3, 1, False), (1024, 3, 1, False)),
)


class SoundNet8(nn.Module):
    """The network; it answers to what earsight asks of timm's models.

    Parameters
    ----------
    classes : int
        Outputs of the head.
    dropout : float
        Rate before the head.
    channels : int
        Of the pictures.
    """

    def __init__(self, *, classes: int, dropout: float = 0.0, channels: int = 3) -> None:
        super().__init__()
        self.drop_rate = dropout
        self.num_features = _LAYERS[-1][0]
        self.pretrained_cfg: dict[str, Any] = {"first_conv": "conv1.0", "classifier": "fc"}
        for number, (filters, kernel, stride, pooled) in enumerate(_LAYERS, start=1):
            layer: list[nn.Module] = [
                # Without a bias: the batch normalisation has its own.
                nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
            if pooled:
                layer.append(nn.MaxPool2d(2, ceil_mode=True))
            self.add_module(f"conv{number}", nn.Sequential(*layer))
            channels = filters
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.num_features, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps (batch, 1024, height, width)."""
        for number in range(1, len(_LAYERS) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of feature maps, or with ``pre_logits`` what the classifier takes (batch, 1024)."""
        x = F.dropout(self.global_pool(x).flatten(1), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, channels, bands, frames)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of state keys, as timm's models give them: conv1 is the stem, each later layer a stage."""
        return {"stem": r"^conv1\.", "blocks": r"^conv(\d)\."}
