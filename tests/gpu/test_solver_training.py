"""Training of solvers on a GPU: the same as on the CPU, with CUDA graphs and without."""

import pytest
import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation.sampling import labels_of
from pyaccel.seeding import sample_noise
from pyaccel.solvers import TrainablePlan
from pyaccel.training.adversarial import Discriminator
from pyaccel.training.distances import l2
from pyaccel.training.solver_config import SolverConfig
from pyaccel.training.solver_trainer import SolverTrainer
from pyaccel.training.teacher import TeacherData


def teacher(denoiser) -> TeacherData:
    noise, label = sample_noise(3, range(48), (1, 28, 28)), labels_of(range(48), list(range(10)))
    device = next(denoiser.model.parameters()).device
    noise, label = noise.to(device), label.to(device)
    samples = solvers.unipc(denoiser.schedule, 8).sample(denoiser, noise, label=label)
    return TeacherData(noise, samples, {"label": label})


def trained(folder, device: str, graph: bool, adversarial: float, model: str = "fashion-dit") -> SolverTrainer:
    denoiser = zoo.load(model, device=device)
    train, held = teacher(denoiser).split(16)
    config = SolverConfig(steps=8, batch_size=16, validate_every=4, warmup=2, adversarial=adversarial)
    torch.manual_seed(0)
    critic = Discriminator(width=8).to(device) if adversarial else None
    trainable = TrainablePlan(solvers.dpmpp(denoiser.schedule, 4, order=3))
    t = SolverTrainer(trainable, denoiser, train, held, l2, config, folder, discriminator=critic, graph=graph)
    assert t.fit(progress=False)
    return t


@pytest.mark.parametrize("adversarial", [0.0, 0.1], ids=["gs", "gas"])
@pytest.mark.parametrize("model", ["fashion-dit", "fashion-unet"])
def test_graphs_and_the_cpu_give_the_same_plan(tmp_path, recwarn, model, adversarial):
    graphed = trained(tmp_path / "graph", "cuda", True, adversarial, model)
    assert not [w for w in recwarn if "no CUDA graph" in str(w.message)]
    eager = trained(tmp_path / "eager", "cuda", False, adversarial, model)
    cpu = trained(tmp_path / "cpu", "cpu", False, adversarial, model)
    assert graphed.best_score < graphed.validations[0][1]
    for other in (eager, cpu):
        for name, p in graphed.trainable.state_dict().items():
            torch.testing.assert_close(other.trainable.state_dict()[name], p, rtol=0, atol=2e-3)
    if adversarial:
        for name, p in graphed.adversary.discriminator.state_dict().items():
            torch.testing.assert_close(eager.adversary.discriminator.state_dict()[name], p, rtol=0, atol=1e-3)


def test_a_checkpoint_goes_on_with_graphs(tmp_path):
    whole = trained(tmp_path / "whole", "cuda", True, 0.1)
    again = trained(tmp_path / "whole", "cuda", True, 0.1)  # from its checkpoint: nothing is left to do
    assert again.step == whole.step
    assert again.best_score == whole.best_score
