"""Times that are searched for: their least score, and those of a student."""

import itertools

import pytest
import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation import tuning
from pyaccel.evaluation.sampling import fashion_quality, generate
from pyaccel.evaluation.searching import EVALUATIONS, searched_times
from pyaccel.evaluation.tuning import Job, scores_of, sweeps_of, with_chosen_times


def test_the_least_score_is_found_with_as_many_scores_as_were_said():
    asked = []

    def score(times):
        asked.append(times)
        assert all(a > b for a, b in itertools.pairwise(times))
        return (times[1] - 0.62) ** 2 + (times[2] - 0.21) ** 2 + 0.3 * (times[1] - 0.62) * (times[2] - 0.21)

    times, least = searched_times([1.0, 0.66, 0.33, 0.0], score, sweeps=3)
    assert (times[0], times[3]) == (1.0, 0.0)
    assert times[1:3] == pytest.approx([0.62, 0.21], abs=0.02)
    assert least == min(map(score, asked[:]))
    asked.clear()
    searched_times([1.0, 0.6, 0.3, 0.0], score, sweeps=sweeps_of(3))
    assert len(asked) == scores_of(3) == 1 + 2 * 2 * EVALUATIONS


def test_the_start_stays_where_nothing_is_better():
    assert searched_times([1.0, 0.6, 0.0], lambda times: float(times[1] != 0.6)) == ([1.0, 0.6, 0.0], 0.0)
    assert searched_times([1.0, 0.0], sum, sweeps=sweeps_of(1)) == ([1.0, 0.0], 1.0)


def test_a_student_that_adds_noise(monkeypatch):
    job = Job("fashion-dit-consistency", 2, "search")
    denoiser = zoo.load(job.model)
    assert (job.solver, job.options) == ("lcm", zoo.sampler(job.model)[2])
    scores = {}

    def quality(samples):
        found = fashion_quality(samples)
        scores[found.fid] = samples.images
        return found

    monkeypatch.setattr(tuning, "fashion_quality", quality)
    plan = with_chosen_times(job, denoiser, searched=8)
    assert plan.solver == "lcm"
    assert plan.times[0] == job.plan(denoiser).times[0]
    assert len(scores) == scores_of(2)
    again = generate(denoiser, plan, 8, seed=tuning.SEARCH_SEED)
    assert torch.equal(again.images, scores[min(scores)])
    with pytest.raises(ValueError, match=r"lcm adds noise on its way.*--method search"):
        Job("fashion-dit-consistency", 2, "gs").plan(denoiser)
    with pytest.raises(ValueError, match="measures the FID of models of the zoo"):
        with_chosen_times(Job("mine", 2, "search", "ddim"), denoiser)


def test_a_students_own_sampler_is_tuned():
    job = Job("fashion-dit-meanflow", 3, "gs")
    assert job.solver == "flow_map"
    plan = solvers.TrainablePlan(job.plan(zoo.load(job.model)))
    assert plan.learns_times
    assert Job("fashion-dit", 4, "gs").solver == "dpmpp"
    assert Job("fashion-dit-meanflow", 3, "gs", "ddim").options == {}
