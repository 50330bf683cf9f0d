import torch

from pyaccel.models import Classifier


def test_logits_are_the_head_of_the_features():
    model = Classifier().eval()
    x = torch.randn(3, 1, 28, 28)
    features = model.features(x)
    assert features.shape == (3, Classifier.num_features)
    torch.testing.assert_close(model(x), model.head(features))


def test_dropout_acts_in_training_alone():
    model, x = Classifier(), torch.randn(8, 1, 28, 28)
    assert not torch.allclose(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
