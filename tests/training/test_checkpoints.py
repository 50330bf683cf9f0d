import pytest
import torch

from pyaccel.training.checkpoints import flatten, load_tensors, save_tensors, unflatten


def test_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2).t(), "b": torch.tensor(4)}
    save_tensors(tmp_path / "x" / "c.safetensors", flatten("model", tensors), {"step": "3"})
    loaded, metadata = load_tensors(tmp_path / "x" / "c.safetensors")
    assert metadata == {"step": "3"}
    for name, tensor in unflatten("model", loaded).items():
        assert torch.equal(tensor, tensors[name])
    assert unflatten("ema", loaded) == {}


def test_damaged_and_missing_files(tmp_path):
    path = tmp_path / "c.safetensors"
    save_tensors(path, {"a": torch.randn(100)}, {})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_tensors(path)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none.safetensors")
