import math
from itertools import pairwise

import pytest
import torch

from pyaccel import Denoiser, schedules
from pyaccel.distill import Consistency
from pyaccel.distill.consistency import (
    consistency_loss,
    doubled_levels,
    ect_level,
    karras_levels,
    level_probabilities,
    teacher_step,
)
from pyaccel.training.batch import Batch
from pyaccel.training.distances import l2

from .. import mixture
from .references import (
    KINDS,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    gaussian_map,
    gradients,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    time_of_ratio,
    twice,
    wide,
)

STEPS = 1000


def karras(count, least=0.002, most=80.0, rho=7.0):
    return [
        (least ** (1 / rho) + i / count * (most ** (1 / rho) - least ** (1 / rho))) ** rho for i in range(count + 1)
    ]


def levels_by_hand(recipe, batch, count):
    """(level, lower), both [b]."""
    u = batch.uniform()
    if recipe.pairing == "ect":
        level = torch.exp(recipe.mean + recipe.std * math.sqrt(2) * torch.erfinv(2 * u - 1)).clamp(0.002, 80.0)
        decay = 2.0 ** -(1 + batch.step * 8 // STEPS)
        return level, (level * (1 - decay * (1 + 8 / (1 + torch.exp(level))))).clamp_min(0)
    grid = karras(count)
    z = [math.erf((math.log(v) - recipe.mean) / (math.sqrt(2) * recipe.std)) for v in grid]
    shares = [(b - a) / (z[-1] - z[0]) for a, b in pairwise(z)]
    total = [sum(shares[: i + 1]) for i in range(count)]
    places = [next((i for i, c in enumerate(total) if c >= number), count - 1) for number in u.tolist()]
    return (torch.tensor([grid[i + d] for i in places], dtype=torch.float64) for d in (1, 0))


def heun_step(kind, network, x, t, s, labels, heun):
    """In y = x/alpha and r = sigma/alpha: dy/dr = eps."""
    a_t, a_s = wide(alpha(kind[0], t)), wide(alpha(kind[0], s))
    dr = wide(sigma(kind[0], s)) / a_s - wide(sigma(kind[0], t)) / a_t
    eps = sample_and_noise(kind, network, x, t, **labels)[1]
    y = x / a_t + dr * eps
    if heun:
        there = sample_and_noise(kind, network, a_s * y, s, **labels)[1]
        y = x / a_t + dr * 0.5 * (eps + there)
    return a_s * y


def reference(recipe, kind, student, target, teacher, batch, count=18):
    level, lower = levels_by_hand(recipe, batch, count)
    t, s = time_of_ratio(kind[0], level), torch.where(lower > 0, time_of_ratio(kind[0], lower), 0.0)
    if recipe.segments > 1:
        first = min(1.0, float(time_of_ratio(kind[0], torch.tensor([80.0], dtype=torch.float64))))
        borders = [i / recipe.segments * first for i in range(recipe.segments)]
        end = torch.tensor([max(b for b in borders if b < v - 1e-7) for v in t.tolist()], dtype=torch.float64)
        s = torch.maximum(s, end)
    noise, labels = batch.normal(), batch.conditioning
    x_t, x_s = (wide(alpha(kind[0], u)) * batch.x + wide(sigma(kind[0], u)) * noise for u in (t, s))
    with torch.no_grad():
        if recipe.source == "teacher":
            x_s = heun_step(kind, teacher, x_t, t, s, labels, recipe.heun)
        wanted = sample_and_noise(kind, target, x_s, s, **labels)[0]
        wanted = torch.where(wide(lower) > 0, wanted, x_s)
        if recipe.segments > 1:  # the x0 that leads from x_t to where wanted leads from x_s, at the segment's end
            (a_t, g_t), (a_s, g_s), (a_e, g_e) = (
                (wide(alpha(kind[0], u)), wide(sigma(kind[0], u))) for u in (t, s, end)
            )
            eps = (x_s - a_s * wanted) / g_s
            there = torch.where(wide(s > end), a_e * wanted + g_e * eps, x_s)
            wanted = (there - g_e / g_t * x_t) / (a_e - g_e / g_t * a_t)
    difference = (sample_and_noise(kind, student, x_t, t, **labels)[0] - wanted).flatten(1)
    n = difference.shape[1]
    distance = {
        "l2": lambda d: d.square().mean(1),
        "l1": lambda d: d.abs().mean(1),
        # iCT's, divided by √n: then it does not grow with the number of elements
        "pseudo-huber": lambda d: ((d.square().sum(1) + n * 0.00054**2).sqrt() - 0.00054 * math.sqrt(n)) / math.sqrt(n),
    }[recipe.distance](difference)
    weight = 1 / (level - lower) if recipe.weighted else 1.0
    return (weight * distance).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heun": False, "distance": "l2", "weighted": False},
        {"source": "data", "distance": "l1", "mean": 0.3, "std": 1.2},
        {"source": "data", "pairing": "ect"},
        {"target_rate": 0.9},
        {"segments": 3},
        {"segments": 4, "source": "data", "pairing": "ect", "distance": "l2"},
    ],
    ids=["cd", "euler", "data", "ect", "lagging", "segments", "segments of data"],
)
def test_loss(kind, options):
    recipe = Consistency(**options)
    student, teacher, target = (denoiser(kind, seed) for seed in range(3))
    mine, other = twice(step=300)
    loss = all_losses(recipe, networks(student=student, teacher=teacher, target=target), mine)["student"]
    lagging = denoiser(kind, 2) if recipe.target_rate else student
    expected = reference(recipe, kind, student.model, lagging.model, teacher.model, other)
    # The reference's sigma = √(1 − alpha²) has 1e-16/sigma², and the weights 1/(level − lower) reach 1e3.
    assert_agree(loss, expected, student, rtol=2e-7 if kind[0] != "flow" else 1e-8)
    assert all(not g.any() for g in gradients(all_losses(recipe, networks(
        student=student, teacher=teacher, target=target), mine)["student"], teacher, target))  # fmt: skip


def test_grids_double():
    recipe = Consistency(source="data", levels=10, most_levels=160, distance="l2")
    for step, count in [(0, 10), (199, 10), (200, 20), (400, 40), (999, 160)]:
        student = denoiser(("flow", "flow"))
        mine, other = twice(step=step)
        loss = all_losses(recipe, networks(student=student), mine)["student"]
        assert_agree(
            loss, reference(recipe, ("flow", "flow"), student.model, student.model, None, other, count), student
        )


def test_karras_levels():
    torch.testing.assert_close(karras_levels(7, 0.01, 50.0), torch.tensor(karras(7, 0.01, 50.0), dtype=torch.float64))


def test_doubling():
    """iCT: N(k) = min(s0·2^⌊k/K'⌋, s1) with K' = ⌊K/(log2⌊s1/s0⌋ + 1)⌋."""
    for first, most, steps in [(10, 1280, 400_000), (10, 80, 997), (18, 18, 100), (2, 5, 7)]:
        part = steps // (int(math.log2(most // first)) + 1)
        for step in range(0, steps, max(1, steps // 97)):
            assert doubled_levels(first, most, step, steps) == min(first * 2 ** (step // part), most)


def test_probabilities_are_those_of_a_log_normal_level():
    levels = karras_levels(12, 0.01, 30.0)
    p = level_probabilities(levels, -0.5, 1.3)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    drawn = torch.exp(-0.5 + 1.3 * torch.randn(400_000, dtype=torch.float64))
    counts = torch.histogram(drawn, levels).hist
    # Five standard deviations of a count.
    assert torch.all((counts / counts.sum() - p).abs() < 5 * (p / counts.sum()).sqrt() + 1e-6)


def test_a_level_is_drawn_as_often_as_it_should():
    recipe = Consistency(source="data", levels=6, most_levels=6, mean=0.0, std=1.5)
    level, lower = recipe._levels(Batch(torch.zeros(4096, 1, dtype=torch.float64)), 80.0)
    grid = karras_levels(6, 0.002, 80.0)
    shares = level_probabilities(grid, 0.0, 1.5)
    for i, share in enumerate(shares):
        found = (level == grid[i + 1]) & (lower == grid[i])
        assert float(found.double().mean()) == pytest.approx(float(share), abs=2 / 4096)  # by strata


def test_ect_pairs():
    """The mapping of Geng et al.'s code: r = t·(1 − q^−(stage + 1)·(1 + k·sigmoid(−b·t))), stage 0 to 7 in turn."""
    level = torch.tensor([0.01, 0.5, 2.0, 40.0], dtype=torch.float64)
    for step in range(0, 801, 25):
        stage = min(7, step // 100)
        expected = [max(0.0, t * (1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + math.exp(t))))) for t in level.tolist()]
        torch.testing.assert_close(ect_level(level, step, 800), torch.tensor(expected, dtype=torch.float64))
    assert ect_level(level, 0, 800)[:2].tolist() == [0, 0]  # first, data are the partner of what has little noise
    assert torch.all(ect_level(level, 800, 800) > 0.97 * level)
    wider = ect_level(level, 0, 800, q=256.0, k=2.0, b=0.5)
    expected = level * (1 - (1 + 2 / (1 + torch.exp(0.5 * level))) / 256)
    torch.testing.assert_close(wider, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heun", [False, True])
def test_order_of_the_teachers_step(kind, heun):
    """The local error of a step falls as h² and h³: against many small steps of the exact denoiser of a mixture."""
    schedule = schedules.from_name(kind[0])
    teacher = Denoiser(mixture.exact_denoiser(schedule, kind[1]), schedule, kind[1])
    x = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]

    def times(h):
        return torch.full((9,), 0.6, dtype=torch.float64), torch.full((9,), 0.6 - h, dtype=torch.float64)

    def error(h):
        small, t = x, times(h)[0]
        for s in torch.linspace(0.6, 0.6 - h, 17, dtype=torch.float64)[1:]:
            small = teacher_step(teacher, small, t, s.expand(9), {}, heun=True)
            t = s.expand(9)
        return float((teacher_step(teacher, x, *times(h), {}, heun=heun) - small).abs().max())

    order = math.log2(error(0.04) / error(0.02))
    assert abs(order - (3 if heun else 2)) < 0.35


def test_the_exact_consistency_function_of_a_gaussian_has_no_loss():
    """Along the teacher's flow f is constant: with a step of Heun in small intervals the loss vanishes."""
    schedule, mean, std = schedules.flow(), 0.3, 0.5

    def exact(x, t):
        a, s = (f(t)[:, None, None].to(x) for f in (schedule.alpha, schedule.sigma))
        x0 = mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
        return (x - a * x0) / s - x0

    class Student(torch.nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

        def forward(self, x, t):
            a, s = 1 - t[:, None, None], t[:, None, None]
            x0 = gaussian_map(x, a, s, mean, std) + self.shift * s * x
            return (x - x0) / s

    x = mean + std * torch.randn(5, 3, 2, dtype=torch.float64)

    def loss(shift, heun):
        student = Denoiser(Student(shift), schedule, "flow")
        recipe = Consistency(levels=600, most_levels=600, distance="l2", weighted=False, heun=heun)
        made = networks(student=student, teacher=Denoiser(exact, schedule, "flow"))
        found = all_losses(recipe, made, Batch(x))["student"]
        return float(found.detach()), float(gradients(found, student)[0].abs())

    right, wrong = loss(0.0, True), loss(0.1, True)
    assert right[0] < 1e-5 * wrong[0]
    assert right[1] < 1e-3 * wrong[1]
    assert loss(0.0, False)[0] > 30 * right[0]  # Euler's step leaves the flow


def test_at_time_zero_the_target_is_the_sample_itself():
    """As an epsilon at sigma = 0 has no say, the factor of x alone counts; a "sample" there would be the network's."""
    student = denoiser(("flow", "sample"))
    x, labels = data(3)
    t, s = torch.full((3,), 0.4, dtype=torch.float64), torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    loss = consistency_loss(student, student, 2 * x, x, t, s, weight, lambda a, b: (a - b)[:, 0, 0], labels)
    sample, there = student.model(2 * x, t, **labels), student.model(x, s, **labels)
    wanted = torch.stack([x[0], there[1], x[2]])
    torch.testing.assert_close(loss, (weight * (sample - wanted)[:, 0, 0]).mean())
    assert float((there - x).detach().abs().min()) > 1e-4


def test_the_lagging_target_moves_once_a_step():
    """θ⁻ ← μ·θ⁻ + (1 − μ)·θ after the step, however many parts a batch has."""
    kind = ("flow", "flow")
    recipe = Consistency(source="data", target_rate=0.8)
    student, target = denoiser(kind, 0), denoiser(kind, 1)
    start = [p.detach().clone() for p in target.model.parameters()]
    x, labels = data(12)
    parts = [
        recipe.losses(
            networks(student=student, target=target),
            Batch(x[p.start : p.stop], {"label": labels["label"][p.start : p.stop]}, places=p, size=12),
        )
        for p in (range(6), range(6, 12))
    ]
    for part in parts:
        next(part)
    assert all(torch.equal(a, b) for a, b in zip(start, target.model.parameters(), strict=True))
    with torch.no_grad():
        for p in student.model.parameters():
            p.add_(1.0)  # the optimizer's step
    assert next(parts[0], None) is None  # as the Trainer does
    for a, b, s in zip(start, target.model.parameters(), student.model.parameters(), strict=True):
        torch.testing.assert_close(b.detach(), 0.8 * a + 0.2 * s.detach())


def test_levels_stay_within_the_schedule():
    """Stable Diffusion's schedule ends at sigma/alpha = 14.6, below the default of 80."""
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    told = []

    def model(x, t, label=None):
        told.append(t)
        return x

    class Spy(torch.nn.Module):
        def forward(self, x, t):
            return model(x, t)

    x = torch.randn(64, 3, 2, dtype=torch.float64)
    student = Denoiser(Spy(), schedule, "epsilon")
    for pairing in ("grid", "ect"):
        recipe = Consistency(source="data", pairing=pairing, mean=3.0, distance="l2")
        loss = all_losses(recipe, networks(student=student), Batch(x))["student"]
        assert torch.isfinite(loss)
    assert max(float(t.max()) for t in told) <= 999 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_multistep_model_is_sampled_at_the_ends_of_its_segments(kind):
    recipe, student = Consistency(segments=4), denoiser(kind)
    plan = recipe.plan(student, 4)
    times = torch.tensor(plan.times, dtype=torch.float64)
    assert (plan.solver, plan.calls, plan.times[-1]) == ("ddim", 4, 0.0)
    torch.testing.assert_close(recipe._ends(student.schedule, times[:-1]), times[1:])
    torch.testing.assert_close(recipe._ends(student.schedule, times[1:-1] + 1e-4), times[1:-1])


def test_segments_of_pairs_that_end_in_data():
    """ECT's pairs begin with many at s = 0, which is the end of the last segment."""
    recipe, kind = Consistency(segments=2, source="data", pairing="ect"), KINDS[0]
    student = denoiser(kind)
    mine, other = twice(step=0)
    loss = all_losses(recipe, networks(student=student), mine)["student"]
    assert_agree(loss, reference(recipe, kind, student.model, student.model, None, other), student)


def test_parts():
    made = networks(student=denoiser(("flow", "flow")), teacher=denoiser(("flow", "flow"), 1))
    in_parts(Consistency(), made)
    in_parts(Consistency(source="data", pairing="ect"), made, step=400)


def test_networks():
    teacher = denoiser(("flow", "flow"), guidance=2.0)
    for options, names in [
        ({}, {"student", "teacher"}),
        ({"source": "data"}, {"student"}),
        ({"source": "data", "target_rate": 0.95}, {"student", "target"}),
    ]:
        recipe = Consistency(**options)
        made = recipe.networks(teacher)
        assert set(made) == names
        assert set(recipe.kept) == names & {"target"}
    assert Consistency().networks(teacher)["teacher"].guidance == 2.0


@pytest.mark.parametrize(
    "options",
    [{"levels": 1}, {"levels": 20}, {"least": 0.0}, {"least": 90.0}, {"target_rate": 1.0}, {"target_rate": -0.1}],
)
def test_errors(options):
    with pytest.raises(ValueError, match="consistency needs 2 <= levels"):
        Consistency(**options)


def test_errors_of_segments():
    with pytest.raises(ValueError, match="segments of at least 1, got 0"):
        Consistency(segments=0)


def test_ect_has_no_teacher():
    with pytest.raises(ValueError, match="take source='data'"):
        Consistency(pairing="ect")
    with pytest.raises(ValueError, match="unknown objective 'l3'"):
        all_losses(Consistency(source="data", distance="l3"), networks(student=denoiser(KINDS[0])), twice()[0])
    assert l2(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [1, 1]
