"""Links and positions go with the thing that holds them, through copies and pickles."""

import copy
import gc
import pickle

import torch
from torch import nn

from pyaccel.denoiser import Run, StepContext
from pyaccel.integrations.record import Link, Position, Record, erase, record_of, write


class Pipe:
    def __init__(self):
        self.model = nn.Linear(1, 1)
        self.scheduler = Scheduler()


class Scheduler:
    context = None

    def step(self):
        pass

    def set_timesteps(self):
        pass

    def pyaccel_position(self):
        return self.context


def test_links_follow_copies_of_their_thing():
    pipe = Pipe()
    pipe.link = Link(pipe)
    for copied in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert copied.link() is copied
    assert copy.copy(pipe).link() is pipe
    assert pipe.link() is pipe


def test_the_link_of_a_copied_part_refers_to_nothing():
    pipe = Pipe()
    pipe.model.link = Link(pipe)
    assert copy.deepcopy(pipe.model).link() is None
    assert copy.deepcopy(Link())() is None
    assert copy.deepcopy(pipe).model.link() is not pipe


def test_links_keep_nothing_alive():
    pipe = Pipe()
    link = Link(pipe)
    del pipe
    gc.collect()
    assert link() is None
    assert copy.deepcopy(link)() is None


def test_the_position_is_that_of_the_scheduler_which_runs():
    pipe = Pipe()
    position = Position(Link(pipe), ("scheduler", "prior_scheduler"))
    assert position() is None
    first, second = (StepContext(Run(), 1, 4, 0.5) for _ in range(2))
    pipe.scheduler.context = first
    assert position() is first
    pipe.prior_scheduler = Scheduler()
    assert position() is first
    pipe.prior_scheduler.context = second
    assert position() is None  # not known which
    pipe.scheduler.context = None
    assert position() is second
    pipe.scheduler = pipe.prior_scheduler = None
    assert position() is None
    assert Position(Link())() is None


def test_records_belong_to_one_thing():
    pipe = Pipe()
    assert record_of(pipe) is None
    write(pipe, record := Record(Link(pipe), True))
    assert record_of(pipe) is record
    assert record_of(copy.copy(pipe)) is None
    copied = copy.deepcopy(pipe)
    assert record_of(copied) is not record
    assert record_of(copied).owner() is copied
    erase(pipe)
    assert record_of(pipe) is None
    for thing in (None, 3, torch.ones(1), int):
        assert record_of(thing) is None
