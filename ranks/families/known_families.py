"""The family of a model on disk."""

from ranks.families.family import ModelFamily
from ranks.families.wan21_i2v import ImageToVideo
from ranks.model_files.components import ModelFiles


def family_of(files: ModelFiles) -> ModelFamily:
    return ImageToVideo()
