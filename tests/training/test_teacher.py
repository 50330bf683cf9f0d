"""Teacher data: resumable, verified, sharded over ranks; missing and damaged shards are named and made anew."""

import json

import pytest
import torch

from pyaccel.seeding import sample_noise
from pyaccel.training.teacher import (
    TeacherData,
    TeacherSpec,
    faults,
    generate_teacher,
    load_teacher,
    shard_path,
)

SPEC = TeacherSpec("toy", "unipc", 20, count=23, seed=7, shard=5, schedule=["flow", {"shift": 1.0}])
SHAPE = (1, 3, 3)


class Sampler:
    """Doubles the noise, and stops as a kill would after so many shards."""

    def __init__(self, stop_after=None):
        self.made, self.stop_after = [], stop_after

    def __call__(self, noise, indices):
        if self.stop_after is not None and len(self.made) >= self.stop_after:
            raise KeyboardInterrupt
        self.made.append(indices)
        return 2 * noise, {"label": torch.tensor(indices) % 10, "text": noise[:, 0].bfloat16()}


def test_samples_noise_and_conditioning_come_back(tmp_path):
    assert generate_teacher(tmp_path, SPEC, Sampler(), SHAPE) == [0, 1, 2, 3, 4]
    data, spec = load_teacher(tmp_path, model="toy", schedule=["flow", {"shift": 1.0}])
    assert spec == SPEC
    assert len(data) == 23
    assert torch.equal(data.noise, sample_noise(7, range(23), SHAPE))
    assert torch.equal(data.samples, 2 * data.noise)
    assert data.conditioning["label"].tolist() == [i % 10 for i in range(23)]
    assert torch.equal(data.conditioning["text"], data.noise[:, 0].bfloat16())


def test_a_killed_run_goes_on_with_what_is_missing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate_teacher(tmp_path, SPEC, Sampler(stop_after=2), SHAPE)
    with pytest.raises(ValueError, match=r"00002.safetensors is missing.*00004.safetensors is missing"):
        load_teacher(tmp_path)
    again = Sampler()
    assert generate_teacher(tmp_path, SPEC, again, SHAPE) == [2, 3, 4]
    assert again.made == [range(10, 15), range(15, 20), range(20, 23)]
    assert len(load_teacher(tmp_path)[0]) == 23


def test_damaged_shards_are_named_and_made_anew(tmp_path):
    generate_teacher(tmp_path, SPEC, Sampler(), SHAPE)
    before = load_teacher(tmp_path)[0]
    raw = bytearray(shard_path(tmp_path, 1).read_bytes())
    raw[-3] ^= 1  # one bit of one number
    shard_path(tmp_path, 1).write_bytes(raw)
    shard_path(tmp_path, 3).write_bytes(raw[: len(raw) // 2])
    assert faults(tmp_path) == {1: "damaged", 3: "damaged"}
    with pytest.raises(ValueError, match=r"00001.safetensors is damaged.*pyaccel teacher"):
        load_teacher(tmp_path)
    assert generate_teacher(tmp_path, SPEC, Sampler(), SHAPE) == [1, 3]
    assert torch.equal(load_teacher(tmp_path)[0].samples, before.samples)


def test_ranks_share_the_shards(tmp_path):
    assert generate_teacher(tmp_path, SPEC, Sampler(), SHAPE, rank=1, ranks=2) == [1, 3]
    assert faults(tmp_path) == {0: "missing", 2: "missing", 4: "missing"}
    assert generate_teacher(tmp_path, SPEC, Sampler(), SHAPE, rank=0, ranks=2) == [0, 2, 4]
    whole = tmp_path / "whole"
    generate_teacher(whole, SPEC, Sampler(), SHAPE)
    assert torch.equal(load_teacher(tmp_path)[0].samples, load_teacher(whole)[0].samples)


def test_data_of_something_else_are_refused(tmp_path):
    generate_teacher(tmp_path, SPEC, Sampler(), SHAPE)
    with pytest.raises(ValueError, match="of toy, and they are wanted of fashion-dit"):
        load_teacher(tmp_path, model="fashion-dit")
    with pytest.raises(ValueError, match="was made on the schedule"):
        load_teacher(tmp_path, schedule=["vp_linear", {}])
    with pytest.raises(ValueError, match="by the network in float32, and the solver is to be for bfloat16"):
        load_teacher(tmp_path, dtype="bfloat16")
    other = TeacherSpec("toy", "unipc", 10, count=23, seed=7, shard=5, schedule=["flow", {"shift": 1.0}])
    with pytest.raises(ValueError, match=r"steps: 20 there, 10 now.*another --out"):
        generate_teacher(tmp_path, other, Sampler(), SHAPE)
    with pytest.raises(ValueError, match="holds no teacher data"):
        load_teacher(tmp_path / "nothing")
    facts = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps(facts | {"schema": 1}))
    with pytest.raises(ValueError, match=r"schema 1, and this pyaccel reads schema 2; make them anew"):
        load_teacher(tmp_path)
    (tmp_path / "teacher.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_teacher(tmp_path)
    with pytest.raises(ValueError, match="count >= 1"):
        TeacherSpec("toy", "unipc", 20, count=0, seed=0)


def test_nan_from_the_teacher_is_no_data(tmp_path):
    with pytest.raises(FloatingPointError, match="shard 0"):
        generate_teacher(tmp_path, SPEC, lambda x, i: (x * float("nan"), {}), SHAPE)
    assert faults(tmp_path)[0] == "missing"


def test_batches_and_splits():
    data = TeacherData(torch.arange(20.0)[:, None], -torch.arange(20.0)[:, None], {"label": torch.arange(20)})
    train, held = data.split(6)
    assert (len(train), len(held), held.first) == (14, 6, 14)
    assert held.conditioning["label"].tolist() == [*range(14, 20)]
    noise, samples, conditioning = held.at(torch.tensor([5, 0]))
    assert (noise[:, 0].tolist(), samples[:, 0].tolist()) == ([19, 14], [-19, -14])
    assert conditioning["label"].tolist() == [19, 14]
    assert torch.equal(torch.cat([conditioning["label"] for *_, conditioning in data.batches(6)]), torch.arange(20))
    epoch = torch.cat([train.indices(step, 7, seed=0) for step in (0, 1)])
    assert sorted(epoch.tolist()) == list(range(14))
    assert not torch.equal(train.indices(0, 7, 0), train.indices(2, 7, 0))
    assert torch.equal(train.indices(3, 7, 0), train.indices(3, 7, 0))
    with pytest.raises(ValueError, match="batch of 15"):
        train.indices(0, 15, 0)
    with pytest.raises(ValueError, match="cannot be held out"):
        data.split(20)


@pytest.mark.parametrize(
    ("conditioning", "got"), [({"text": torch.zeros(1, 6)}, r"\[1, 6\]"), ({"text": ["a", "b"]}, "list")]
)
def test_conditioning_that_is_not_one_tensor_a_sample(tmp_path, conditioning, got):
    with pytest.raises(ValueError, match=rf"'text' must be a tensor \[5, ...\], got {got}"):
        generate_teacher(tmp_path, SPEC, lambda x, i: (x, conditioning), SHAPE)


def test_shards_of_other_conditioning_are_no_whole(tmp_path):
    generate_teacher(tmp_path, SPEC, Sampler(), SHAPE)
    shard_path(tmp_path, 2).unlink()
    generate_teacher(tmp_path, SPEC, lambda x, i: (x, {}), SHAPE)
    with pytest.raises(ValueError, match=r"00002.safetensors has \['samples'\], the first has .*conditioning/label"):
        load_teacher(tmp_path)
