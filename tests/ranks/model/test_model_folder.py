"""What is refused before a model is loaded, and by which name."""

import json
import logging
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.wire.model_profile import Family
from ranks.errors import MissingModelError, ModelFolderError
from ranks.model_files.components import WEIGHTED
from ranks.model_files.diffusers_folder import check_model_folder, open_diffusers_folder
from ranks.model_files.safetensors_header import read_header
from ranks.model_files.weight_files import find_weights
from tests.stub_model import FILES, WEIGHTS, make_stub_model, set_fields, write_weights

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981\n"
    "size 507609880\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_stub_model(tmp_path / "model")


def weights_of(model: Path, part: str) -> Path:
    return model / part / f"{WEIGHTS[part]}.safetensors"


def index_of(model: Path, part: str) -> Path:
    return model / part / f"{WEIGHTS[part]}.safetensors.index.json"


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as raised:
        check_model_folder(folder)
    message = str(raised.value)
    assert "\n" not in message
    return message


# --- files and tensors that are not the model's --------------------------------------------------


def test_files_and_tensors_outside_the_index_are_ignored_with_one_warning(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stray file beside the index once took the place of the right weights."""
    shard, stray = model / "vae" / "a.safetensors", model / "vae" / "z.safetensors"
    write_weights(shard, {"x": "F32", "spare": "F32"})
    write_weights(stray, {"x": "F32"})
    index_of(model, "vae").write_text(json.dumps({"weight_map": {"x": shard.name}}))
    check_model_folder(model)
    assert {n: w.path for n, w in find_weights(model / "vae").weights.items()} == {"x": shard}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "vae/z.safetensors" in record.getMessage()
    assert "vae/spare in a.safetensors" in record.getMessage()


def test_a_quantized_file_beside_the_models_own_is_ignored(model: Path) -> None:
    write_weights(model / "transformer" / "fp8.safetensors", {"x.scale_weight": "F8_E4M3"})
    check_model_folder(model)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8"])
@pytest.mark.parametrize("part", WEIGHTED["wan2.1-i2v"])
def test_another_dtype_is_refused_by_name(model: Path, part: str, dtype: str) -> None:
    write_weights(weights_of(model, part), {"plain": "BF16", "narrow.weight": dtype})
    message = refusal(model)
    assert f"{weights_of(model, part)} holds narrow.weight as {dtype}: " in message
    assert "expected plain float32, bfloat16 or float16" in message


@pytest.mark.parametrize(
    "name",
    [
        "scaled_fp8",
        "blocks.0.attn1.to_q.scale_weight",
        "blocks.0.attn1.to_q.weight_scale",
        "blocks.0.attn1.to_q.comfy_quant",
        "blocks.0.attn1.to_q.quant_bias",
    ],
)
def test_the_scales_of_quantized_weights_are_refused_by_name(model: Path, name: str) -> None:
    """Their weights once were loaded without the scales, and the videos were noise."""
    write_weights(weights_of(model, "transformer"), {"a": "F16", name: "F32"})
    assert f"holds {name}: its weights are quantized" in refusal(model)


def test_a_config_that_tells_of_quantization_is_refused(model: Path) -> None:
    set_fields(model / "text_encoder" / "config.json", quantization_config={"load_in_8bit": True})
    assert "text_encoder is quantized (quantization_config" in refusal(model)


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *FILES,
        *[f"{part}/{stem}.safetensors" for part, stem in WEIGHTS.items()],
    ],
)
def test_a_git_lfs_pointer_is_named_whichever_file_it_stands_for(model: Path, name: str) -> None:
    (model / name).write_text(LFS_POINTER)
    assert f"{model / name} is a Git LFS pointer" in refusal(model)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "ends after 0 bytes"),
        (b"1234567", "ends after 7 bytes"),
        (b"\x10" + bytes(7) + b"{}", "has 10 bytes and states a header of 16"),
        (b"\xff" * 8 + b"{}" * 99, "states a header of 18446744073709551615"),
        (b"\x02" + bytes(7) + b"[]", "has no valid header"),
        (b"\x02" + bytes(7) + b"{}rest", "has 14 bytes, its header states 10"),
        (b"PK\x03\x04" + bytes(99), "is a PyTorch checkpoint"),
        (b"GGUF" + bytes(99), "is a GGUF file"),
        (b"<!DOCTYPE html>", "is a web page"),
    ],
)
def test_a_file_that_is_not_whole_safetensors_is_named(
    model: Path, content: bytes, what: str
) -> None:
    path = weights_of(model, "image_encoder")
    path.write_bytes(content)
    message = refusal(model)
    assert str(path) in message
    assert what in message


@pytest.mark.parametrize("offsets", [[0, 4], [8, 0], [-8, 0], [0, 1 << 70], "ab"])
def test_offsets_that_contradict_the_shape_are_refused(tmp_path: Path, offsets: object) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelFolderError, match=r"a\.safetensors has damaged weights"):
        read_header(path)


_READ_A_HOSTILE_HEADER = """
import resource, sys
from pathlib import Path
from ranks.errors import ModelFolderError
from ranks.model_files.safetensors_header import read_header
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_header(Path(sys.argv[1]))
except ModelFolderError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("header_bytes", [0x3C, 0x13C, 0x280])
def test_a_header_may_have_a_length_that_reads_like_another_format(
    tmp_path: Path, header_bytes: int
) -> None:
    """A header of 60 bytes begins like a web page, one of 640 like a PyTorch checkpoint."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(header_bytes.to_bytes(8, "little") + b"{}".ljust(header_bytes))
    assert read_header(path) == {}


@pytest.mark.parametrize("header_bytes", [1 << 62, 3 << 30, 16 << 20])
def test_a_hostile_header_takes_little_memory(tmp_path: Path, header_bytes: int) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(header_bytes.to_bytes(8, "little") + b"[" * 99)
    with path.open("r+b") as file:
        file.truncate(4 << 30)  # a hole: the file has the length that its header asks for
    grown_kib = subprocess.check_output([sys.executable, "-c", _READ_A_HOSTILE_HEADER, str(path)])
    assert int(grown_kib) < 64 << 10


def test_a_header_as_large_as_the_14b_models_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    write_weights(path, {f"blocks.{n}.attn1.to_out.0.weight": "F32" for n in range(1303)})
    began = time.perf_counter()
    assert len(read_header(path)) == 1303
    assert time.perf_counter() - began < 1.0


# --- incomplete folders --------------------------------------------------------------------------


def test_a_tensor_that_its_shard_lacks_is_named(model: Path) -> None:
    write_weights(model / "transformer" / "one.safetensors", {"a": "F32"})
    weight_map = {"a": "one.safetensors", "b": "one.safetensors"}
    index_of(model, "transformer").write_text(json.dumps({"weight_map": weight_map}))
    assert "one.safetensors lacks b, which the index expects there" in refusal(model)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": "../b.safetensors"}])
def test_an_index_without_a_usable_map_is_refused(model: Path, weight_map: object) -> None:
    index_of(model, "transformer").write_text(json.dumps({"weight_map": weight_map}))
    assert f"{index_of(model, 'transformer')} " in refusal(model)


def test_weights_under_a_name_that_is_not_read_are_shown(model: Path) -> None:
    weights = weights_of(model, "transformer")
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert "(found diffusion_pytorch_model.fp16.safetensors, which is not read)" in refusal(model)


def test_a_tokenizer_without_a_vocabulary_is_refused(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").unlink()
    assert "tokenizer has neither tokenizer.json nor spiece.model" in refusal(model)


def test_a_folder_that_is_not_there_yet_may_be_tried_again(tmp_path: Path) -> None:
    """A file system that is mounted late must not stop the service for good."""
    with pytest.raises(MissingModelError, match="is empty"):
        check_model_folder(tmp_path)
    with pytest.raises(MissingModelError, match="does not exist"):
        check_model_folder(tmp_path / "later")


# --- other models --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({"_class_name": "WanPipeline"}, "Wan T2V"),
        ({"_class_name": "WanVACEPipeline"}, "Wan VACE"),
        ({"_class_name": "WanAnimatePipeline"}, "Wan Animate"),
        ({"_class_name": "WanSpeechToVideoPipeline"}, "Wan S2V"),
        ({"_class_name": "FluxPipeline"}, "the pipeline FluxPipeline"),
        ({"_class_name": "WanPipeline", "transformer_2": ["x", "y"]}, "Wan2.2 T2V-A14B"),
    ],
)
def test_a_neighbour_model_is_named_even_without_our_components(
    model: Path, index: dict[str, object], named: str
) -> None:
    (model / "image_encoder" / "config.json").unlink()
    set_fields(model / "model_index.json", **index)
    message = refusal(model)
    assert named in message
    assert "expected Wan2.1 I2V or FLF2V" in message


def as_a14b(model: Path) -> None:
    shutil.copytree(model / "transformer", model / "transformer_2")
    for part in ("transformer", "transformer_2"):
        set_fields(model / part / "config.json", image_dim=None)
    for part in ("image_encoder", "image_processor"):
        shutil.rmtree(model / part)
    index = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.9}
    set_fields(model / "model_index.json", **index)


def as_ti2v(model: Path) -> None:
    for part in ("image_encoder", "image_processor"):
        shutil.rmtree(model / part)
    channels = {"in_channels": 48, "out_channels": 48, "image_dim": None}
    set_fields(model / "transformer" / "config.json", **channels)
    set_fields(model / "vae" / "config.json", z_dim=48, is_residual=True, patch_size=2)
    index = {"_class_name": "WanPipeline", "expand_timesteps": True}
    set_fields(model / "model_index.json", transformer_2=[None, None], **index)


def as_flf2v(model: Path) -> None:
    set_fields(model / "transformer" / "config.json", pos_embed_seq_len=514)


@pytest.mark.parametrize(
    ("change", "family"),
    [
        (as_flf2v, "wan2.1-flf2v"),
        (as_a14b, "wan2.2-i2v-a14b"),
        (as_ti2v, "wan2.2-ti2v-5b"),
    ],
)
def test_a_family_is_recognised_by_its_content(
    model: Path, change: Callable[[Path], None], family: Family
) -> None:
    assert open_diffusers_folder(model).family == "wan2.1-i2v"
    change(model)
    files = open_diffusers_folder(model)
    assert files.family == family
    assert tuple(files.components) == WEIGHTED[family]
    assert (files.image_processor is None) == ("image_encoder" not in files.components)
    assert files.boundary_ratio == (0.9 if family == "wan2.2-i2v-a14b" else None)


@pytest.mark.parametrize(
    ("change", "part", "fields", "named"),
    [
        (as_a14b, "transformer_2", {"num_layers": 30}, "transformer_2 with num_layers 30"),
        (as_a14b, "transformer", {"image_dim": 1280}, "with an image branch"),
        (as_a14b, ".", {"boundary_ratio": None}, "boundary_ratio is None; expected a number"),
        (as_a14b, ".", {"boundary_ratio": 900}, "boundary_ratio is 900; expected a number"),
        (as_ti2v, "vae", {"is_residual": False}, "the VAE of another model"),
        (as_ti2v, "transformer", {"in_channels": 100}, "in_channels 100, where 48"),
    ],
)
def test_a_family_with_a_component_of_another_is_refused(
    model: Path,
    change: Callable[[Path], None],
    part: str,
    fields: dict[str, object],
    named: str,
) -> None:
    change(model)
    name = "model_index.json" if part == "." else f"{part}/config.json"
    set_fields(model / name, **fields)
    assert named in refusal(model)


def test_null_components_do_not_make_another_model(model: Path) -> None:
    set_fields(model / "model_index.json", transformer_2=[None, None], boundary_ratio=None)
    check_model_folder(model)


@pytest.mark.parametrize(
    ("part", "fields", "named"),
    [
        ("transformer", {"pos_embed_seq_len": 257}, "pos_embed_seq_len 257, where 514"),
        ("transformer", {"image_dim": None}, "without an image branch"),
        ("transformer", {"in_channels": 16}, "in_channels 16, where 36 .* need"),
        ("transformer", {"_class_name": "WanVACETransformer3DModel"}, "WanVACETransformer3DModel"),
        ("vae", {"is_residual": True}, r"the VAE of Wan2\.2 TI2V-5B"),
        ("vae", {"z_dim": 48}, "z_dim 48"),
        ("text_encoder", {"model_type": "t5"}, "'t5', where 'umt5' was expected"),
        ("text_encoder", {"d_model": 768}, "d_model 768, where 4096"),
        ("image_encoder", {"hidden_size": 768}, "hidden_size 768, where 1280"),
    ],
)
def test_a_component_of_another_model_is_named(
    model: Path, part: str, fields: dict[str, object], named: str
) -> None:
    set_fields(model / part / "config.json", **fields)
    assert re.search(named, message := refusal(model)), message


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}, "CLIPTokenizer"),
        (
            "image_processor/preprocessor_config.json",
            {"image_processor_type": "ViTImageProcessor"},
            "is of a ViTImageProcessor",
        ),
        ("image_processor/preprocessor_config.json", {"crop_size": 336}, "crop_size is 336"),
    ],
)
def test_a_part_without_weights_of_another_model_is_named(
    model: Path, name: str, fields: dict[str, object], message: str
) -> None:
    set_fields(model / name, **fields)
    assert message in refusal(model)


def test_a_model_that_predicts_noise_is_refused(model: Path) -> None:
    config = model / "scheduler" / "scheduler_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"prediction_type": "epsilon"}))
    assert "prediction_type is 'epsilon'; expected a model trained for flow" in refusal(model)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config.json": {"_class_name": "WanModel", "model_type": "i2v"}}, "folder of Wan I2V"),
        ({"config.json": {"_class_name": "WanModel", "model_type": "t2v"}}, "folder of Wan T2V"),
        ({"config.json": {"_class_name": "VaceWanModel", "model_type": "vace"}}, "Wan VACE"),
        ({"config.json": {"_class_name": "WanModel_S2V"}}, "Wan S2V"),
        ({"high_noise_model/config.json": {}}, "original folder of Wan2.2 A14B"),
        ({"config.json": {"_class_name": "WanTransformer3DModel"}}, "is a single component"),
        ({"snapshots/abc/model_index.json": {}}, "a folder of the Hub's cache"),
        ({"wan2.1_i2v_720p_14B_fp8_scaled.safetensors": {}}, "holds single files such as wan2.1"),
        ({"modular_model_index.json": {}}, "is a modular pipeline"),
        ({"README.md": {}}, "has no model_index.json"),
    ],
)
def test_a_folder_in_another_layout_is_named(
    tmp_path: Path, files: dict[str, object], named: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    message = refusal(tmp_path)
    assert named in message
    assert "expected Wan2.1 I2V or FLF2V" in message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("\ufeff{}".encode(), "Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "can't decode"),
        (b"[]", "does not contain a JSON object"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_config_that_the_libraries_cannot_read_is_named(
    model: Path, content: bytes, what: str
) -> None:
    path = model / "vae" / "config.json"
    path.write_bytes(content)
    message = refusal(model)
    assert str(path) in message
    assert what in message
