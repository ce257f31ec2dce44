"""How the demo transformer of Wan2.2 TI2V-5B knows the first frame: its tokens have the timestep 0.

The other demo transformers read a mask and a condition from channels of their input. Here the first
frame itself is the condition, and the modulation of each block tells its tokens from the others.
"""

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from ranks.demo.token_channels import CONDITION, IS_FIRST, PIXELS, ZERO

_NUM_COSINES = 12
"""Waves of the timestep whose cosines are all 1 only at 0."""
_STEEPNESS = 20.0
_MARK = _STEEPNESS / 2
"""Of the timestep 0; of any other it is 0."""


def mark_first_frame(model: WanTransformer3DModel) -> None:
    """Set `IS_FIRST` in the first frame, and hide the condition channels in all other frames."""
    embedder = model.condition_embedder
    waves, last = embedder.time_embedder.linear_1, embedder.time_embedder.linear_2
    waves.weight[0] = 0.0
    waves.weight[0, :_NUM_COSINES] = _STEEPNESS
    waves.bias[0] = _MARK - _STEEPNESS * _NUM_COSINES
    last.weight[:, 0] = 0.0
    last.weight[0] = 0.0
    last.weight[0, 0] = 1.0
    last.bias[0] = 0.0
    modulation = embedder.time_proj
    modulation.weight[:, 0] = 0.0
    shift, scale = 0, modulation.in_features
    _switch(model, shift + IS_FIRST, at_first=1.0)
    for channel in (*range(CONDITION, CONDITION + len(PIXELS)), IS_FIRST, ZERO):
        _switch(model, scale + channel, at_first=0.0)


def _switch(model: WanTransformer3DModel, row: int, at_first: float) -> None:
    """Let a modulation be `at_first` in the first frame and -1 in all others."""
    modulation = model.condition_embedder.time_proj
    modulation.weight[row] = 0.0
    modulation.weight[row, 0] = (at_first + 1.0) / _MARK
    modulation.bias[row] = -1.0
