"""A small convolutional classifier whose features measure quality: Fréchet distance, precision, recall, accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Classifier(nn.Module):
    """``forward(x)``: images [B, channels, 28, 28] in [−1, 1] -> logits [B, classes]; ``features(x)`` -> [B, 128]."""

    num_features = 128

    def __init__(self, channels: int = 1, width: int = 32, classes: int = 10):
        super().__init__()
        self.classes = classes

        def stage(cin, cout):
            return [nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

        self.trunk = nn.Sequential(
            *stage(channels, width),
            *stage(width, width),
            nn.MaxPool2d(2),
            *stage(width, 2 * width),
            *stage(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *stage(2 * width, self.num_features),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.num_features, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The trunk's output, [B, 128]."""
        return self.trunk(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.features(x), 0.3, self.training))
