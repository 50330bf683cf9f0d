import pytest
import torch

from pyaccel.training import distances
from pyaccel.training.adversarial import (
    Discriminator,
    discriminator_loss,
    gradient_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)


def test_relativistic_losses_are_those_of_the_paper():
    real, fake = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    expected = sum(torch.log(1 + torch.exp(-(r - f))) for r, f in zip(real, fake, strict=True)) / 5
    torch.testing.assert_close(relativistic_discriminator_loss(real, fake), expected)
    torch.testing.assert_close(relativistic_generator_loss(fake, real), expected)


def test_penalties_by_a_discriminator_whose_gradient_is_known():
    weight = torch.tensor([[3.0, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)

    class Linear(torch.nn.Module):
        def forward(self, x, label=None):
            return (x @ weight.T).squeeze(-1)

    real, fake = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    x = real.clone().requires_grad_()
    torch.testing.assert_close(gradient_penalty(Linear()(x), x), weight.square().sum())
    loss = discriminator_loss(Linear(), real, fake, 0.4, {})
    plain = relativistic_discriminator_loss((real @ weight.T).squeeze(-1), (fake @ weight.T).squeeze(-1))
    torch.testing.assert_close(loss, plain + 0.2 * 2 * weight.square().sum())
    loss.backward()
    assert weight.grad.abs().sum() > 0


def test_the_discriminator_can_be_trained_with_penalties():
    torch.manual_seed(0)
    critic = Discriminator(width=8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.99))
    label = torch.arange(16) % 10
    real, fake = torch.randn(16, 1, 28, 28) + 0.5, torch.randn(16, 1, 28, 28) - 0.5
    losses = []
    for _ in range(15):
        loss = discriminator_loss(critic, real, fake, 0.2, {"label": label})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert critic(real, label=label).shape == (16,)
    assert critic(real[:, :, :9, :11]).shape == (16,)


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_distances_are_per_sample_and_least_at_the_target(name):
    distance, target = distances.distance_of(name), torch.randn(6, 1, 4, 4, dtype=torch.float64)
    near, far = target + 0.01 * torch.randn_like(target), target + torch.randn_like(target)
    assert distance(near, target).shape == (6,)
    assert (distance(target, target) <= distance(near, target)).all()
    assert (distance(near, target) < distance(far, target)).all()
    x = far.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(x, target), (x,), atol=1e-4)


def test_features_of_a_network():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5)).double().requires_grad_(False)
    distance, target = distances.distance_of("features", features=network), torch.randn(3, 1, 4, 4).double()
    assert distance(target, target).abs().max() == 0
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: distance(x, target), (x,))


def test_objectives_that_are_not_there():
    with pytest.raises(ValueError, match="there are: l1, l2, pseudo-huber, psnr, lpips, features"):
        distances.distance_of("L2")
    with pytest.raises(ValueError, match="needs a network"):
        distances.distance_of("features")
    try:
        import lpips  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install lpips"):
            distances.distance_of("lpips")
