"""The adversary: what it adds to the solver's loss, its own step, and its state."""

import pytest
import torch
from torch import nn

from pyaccel.training.adversarial import discriminator_loss, relativistic_generator_loss
from pyaccel.training.adversary import Adversary
from pyaccel.training.solver_config import SolverConfig
from pyaccel.training.teacher import TeacherData

CONFIG = SolverConfig(adversarial=0.3, gamma=0.5, discriminator_rate=0.01)


class Critic(nn.Module):
    """One that takes two conditionings apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(5, 1)

    def forward(self, x, text, label):
        return self.net(torch.cat([x.tanh(), text, label[:, None].float()], 1)).squeeze(-1)


def data() -> TeacherData:
    generator = torch.Generator().manual_seed(0)
    noise, samples, text = (torch.randn(6, n, generator=generator) for n in (2, 2, 2))
    return TeacherData(noise, samples, {"text": text, "label": torch.arange(6)})


@pytest.mark.parametrize("graph", [False, True])
def test_its_loss_and_its_step(graph):
    """A graph is a plain call where there is no GPU."""
    adversary, teacher, same = Adversary(Critic(), CONFIG, data()), data(), Critic()
    adversary.record(graph)
    fake, real, given = teacher.at(slice(None))
    fake.requires_grad_()
    loss = adversary.loss(real, fake, given)
    torch.testing.assert_close(loss, 0.3 * relativistic_generator_loss(same(real, **given), same(fake, **given)))
    assert torch.autograd.grad(loss, fake)[0].abs().max() > 0
    optimizer = torch.optim.Adam(same.parameters(), lr=0.01, betas=(0.0, 0.99), eps=1e-8)
    for _ in range(2):
        adversary.train_step(real, fake.detach(), given)
        optimizer.zero_grad()
        discriminator_loss(same, real, fake.detach(), 0.5, given).backward()
        optimizer.step()
    torch.testing.assert_close(adversary.discriminator.state_dict(), same.state_dict())
    again = Adversary(Critic(), CONFIG, teacher)
    again.set(adversary.tensors())
    for name, tensor in adversary.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name
