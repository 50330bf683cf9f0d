"""Data for trainings: images in memory, folders of images, shards of latents, and their order by seed and step."""

from .contract import Dataset
from .epochs import epoch_indices, step_flips
from .folders import ImageFolder, image_folder
from .images import FASHION_MNIST_CLASSES, ImageData, fashion_mnist
from .latents import LatentShards, latent_shards
from .opening import open_dataset
from .prefetch import Prefetcher
from .tars import TarShards, webdataset_shards

__all__ = [
    "FASHION_MNIST_CLASSES",
    "Dataset",
    "ImageData",
    "ImageFolder",
    "LatentShards",
    "Prefetcher",
    "TarShards",
    "epoch_indices",
    "fashion_mnist",
    "image_folder",
    "latent_shards",
    "open_dataset",
    "step_flips",
    "webdataset_shards",
]
