from pyaccel import zoo
from pyaccel.models import ARCHITECTURES
from pyaccel.training.recipes import RECIPES


def test_every_recipe_names_an_architecture_that_exists():
    for recipe in RECIPES.values():
        ARCHITECTURES[recipe.architecture](**recipe.options)
        assert callable(recipe.loss())


def test_the_zoo_was_made_by_the_recipes():
    assert set(zoo.names()) == set(RECIPES)
    for name, recipe in RECIPES.items():
        card = zoo.card(name)
        assert card["options"] == recipe.options
        assert card["training"]["steps"] == recipe.config.steps
        assert card.get("prediction", "") == recipe.prediction
