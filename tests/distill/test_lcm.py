import dataclasses
import math
import sys

import pytest
import torch

from pyaccel import Denoiser, schedules
from pyaccel.distill import LCM
from pyaccel.distill.lcm import boundary, consistency_function, huber_loss
from pyaccel.distill.students import student_of
from pyaccel.models import DiT, UNet
from pyaccel.training.batch import Batch
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig

from .references import (
    KINDS,
    Small,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    gradients,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    twice,
    wide,
)


class Told(Small):
    """It is told the guidance, too."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.told = False

    def add_guidance(self):
        self.told = True

    def forward(self, x, t, label=None, to=None, guidance=None):
        assert self.told or guidance is None
        return super().forward(x, t, label, to) * (1 if guidance is None else wide(1 + 0.1 * guidance))


def told(kind, seed, **options):
    return Denoiser(Told(seed), schedules.from_name(kind[0]), kind[1], unconditional={"label": 4}, **options)


def of_pair(recipe):
    """(guidance of the student's arguments, whether there is a target network)."""
    return recipe.least_guidance < recipe.most_guidance and not recipe.lora_rank, bool(recipe.target_rate)


def reference(recipe, kind, made, batch):
    is_told, lagging = of_pair(recipe)
    labels, x0, n, k = batch.conditioning, batch.x, recipe.times, recipe.skip
    place = torch.tensor([k + 1 + math.floor(u * (n - k)) for u in batch.uniform().tolist()], dtype=torch.float64)
    assert k < place.min()
    assert place.max() <= n
    t, s = place / n, (place - k) / n
    w = recipe.least_guidance + (recipe.most_guidance - recipe.least_guidance) * batch.uniform() - 1  # the paper's
    x_t = wide(alpha(kind[0], t)) * x0 + wide(sigma(kind[0], t)) * batch.normal()
    more = {"guidance": w + 1} if is_told else {}

    def f(network, x, t):
        u = recipe.timestep_scaling * t  # what these schedules tell their models
        skip, out = 0.25 / (u**2 + 0.25), u / (u**2 + 0.25).sqrt()
        return wide(skip) * x + wide(out) * sample_and_noise(kind, network, x, t, **labels, **more)[0]

    with torch.no_grad():
        teacher = made.teacher.model
        cond = sample_and_noise(kind, teacher, x_t, t, **labels)
        without = sample_and_noise(kind, teacher, x_t, t, label=torch.full_like(labels["label"], 4))
        clean, noise = ((1 + wide(w)) * c - wide(w) * o for c, o in zip(cond, without, strict=True))
        x_s = wide(alpha(kind[0], s)) * clean + wide(sigma(kind[0], s)) * noise
        wanted = f((made.target if lagging else made.student).model, x_s, s)
    difference = f(made.student.model, x_t, t) - wanted
    if recipe.loss == "l2":
        return difference.square().mean()
    return ((difference.square() + recipe.huber_c**2).sqrt() - recipe.huber_c).mean()


def kept(kind, is_told=True):
    made = networks(**{name: told(kind, seed) for seed, name in enumerate(("student", "teacher", "target"))})
    for network in (made.student, made.target):
        network.model.told = is_told
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "l2", "skip": 5, "times": 50, "timestep_scaling": 3.0},
        {"least_guidance": 2.0, "most_guidance": 2.0, "target_rate": 0.0, "huber_c": 0.1},
        {"least_guidance": 1.0, "most_guidance": 1.0},
    ],
    ids=["paper", "l2", "one guidance", "no guidance"],
)
def test_loss(kind, options):
    recipe = LCM(**options)
    made = kept(kind, of_pair(recipe)[0])
    mine, other = twice(step=3)
    before = [p.detach().clone() for p in made.target.model.parameters()]
    rest = recipe.losses(made, mine)
    name, loss = next(rest)
    assert name == "student"
    assert_agree(loss, reference(recipe, kind, made, other), made.student, rtol=1e-8 if kind[0] == "flow" else 2e-7)
    assert not any(g.any() for g in gradients(loss, made.teacher, made.target))
    assert list(rest) == []
    for p, old, now in zip(made.target.model.parameters(), before, made.student.model.parameters(), strict=True):
        rate = recipe.target_rate or 1.0
        torch.testing.assert_close(p.detach(), rate * old + (1 - rate) * now.detach())


def test_the_schedule_of_ddpm():
    """With betas, the times are those of the training: n from 20 to 999, and the last target lies at n = 0."""
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    seen = []

    class Spy(Told):
        def forward(self, x, t, **conditioning):
            seen.append(t)
            return super().forward(x, t / 1000, **conditioning)

    student = Denoiser(Spy(), schedule, "epsilon", unconditional={"label": 4})
    student.model.told = True
    x, labels = data(4000)
    made = networks(student=student, teacher=told(("vp_linear", "epsilon"), 1))
    all_losses(LCM(target_rate=0.0), made, Batch(x, labels))
    there, here = seen
    torch.testing.assert_close(here - there, torch.full_like(here, 20.0))
    torch.testing.assert_close(here, here.round(), rtol=0, atol=1e-9)
    assert (float(here.min()), float(here.max())) == pytest.approx((20, 999))
    assert len(set(here.round().tolist())) > 900
    # At n = 0 the function is x itself.
    skip_out = boundary(schedule, torch.tensor([0.001, 1.0], dtype=torch.float64), 0.5, 10.0)
    torch.testing.assert_close(skip_out[0], torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)
    u = 9990.0
    torch.testing.assert_close(
        skip_out[1], torch.tensor([0.25 / (u * u + 0.25), u / math.sqrt(u * u + 0.25)], dtype=torch.float64)
    )


def test_the_boundary_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    for n in (0, 1, 19, 500, 999):
        mine = boundary(schedule, torch.tensor([(n + 1) / 1000], dtype=torch.float64), 0.5, 10.0)[0]
        theirs = scheduler.get_scalings_for_boundary_condition_discrete(n)
        torch.testing.assert_close(mine, torch.tensor(theirs, dtype=torch.float64), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_the_consistency_function(kind):
    student, recipe = denoiser(kind), LCM(timestep_scaling=2.0)
    x, labels = data()
    plan = recipe.plan(student, 1)
    found = plan.sample(student, x, seed=list(range(len(x))), **labels)
    t = torch.full((len(x),), plan.times[0], dtype=torch.float64)
    noisy = wide(sigma(kind[0], t)) * x
    torch.testing.assert_close(found, consistency_function(student, noisy, t, labels, 0.5, 2.0), rtol=1e-9, atol=1e-9)


def test_huber():
    x, y = torch.tensor([0.3, -1.0]), torch.tensor([0.0, 1.0])
    assert float(huber_loss(x, y, 0.4)) == pytest.approx(0.5 * (0.1 + math.sqrt(4.16) - 0.4))
    assert float(huber_loss(x, y, 0.0)) == pytest.approx(0.5 * 4.09)
    assert huber_loss(x.bfloat16(), y.bfloat16(), 0.001).dtype == torch.float32


def test_parts():
    in_parts(LCM(target_rate=0.0), kept(KINDS[0]))


def tiny(kind, **options):
    if kind == "dit":
        return DiT(size=8, patch=4, width=16, depth=2, heads=2, classes=3, **options)
    return UNet(size=8, width=8, multipliers=(1, 2), blocks=1, classes=3, **options)


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_place_for_the_guidance_leaves_the_output_as_it_was(kind):
    teacher = Denoiser(tiny(kind), schedules.flow(), "flow", unconditional={"label": 3})
    with torch.no_grad():
        for p in teacher.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    made = LCM().networks(teacher)
    assert set(made) == {"student", "target", "teacher"}
    student = made["student"].model
    x, t, label, g = torch.randn(5, 1, 8, 8), torch.rand(5), torch.randint(0, 4, (5,)), 1 + 3 * torch.rand(5)
    before = teacher.model(x, t, label).detach()
    for guidance in (None, g):
        torch.testing.assert_close(student(x, t, label, guidance=guidance), before, rtol=0, atol=0)
    assert torch.equal(made["target"].model(x, t, label, guidance=g), before)
    with torch.no_grad():
        for p in student.conditioning.strength.parameters():
            p.copy_(torch.randn_like(p))
    torch.testing.assert_close(student(x, t, label), student(x, t, label, guidance=torch.ones(5)), rtol=0, atol=0)
    assert float((student(x, t, label, guidance=g) - student(x, t, label)).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="not told the guidance"):
        teacher.model(x, t, label, guidance=g)
    # What a card says is enough to make it anew.
    tiny(kind, guided=True).load_state_dict(student.state_dict())


def test_networks():
    teacher = denoiser(KINDS[0])
    assert set(LCM(least_guidance=2.0, most_guidance=2.0).networks(teacher)) == {"student", "teacher", "target"}
    assert set(LCM(least_guidance=2.0, most_guidance=2.0, target_rate=0.0).networks(teacher)) == {"student", "teacher"}
    with pytest.raises(ValueError, match="Small cannot be told the guidance"):
        LCM().networks(teacher)
    with pytest.raises(ValueError, match="needs unconditional="):
        LCM().networks(dataclasses.replace(teacher, unconditional={}))
    LCM(least_guidance=1.0, most_guidance=1.0).networks(dataclasses.replace(teacher, unconditional={}))


class Images:
    shape, can_flip = (1, 8, 8), False
    x = torch.randn(16, 1, 8, 8)

    def __len__(self):
        return 16

    def at(self, index, flip=None):
        return self.x[index], {"label": index % 3}


def test_adapters_alone_are_trained(tmp_path):
    """The weights under them and in the average stay what the teacher's are, to the bit."""
    teacher = Denoiser(tiny("dit"), schedules.flow(), "flow", unconditional={"label": 3})
    with torch.no_grad():
        for p in teacher.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    recipe = LCM(lora_rank=2, lora_layers=("qkv", "attention.function.out"), timestep_scaling=1e4)
    made = recipe.networks(teacher)
    x, t, label = torch.randn(5, 1, 8, 8), torch.rand(5), torch.randint(0, 4, (5,))
    torch.testing.assert_close(made["student"].model(x, t, label), teacher.model(x, t, label), rtol=0, atol=0)
    config = TrainerConfig(3, 8, accumulate=2, ema=(0.5,), bf16=False)
    trainer = Trainer(recipe, made, Images(), config, tmp_path)
    trainer.fit(progress=False)
    for model in (trainer.modules["student"], trainer.denoiser().model):
        now = {name.replace(".base_layer", ""): p for name, p in model.named_parameters() if "lora" not in name}
        then = dict(teacher.model.named_parameters())
        assert set(now) == set(then)
        assert all(torch.equal(p, then[name]) for name, p in now.items())
        adapters = [p for name, p in model.named_parameters() if "lora_B" in name]
        assert len(adapters) == 4
        assert all(p.any() for p in adapters)
    trained = sum(p.numel() for group in trainer.optimizers["student"].param_groups for p in group["params"])
    assert trained == sum(p.numel() for name, p in model.named_parameters() if "lora" in name)
    again = Trainer(recipe, recipe.networks(teacher), Images(), config, tmp_path)
    again.load()
    for a, b in zip(again.average().parameters(), trainer.average().parameters(), strict=True):
        assert torch.equal(a, b)


def test_lora_needs_peft_and_layers(monkeypatch):
    with pytest.raises(ValueError, match="Small has no layers for LoRA whose names end in to_q"):
        LCM(lora_rank=4).networks(denoiser(KINDS[0]))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'pyaccel-diffusion\[lora\]'"):
        LCM(lora_rank=4).networks(denoiser(KINDS[0]))


def test_a_student_is_trained_whole_whatever_its_teacher_is():
    teacher = denoiser(KINDS[0])
    teacher.model.requires_grad_(False)
    assert all(p.requires_grad for p in student_of(teacher).model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": 0}, "1 <= skip < times"),
        ({"skip": 1000}, "1 <= skip < times"),
        ({"least_guidance": 0.5}, "1 <= least_guidance"),
        ({"least_guidance": 20.0}, "1 <= least_guidance"),
        ({"huber_c": 0.0}, "huber_c"),
        ({"timestep_scaling": 0.0}, "timestep_scaling"),
        ({"sigma_data": -1.0}, "sigma_data"),
        ({"target_rate": 1.0}, "target_rate in"),
        ({"lora_rank": -1}, "lora_rank of at least 0"),
        ({"lora_layers": ()}, "some lora_layers"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LCM(**options)


def test_times_of_nothing_but_noise_are_left_out():
    """On vp_cosine a prediction of the noise says nothing of the data at 1: the last time is where samplers begin."""
    kind, recipe = ("vp_cosine", "epsilon"), LCM(times=2, skip=1, target_rate=0.0)  # every t is 1
    made = networks(student=told(kind, 0), teacher=told(kind, 1))
    made.student.model.add_guidance()
    first, seen = recipe.plan(made.student, 1).times[0], []
    made.student.model.register_forward_hook(lambda _, args, __: seen.append(args[1]))
    loss = all_losses(recipe, made, twice()[0])["student"]
    assert first < 1
    torch.testing.assert_close(seen[-1], torch.full_like(seen[-1], first))
    assert float(loss) < 1e3
    assert all(torch.isfinite(g).all() for g in gradients(loss, made.student))
