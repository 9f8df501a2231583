"""The student: a trunk of inverted residuals (MobileNetV2, Sandler et al. 2018, arXiv:1801.04381).

Two departures from the paper's table 2, both for edge devices and for training on two cores:
the stem goes to stride 4 at once, so that no layer works at half resolution, and the last stage
stays at stride 16 with 5x5 filters, so that a heat map of a 128 pixel input has 8x8 cells.
"""

import torch
from torch import nn

# Expansion, channels, repeats, stride of the first repeat, kernel.
STAGES = (
    (3, 24, 1, 1, 3),
    (4, 40, 2, 2, 3),
    (4, 80, 3, 2, 3),
    (4, 112, 2, 1, 5),
)
STEM_CHANNELS = 24
EMBEDDING_WIDTH = 960
INPUT_SIZE = 128
STRIDE = 16


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, followed by ReLU unless `linear`."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, linear=False):
        padding = (kernel - 1) // 2
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers if linear else (*layers, nn.ReLU(inplace=True)))


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by itself, project back linearly."""

    def __init__(self, inputs, outputs, stride, expansion, kernel):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            ConvNorm(inputs, hidden, 1),
            ConvNorm(hidden, hidden, kernel, stride, groups=hidden),
            ConvNorm(hidden, outputs, 1, linear=True),
        )

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class Student(nn.Module):
    """Trunk whose output is its pooled embedding `[N, EMBEDDING_WIDTH]`.

    `features` gives the last feature map `[N, EMBEDDING_WIDTH, S/16, S/16]`, `forward` its mean.
    The input is `[N, 3, S, S]`, RGB in -1..1.
    """

    def __init__(self):
        super().__init__()
        channels = STEM_CHANNELS
        blocks = [ConvNorm(3, channels, 7, 4)]
        for expansion, outputs, repeats, stride, kernel in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels, outputs, 1 if repeat else stride, expansion, kernel
                    )
                )
                channels = outputs
        blocks.append(ConvNorm(channels, EMBEDDING_WIDTH, 1))
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def features(self, x):
        """Last feature map, `[N, EMBEDDING_WIDTH, S/16, S/16]`, not negative."""
        return self.blocks(x)

    def forward(self, x):
        return self.features(x).mean((2, 3))
