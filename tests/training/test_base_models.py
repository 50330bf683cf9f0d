from pyaccel import zoo
from pyaccel.models import ARCHITECTURES
from pyaccel.training.base_models import BASE_MODELS
from pyaccel.training.recipe import trained


def test_every_base_model_names_an_architecture_and_trains_one_network():
    for base in BASE_MODELS.values():
        ARCHITECTURES[base.architecture](**base.options)
        assert set(trained(base.recipe)) == {"model"} == {base.recipe.output}


def test_the_zoo_was_made_by_them():
    assert set(BASE_MODELS) <= set(zoo.names())
    for name, base in BASE_MODELS.items():
        card = zoo.card(name)
        assert card["options"] == base.options
        assert card["training"]["steps"] == base.config.steps
        assert card.get("prediction", "") == base.prediction
