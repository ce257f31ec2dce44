"""The family of a model on disk."""

from typing import assert_never

from ranks.errors import ModelFolderError
from ranks.families.family import ModelFamily
from ranks.families.wan21_flf2v import FirstAndLastFrame
from ranks.families.wan21_i2v import ImageToVideo
from ranks.families.wan22_i2v_a14b import TwoExperts
from ranks.families.wan22_ti2v_5b import FirstLatentFrame
from ranks.model_files.components import ModelFiles


def family_of(files: ModelFiles) -> ModelFamily:
    match files.family:
        case "wan2.1-i2v":
            return ImageToVideo()
        case "wan2.1-flf2v":
            return FirstAndLastFrame()
        case "wan2.2-i2v-a14b":
            if files.boundary_ratio is None:
                raise ModelFolderError(
                    f"{files.place} has two transformers and no boundary_ratio; expected a number "
                    "from 0 to 1"
                )
            return TwoExperts(files.boundary_ratio)
        case "wan2.2-ti2v-5b":
            return FirstLatentFrame()
        case unknown:
            assert_never(unknown)
