"""The former place of what is in :mod:`pyaccel.training.datasets`; trainer.py still looks here."""

from .datasets import FASHION_MNIST_CLASSES, ImageData, fashion_mnist

__all__ = ["FASHION_MNIST_CLASSES", "ImageData", "fashion_mnist"]
