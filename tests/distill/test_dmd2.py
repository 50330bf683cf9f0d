import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import DMD2
from pyaccel.distill.critics import Critic
from pyaccel.distill.dmd2 import discriminator_loss, generator_loss, simulate
from pyaccel.training.batch import Batch

from .. import mixture
from .references import (
    KINDS,
    Exact,
    Shifted,
    Small,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    gradients,
    in_parts,
    networks,
    played,
    sample_and_noise,
    sigma,
    twice,
    wide,
)


def critic_of(seed=2):
    critic = Critic(Small(seed)).double()
    with torch.no_grad():
        for p in critic.head.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    return critic


def softplus(x):
    return torch.log1p(torch.exp(x))


def reference(recipe, kind, student, teacher, critic, batch):
    """(critic's loss, student's loss): Algorithm 1 of DMD with the changes of DMD2; all are networks."""
    labels, x0 = batch.conditioning, batch.x
    ones = torch.ones(len(x0), dtype=torch.float64)
    times = [i / recipe.calls for i in range(recipe.calls, 0, -1)]
    last = int(batch.number() * recipe.calls)
    x = wide(sigma(kind[0], times[0] * ones)) * batch.normal()
    for i in range(last):
        with torch.no_grad():
            clean = sample_and_noise(kind, student, x, times[i] * ones, **labels)[0]
            s = times[i + 1] * ones
            x = wide(alpha(kind[0], s)) * clean + wide(sigma(kind[0], s)) * batch.normal()
    sample = sample_and_noise(kind, student, x, times[last] * ones, **labels)[0]

    def noised():
        s = recipe.least + (recipe.most - recipe.least) * batch.uniform()
        return s, wide(alpha(kind[0], s)), wide(sigma(kind[0], s)), batch.normal()

    s, a, sig, noise = noised()
    fake, real = a * sample.detach() + sig * noise, a * x0 + sig * noise
    output, logits = critic(fake, s, **labels)
    target = {"flow": noise - sample.detach(), "epsilon": noise, "v": a * noise - sig * sample.detach()}[kind[1]]
    of_critic = (output - target).square().mean()
    if recipe.gan_critic:
        of_critic = of_critic + recipe.gan_critic * (softplus(logits) + softplus(-critic(real, s, **labels)[1])).mean()

    s, a, sig, noise = noised()
    noisy = a * sample + sig * noise

    def guided(x, t, label):
        return 2.0 * teacher(x, t, label) - teacher(x, t, torch.full_like(label, 4))

    with torch.no_grad():
        of_teacher = sample_and_noise(kind, guided, noisy, s, **labels)[0]
        of_fake = sample_and_noise(kind, critic.network, noisy, s, **labels)[0]
        g = (of_fake - of_teacher) / (sample - of_teacher).abs().mean((1, 2), keepdim=True)
    of_student = 0.5 * (sample - (sample - g).detach()).square().mean()
    if recipe.gan:
        of_student = of_student + recipe.gan * softplus(-critic(noisy, s, **labels)[1]).mean()
    return of_critic, of_student


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"gan": 0.0, "gan_critic": 0.0}, {"calls": 3, "gan": 0.5, "least": 0.1, "most": 0.7}],
    ids=["paper", "no GAN", "three calls"],
)
def test_losses(kind, options):
    recipe = DMD2(**{"gan": 0.3, "gan_critic": 0.2, **options})
    student, teacher, critic = denoiser(kind, 0), denoiser(kind, 1, guidance=2.0), critic_of()
    made = networks(student=student, teacher=teacher, critic=critic)
    for seed in range(3):  # with three calls, of several numbers
        mine, other = twice(step=10, seed=seed)
        found = list(recipe.losses(made, mine))
        assert [name for name, _ in found] == ["critic", "student"]
        of_critic, of_student = reference(recipe, kind, student.model, teacher.model, critic, other)
        assert_agree(found[0][1], of_critic, critic, rtol=1e-7)
        assert_agree(found[1][1], of_student, student, rtol=1e-6)
        assert not any(g.any() for g in gradients(found[0][1], student)[:1] if found[0][1].requires_grad)


def test_two_time_scales():
    recipe = DMD2(ratio=3)
    made = networks(student=denoiser(KINDS[0]), teacher=denoiser(KINDS[0], 1), critic=critic_of())
    names = [tuple(all_losses(recipe, made, twice(step=step)[0])) for step in range(6)]
    both, alone = ("critic", "student"), ("critic",)
    assert names == [both, alone, alone, both, alone, alone]


def test_the_students_loss_leaves_the_critic_and_the_critics_leaves_the_student():
    made = networks(student=denoiser(KINDS[0]), teacher=denoiser(KINDS[0], 1), critic=critic_of())
    found = all_losses(DMD2(gan=1.0), made, twice()[0])
    assert not any(g.any() for g in gradients(found["student"], made.critic))
    assert not any(g.any() for g in gradients(found["critic"], made.student))
    assert all(p.requires_grad for p in made.critic.parameters())


def test_every_parameter_of_the_critic_has_a_gradient():
    """Also without the GAN: replicas that share gradients wait for each parameter."""
    made = networks(student=denoiser(KINDS[0]), teacher=denoiser(KINDS[0], 1), critic=critic_of())
    for gan in (0.0, 0.1):
        loss = all_losses(DMD2(gan=gan, gan_critic=gan), made, twice()[0])["critic"]
        found = torch.autograd.grad(loss, list(made.critic.parameters()), allow_unused=True)
        assert all(g is not None for g in found)


def test_losses_of_the_discriminator():
    fake, real = 3 * torch.randn(2, 50, dtype=torch.float64)
    torch.testing.assert_close(generator_loss(fake), -torch.log(torch.sigmoid(fake)).mean())
    cross_entropy = -(torch.log(torch.sigmoid(real)) + torch.log(1 - torch.sigmoid(fake))).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), cross_entropy)


def test_simulation_is_multistep_sampling():
    kind = KINDS[1]
    student, (x, labels) = denoiser(kind), data()
    draws = torch.randn(4, *x.shape, dtype=torch.float64)
    ones = torch.ones(7, dtype=torch.float64)
    times = [1.0, 0.6, 0.3, 0.0]
    state = wide(sigma(kind[0], ones)) * draws[0]
    for last in range(3):
        given = iter(draws)
        found, t = simulate(student, times, last, lambda given=given: next(given), labels)
        torch.testing.assert_close(found, state)
        torch.testing.assert_close(t, times[last] * ones)
        assert not found.requires_grad
        s = times[last + 1] * ones
        clean = sample_and_noise(kind, student.model, state, t, **labels)[0].detach()
        state = wide(alpha(kind[0], s)) * clean + wide(sigma(kind[0], s)) * draws[last + 1]


def test_parts():
    made = networks(student=denoiser(KINDS[0]), teacher=denoiser(KINDS[0], 1), critic=critic_of())
    in_parts(DMD2(calls=2, gan=0.5, gan_critic=0.5), made)


def trained(what):
    """(the student's shift, what the critic's head makes of data minus of samples) while it is trained on N(2, 1)."""
    student = Denoiser(Shifted(), schedules.flow(), "flow")

    def own():
        return student.model.shift.detach()

    # The score alone; or the discriminator alone, where the teacher knows no more than the critic.
    teacher = Denoiser(Exact((lambda: 2.0) if what == "score" else own), student.schedule, "flow")
    critic, gan = Critic(Exact(own)), 0.0 if what == "score" else 1.0
    recipe = DMD2(ratio=1, gan=gan, gan_critic=gan, most=0.6)
    made = networks(student=student, critic=critic, teacher=teacher)

    def apart():
        t = torch.full((64,), 0.1)
        real, fake = (critic(0.9 * (m + torch.randn(64, 4)), t)[1].detach().mean() for m in (2.0, 0.0))
        return float(real - fake)

    return played(recipe, made, apart)


def test_the_student_follows_the_teachers_score():
    shifts = [shift for shift, _ in trained("score")]
    assert sum(shifts[-20:]) / 20 == pytest.approx(2.0, abs=0.2)


def test_the_discriminator_learns_and_the_student_follows_it():
    shifts, apart = zip(*trained("gan"), strict=True)
    assert max(apart[:30]) > 0.5
    # They go round the data's mean; on average they are there.
    assert sum(shifts[-40:]) / 40 == pytest.approx(2.0, abs=0.6)


def test_the_loss_vanishes_on_the_mixture_where_scores_agree():
    """Exact denoiser as teacher and as critic: no gradient for the student, whatever its samples are."""
    schedule = schedules.flow()
    exact = mixture.exact_denoiser(schedule, "flow")

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.ModuleList([nn.Linear(1, 4)])

        def forward(self, x, t):
            self.hidden[0](x)
            return exact(x, t)

    student = Denoiser(Shifted().double(), schedule, "flow")
    teacher = Denoiser(Exact().double(), schedule, "flow")
    made = networks(student=student, critic=Critic(Exact()).double(), teacher=teacher)
    batch = Batch(torch.randn(16, 1, dtype=torch.float64))
    none = DMD2(gan=0.0, gan_critic=0.0)
    assert float(gradients(all_losses(none, made, batch)["student"], student)[0].abs()) < 1e-12


def test_networks():
    teacher = denoiser(("vp_cosine", "v"), guidance=2.0)
    made = DMD2().networks(teacher)
    assert set(made) == {"student", "critic", "teacher"}
    assert made["teacher"].guidance == 2.0
    assert made["critic"].head[1].in_features == 8
    pairs = zip(made["critic"].network.parameters(), teacher.model.parameters(), strict=True)
    assert all(torch.equal(a.double(), b.float().double()) for a, b in pairs)
    other = DMD2(bottleneck="hidden.0", width=8).networks(teacher)["critic"]
    assert other.network.hidden[0]._forward_hooks
    assert not other.network.hidden[1]._forward_hooks


@pytest.mark.parametrize(
    "options",
    [{"ratio": 0}, {"calls": 0}, {"least": -0.1}, {"least": 0.5, "most": 0.5}, {"most": 1.1}, {"gan": -1.0}],
)
def test_errors(options):
    with pytest.raises(ValueError, match="dmd2 needs ratio and calls"):
        DMD2(**options)


def test_an_untaught_discriminator_is_refused():
    with pytest.raises(ValueError, match="nobody teaches"):
        DMD2(gan=0.1, gan_critic=0.0)
    DMD2(gan=0.0, gan_critic=0.1)


def test_a_variance_that_the_network_predicts_is_left_out():
    class Both(Small):
        def forward(self, x, t, label=None):
            output = super().forward(x, t, label)
            return torch.cat([output, output * 0 + 5.0], dim=1)

    kind, (x, labels) = ("vp_linear", "epsilon"), data()
    plain = networks(student=denoiser(kind), teacher=denoiser(kind, 1), critic=critic_of(2))
    both = [Denoiser(Both(seed), plain.student.schedule, "epsilon", learned_variance=True) for seed in (0, 1)]
    critic = Critic(Both(2)).double()
    critic.head.load_state_dict(plain.critic.head.state_dict())
    found, expected = (
        list(all_losses(DMD2(), made, Batch(x, labels)).values())
        for made in (networks(student=both[0], teacher=both[1], critic=critic), plain)
    )
    torch.testing.assert_close(found, expected)
