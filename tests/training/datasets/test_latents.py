import pytest
import torch
from safetensors.torch import save_file

from pyaccel.training.datasets import epoch_indices, latent_shards


def shard(path, rows, dtype=torch.float32, main="latents", **others):
    latents = torch.randn(rows, 4, 2, 2).to(dtype)
    save_file({main: latents, **others}, path)
    return latents


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_rows_of_several_shards(tmp_path, dtype):
    labels = [torch.tensor([1, 2, 3], dtype=torch.int32), torch.empty(0, dtype=torch.int32), torch.tensor([4, 5]).int()]
    text = [torch.randn(n, 3, 5, dtype=torch.bfloat16) for n in (3, 0, 2)]
    masks = [torch.rand(n, 3) < 0.5 for n in (3, 0, 2)]
    latents = torch.cat(
        [
            shard(tmp_path / f"{i}.safetensors", len(labels[i]), dtype, labels=labels[i], text=text[i], mask=masks[i])
            for i in range(3)
        ]
    )
    data = latent_shards(tmp_path, scale=0.5, shift=0.25)
    assert (len(data), data.shape, data.can_flip) == (5, (4, 2, 2), False)
    index = torch.tensor([4, 0, 2, 3, 0])
    samples, conditioning = data.at(index)
    assert samples.dtype == torch.float32
    assert torch.allclose(samples.double(), (latents.double()[index] - 0.25) * 0.5)
    assert conditioning.keys() == {"label", "text", "mask"}
    assert torch.equal(conditioning["label"], torch.cat(labels).long()[index])
    assert torch.equal(conditioning["text"], torch.cat(text).float()[index])
    assert torch.equal(conditioning["mask"], torch.cat(masks)[index])


def test_a_caller_may_write_into_what_it_gets(tmp_path):
    latents = shard(tmp_path / "a.safetensors", 2, labels=torch.arange(2))
    data = latent_shards(tmp_path / "a.safetensors")
    for _ in range(2):
        samples, conditioning = data.at(torch.tensor([1]))
        assert torch.equal(samples[0], latents[1])
        assert conditioning["label"].tolist() == [1]
        samples.zero_(), conditioning["label"].zero_()


def test_teacher_data_are_latents_too(tmp_path):
    samples = shard(tmp_path / "00000.safetensors", 4, main="samples", labels=torch.arange(4))
    found = torch.cat([latent_shards(tmp_path).at(epoch_indices(4, step, 2, 0))[0] for step in range(2)])
    order = torch.cat([epoch_indices(4, step, 2, 0) for step in range(2)])
    assert torch.equal(found, samples[order])


def test_flips_are_refused(tmp_path):
    shard(tmp_path / "a.safetensors", 2)
    with pytest.raises(ValueError, match="cannot be mirrored"):
        latent_shards(tmp_path).at(torch.tensor([0]), torch.tensor([False]))


def test_samples_with_nan_are_skipped_and_named(tmp_path):
    latents = torch.randn(6, 3)
    latents[2, 1] = float("nan")
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    data = latent_shards(tmp_path)
    with pytest.warns(UserWarning, match=r"a\.safetensors:2 is broken \(latents has NaN"):
        samples, _ = data.at(torch.tensor([1, 2]))
    assert torch.equal(samples, latents[[1, 3]])
    assert len(data.broken) == 1


def differing(tmp_path, **changed):
    save_file({"latents": torch.zeros(2, 4), "labels": torch.zeros(2)}, tmp_path / "a.safetensors")
    save_file({"latents": torch.zeros(3, 4), "labels": torch.zeros(3), **changed}, tmp_path / "b.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        {"latents": torch.zeros(3, 5)},
        {"latents": torch.zeros(3, 4).half()},
        {"labels": torch.zeros(3, 1)},
        {"text": torch.zeros(3, 7)},
    ],
)
def test_shards_that_differ_are_named(tmp_path, changed):
    with pytest.raises(ValueError, match=r"shards differ: .*b\.safetensors has .*a\.safetensors"):
        latent_shards(differing(tmp_path, **changed))


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"images": torch.zeros(2, 3)}, r"either 'latents' or 'samples'.*images F32 \[2, 3\]"),
        ({"latents": torch.zeros(2, 3), "samples": torch.zeros(2, 3)}, "either 'latents' or 'samples'"),
        ({"latents": torch.zeros(2, 3).int()}, "must be floats"),
        ({"latents": torch.zeros(2)}, "must be floats"),
        (
            {"latents": torch.zeros(2, 3), "labels": torch.zeros(3)},
            r"one row for each of the 2 latents.*labels F32 \[3\]",
        ),
        ({"latents": torch.zeros(2, 3), "labels": torch.zeros(2), "label": torch.zeros(2)}, "not both"),
        ({"latents": torch.zeros(0, 3)}, "no samples"),
    ],
)
def test_shards_that_hold_no_data(tmp_path, tensors, text):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors.*" + text):
        latent_shards(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    shard(tmp_path / "a.safetensors", 2)
    shard(tmp_path / "b.safetensors", 2)
    content = (tmp_path / "b.safetensors").read_bytes()
    for damaged in (content[:-4], b"", b"no shard"):
        (tmp_path / "b.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.safetensors is not a readable"):
            latent_shards(tmp_path)
