from pathlib import Path

from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.weight_memory import weight_bytes
from tests.ranks.model_files.real_shapes import I2V


def files_of(config: dict[str, object]) -> ModelFiles:
    transformer = Component(place="", config=config, weights={})
    return ModelFiles(
        place=Path(),
        family="wan2.1-i2v",
        components={"transformer": transformer},
        tokenizer=Path(),
        image_processor=None,
    )


def test_the_14b_transformer_takes_the_bytes_that_diffusers_gives_it() -> None:
    whole = 32_848_151_168
    assert weight_bytes(files_of(I2V), 1) == whole
    blocks = whole - weight_bytes(files_of(I2V | {"num_layers": 0}), 1)
    assert weight_bytes(files_of(I2V), 8) == whole - blocks + blocks // 8
