"""Speed, quality and diversity of samples, and the report that shows them."""

from .figures import image_grid, pareto_figure, samples_figure
from .frechet import Moments, frechet_distance, moments
from .precision_recall import manifold_radii, precision_recall
from .quality import Quality, Reference, class_accuracy, classify, evaluate, rmse
from .report import rich_table, write_report

__all__ = [
    "Moments",
    "Quality",
    "Reference",
    "class_accuracy",
    "classify",
    "evaluate",
    "frechet_distance",
    "image_grid",
    "manifold_radii",
    "moments",
    "pareto_figure",
    "precision_recall",
    "rich_table",
    "rmse",
    "samples_figure",
    "write_report",
]
