"""More inputs than a launch on a GPU has room for, added up in parts; the parts are computed on the CPU here."""

import importlib

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend, native
from tests.ops.combinations import assert_combines, random_coefficients

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64


@pytest.mark.parametrize("most", [8, 9])
@pytest.mark.parametrize("sizes", [(5,), (3, 5)], ids=["shared", "per sample"])
def test_combination_in_parts(monkeypatch, most, sizes):
    monkeypatch.setattr(backend._native, "most_columns", most, raising=False)
    tensors, seeds, streams = [torch.randn(3, 70).to((BF16, F32)[j % 2]) for j in range(21)], [4, 5, 6], [7, 8]
    inputs = [*tensors, *(ops.normal((3, 70), seeds, s) for s in streams)]
    c = random_coefficients(*sizes, 23)
    for given in (c, torch.tensor(c, dtype=F64)):
        out = [torch.empty(3, 70, dtype=d) for d in (F32, BF16, F32, F32, F64)]
        native._combine_in_parts(tensors, given, out, 3 if len(sizes) == 2 else 1, seeds, streams)
        assert_combines(out, inputs, c, slack=2)


def test_gated_combination_in_parts():
    tensors = [torch.randn(3, 70).to((BF16, F32)[j % 2]) for j in range(20)]
    tensors[3] = ops.quantize(tensors[3])
    weights = torch.randn(20).tolist()
    few, w = importlib.import_module("pyaccel.ops.gated_combination")._few(tensors, weights, torch.empty(3, 70), 8)
    assert len(few) == len(w) <= 8
    gate, residual = torch.randn(3, 70), torch.randn(3, 70)
    expected = ops.gated_combination(residual, gate, tensors, weights)
    torch.testing.assert_close(ops.gated_combination(residual, gate, few, w), expected, rtol=1e-5, atol=1e-5)
