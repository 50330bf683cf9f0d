import gzip
import json
import struct

import pytest
import torch

from pyaccel.evaluation.cards import train_model


@pytest.fixture
def images(tmp_path):
    """A few random pictures in the form of Fashion-MNIST's files."""
    folder = tmp_path / "data"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        pictures, labels = torch.randint(256, (16, 28, 28), dtype=torch.uint8), torch.arange(16, dtype=torch.uint8) % 10
        for name, magic, tensor in (("images-idx3", 0x803, pictures), ("labels-idx1", 0x801, labels)):
            content = struct.pack(f">{1 + tensor.dim()}I", magic, *tensor.shape) + tensor.numpy().tobytes()
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def test_training_ends_in_weights_and_a_card(images, tmp_path):
    run = tmp_path / "run"
    assert train_model("fashion-classifier", run, images, {"steps": 2, "batch_size": 8, "seed": 4}) == 0
    card = json.loads((run / "fashion-classifier.json").read_text())
    assert card["training"]["steps"] == 2
    assert card["training"]["config"]["batch_size"] == 8
    assert card["training"]["command"] == "pyaccel train fashion-classifier --steps 2 --batch-size 8 --seed 4"
    assert 0 <= card["figures"]["test accuracy"] <= 1
    assert (run / "fashion-classifier.safetensors").exists()
    assert (run / "fashion-reference.safetensors").exists()


def test_unknown_model(images, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'fashion-dit'"):
        train_model("fashion-dt", tmp_path, images)
