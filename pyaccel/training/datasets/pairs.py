"""A teacher's samples with their noise, for knowledge distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .contract import checked_index, refuse_flip

if TYPE_CHECKING:
    from ..teacher import TeacherData


class Pairs:
    """The samples of ``pyaccel teacher`` as a :class:`.Dataset`; ``noise_at(index)`` is what they were made of.

    They cannot be mirrored: the mirrored sample is not what the noise leads to.
    """

    can_flip: ClassVar[bool] = False

    def __init__(self, teacher: TeacherData):
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.teacher)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.teacher.samples.shape[1:])

    def at(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples [b, ...] and their conditioning."""
        refuse_flip(flip)
        _, samples, conditioning = self.teacher.at(checked_index(index, len(self)))
        return samples, conditioning

    def noise_at(self, index: Tensor) -> Tensor:
        """The unit noise [b, ...] that the samples were made of."""
        return self.teacher.noise[checked_index(index, len(self))]
