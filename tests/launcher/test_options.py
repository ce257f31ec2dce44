import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from launcher.command_line import parse_command, to_toml
from launcher.option_help import GROUP_OF
from launcher.options import DEFAULT_MODEL, Options, OptionsError


def test_a_flag_wins_over_environment_file_and_default(tmp_path: Path) -> None:
    file = tmp_path / "wan.toml"
    file.write_text("nproc = 2\nport = 1\nmax_queue = 7\n")
    flags = ["--config", str(file), "--nproc", "8"]
    options = parse_command(flags, {"WAN_NPROC": "4", "WAN_PORT": "3"}).options
    assert (options.nproc, options.port, options.max_queue) == (8, 3, 7)
    assert options.job_ttl == 7 * 86_400.0


def test_what_kubernetes_says_of_a_service_called_wan_is_no_port() -> None:
    options = parse_command([], {"WAN_PORT": "tcp://10.96.12.7:80"}).options
    assert options.port == 8088


def test_switches_can_be_turned_on_and_off() -> None:
    assert parse_command(["--dit-fsdp"], {}).options.dit_fsdp
    assert not parse_command(["--no-dit-fsdp"], {"WAN_DIT_FSDP": "true"}).options.dit_fsdp


@pytest.mark.parametrize(
    ("argv", "environ", "chosen"),
    [
        ([], {}, None),
        (["--vae-parallel"], {}, True),
        (["--no-vae-parallel"], {}, False),
        ([], {"WAN_VAE_PARALLEL": "false"}, False),
    ],
)
def test_the_switch_of_the_split_vae_may_be_left_out(
    argv: list[str], environ: dict[str, str], chosen: bool | None
) -> None:
    assert parse_command(argv, environ).options.vae_parallel is chosen


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--nproc", "0"], {}, "--nproc is '0': expected `int` >= 1"),
        (["--device", "tpu"], {}, "--device is 'tpu': it must be one of auto, npu, cuda, cpu"),
        (["--log-format", "xml"], {}, "--log-format is 'xml': it must be one of text, json"),
        ([], {"WAN_PORT": "x"}, "--port is 'x': expected `int`, got `str`"),
        (["--config", "/nowhere.toml"], {}, "--config /nowhere.toml: No such file or directory"),
        (
            ["--job-ttl", "9999999d"],
            {},
            "--job-ttl is '9999999d': expected `float` <= 3155760000.0",
        ),
        (["--job-ttl", "7w"], {}, "--job-ttl is '7w': expected seconds, or numbers with s, m, h"),
        (["--config", sys.executable], {}, "is not in UTF-8"),
        (["--cors-origins", "https://e.example/x"], {}, "'https://e.example/x'; an origin is a"),
        (["--max-prompt-chars", "9"], {}, "min_prompt_chars is 10; it must not be more than"),
        (["--demo", "--model-path", "m"], {}, "demo and model_path exclude each other"),
        (["--demo", "--model", "m"], {}, "demo and model exclude each other"),
        (["--transformer", "a,b,c"], {}, "--transformer is 'a,b,c': expected `array` of length"),
        (["--model-path", "a,b", "--transformer", "c"], {}, "is the file of one model, but the s"),
        (["--demo=wan9"], {}, "--demo is 'wan9': it must be one of wan2.1-i2v, wan2.1-flf2v"),
        (["--demo=wan2.1-i2v:pth"], {}, "wan2.2-ti2v-5b, wan2.1-i2v:original, "),
        (["--model", "m", "--model-path", "n"], {}, "model and model_path exclude each other"),
        (["--model", "a=m@2", "--groups", "3"], {}, "groups is 3, but --model asks for 2"),
        (["--model", "a b=m"], {}, "model has 'a b=m'; expected NAME=PATH@GROUPS"),
        (["--model", "a=m@0"], {}, "the number of groups must be from 1 to 1024"),
        (["--model", "a=m,a=n"], {}, "two models are called a; give each its own name"),
        (["--model-path", "x/m,y/m"], {}, "two models are called m; give each its own name"),
        (["--model", "a=m", "--default-model", "b"], {}, "default_model is b; the server has a"),
        (["--model", "a=m", "--distilled", "b"], {}, "distilled has b; this machine serves a"),
        (["--quantize", "fp4"], {}, "--quantize is 'fp4': it must be one of fp8, int8"),
        (["--quantize-skip", "2"], {}, "quantize_skip says what quantize leaves out; give quant"),
        (["--groups", "0"], {}, "groups is 0, so listen is needed: without it no group can join"),
        (["--nproc", "2", "--ulysses-size", "3"], {}, "cfg_size 1 times ulysses_size 3 does not"),
        (["--cfg-size", "2", "--ulysses-size", "8"], {}, "ulysses_size 8 does not divide nproc 8"),
        (["--nproc", "1", "--offload", "disk"], {}, "--offload is 'disk': expected `str` matching"),
        (["--offload", "blocks"], {}, "offload is blocks, which is for one rank, and nproc is 8"),
        (["--offload", "encoders", "--t5-fsdp"], {}, "t5_fsdp would share it: choose one of them"),
        (["group"], {}, "launch.py group needs --join tcp://HOST:PORT"),
        (["front", "--groups", "1"], {}, "launch.py front needs --join tcp://HOST:PORT"),
        (["--join", "tcp://a:1"], {}, "--join is for `launch.py group` and `launch.py front`"),
        (["--engine", "ray"], {}, "engine is ray, so listen is needed"),
        (["--ray-address", "ray://a:1"], {}, "it must be HOST:PORT of a cluster"),
        (["--name", "a/b"], {}, "--name is 'a/b': expected `str` matching regex"),
        (
            ["group", "--join", "tcp://a:1", "--engine", "ray"],
            {},
            "engine is ray, so listen is needed",
        ),
        (["group", "--join", "tcp://a:1", "--listen", "tcp://b:1"], {}, "--listen is for a server"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(
    argv: list[str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(OptionsError) as raised:
        parse_command(argv, environ)
    assert message in str(raised.value)


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wan.toml"
    file.write_text("nprocs = 8\n")
    with pytest.raises(OptionsError, match=r"--config .*/wan\.toml: unknown option nprocs"):
        parse_command(["--config", str(file)], {})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "wan.toml"
    file.write_text("# 选项\r\nnproc = 4\r\n", encoding="utf-8-sig")
    assert parse_command(["--config", str(file)], {}).options.nproc == 4


@pytest.mark.parametrize("encoding", ["utf-16", "gbk"])
def test_a_file_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "wan.toml"
    file.write_text("# 选项\nnproc = 4\n", encoding=encoding)
    with pytest.raises(OptionsError, match=r"wan\.toml is not in UTF-8; save it as UTF-8"):
        parse_command(["--config", str(file)], {})


def test_printed_options_are_a_file_that_means_the_same() -> None:
    options = Options(
        state_dir='a "quoted" folder',
        ulysses_size=4,
        demo=True,
        image_hosts=("a.example", ".b.example"),
    )
    assert msgspec.convert(tomllib.loads(to_toml(options)), Options) == options


def test_a_list_is_separated_by_commas_or_a_list_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "wan.toml"
    file.write_text('allowed_hosts = ["a.example", "b.example"]\n')
    flags = ["--config", str(file), "--image-hosts", "c.example, .d.example"]
    options = parse_command(flags, {"WAN_CORS_ORIGINS": "https://e.example"}).options
    assert options.allowed_hosts == ("a.example", "b.example")
    assert options.image_hosts == ("c.example", ".d.example")
    assert options.cors_origins == ("https://e.example",)


@pytest.mark.parametrize(
    ("argv", "environ", "models"),
    [
        ([], {}, [("Wan2.1-I2V-14B-720P-Diffusers", DEFAULT_MODEL, None, 1)]),
        (
            ["--model-path", "m/Wan2___2 I2V", "--model-path", "n/", "--groups", "2"],
            {},
            [("Wan2.2-I2V", "m/Wan2___2 I2V", None, 2), ("n", "n/", None, 2)],
        ),
        ([], {"WAN_MODEL": "a=/m@x/b@2, c"}, [("a", "/m@x/b", None, 2), ("c", "c", None, 1)]),
        (["--model", "/m=1/b"], {}, [("b", "/m=1/b", None, 1)]),
        (["--demo", "group", "--join", "tcp://a:1"], {}, [("demo", "", "wan2.1-i2v", 1)]),
        (
            ["--no-demo"],
            {"WAN_DEMO": "true"},
            [("Wan2.1-I2V-14B-720P-Diffusers", DEFAULT_MODEL, None, 1)],
        ),
        (
            ["--demo=wan2.1-i2v,wan2.2-ti2v-5b:original"],
            {},
            [
                ("wan2.1-i2v", "", "wan2.1-i2v", 1),
                ("wan2.2-ti2v-5b-original", "", "wan2.2-ti2v-5b:original", 1),
            ],
        ),
    ],
)
def test_the_options_name_the_models_and_their_groups(
    argv: list[str], environ: dict[str, str], models: list[tuple[str, str, str | None, int]]
) -> None:
    options = parse_command(argv, environ).options
    found = [(one.name, one.path, one.demo, one.num_groups) for one in options.models]
    assert found == models
    assert msgspec.convert(tomllib.loads(to_toml(options)), Options).models == options.models


def test_a_model_that_joins_may_be_the_default_one() -> None:
    argv = ["--listen", "tcp://127.0.0.1:5570", "--default-model", "far"]
    assert parse_command(argv, {}).options.default_model == "far"


def test_an_empty_variable_is_an_empty_list() -> None:
    assert parse_command([], {"WAN_ALLOWED_HOSTS": ""}).options.allowed_hosts == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-que", "5"], "unknown option --max-que, did you mean --max-queue.; see launch.py"),
        (["--modelpath=x"], "unknown option --modelpath, did you mean --model-path"),
        (["--max-queue"], "argument --max-queue: expected one argument; see launch.py --help"),
        (["--xyzzy"], "unknown option --xyzzy; see launch.py --help"),
        (["gruop"], "invalid choice: 'gruop'"),
    ],
)
def test_a_mistyped_option_is_named_with_the_one_that_was_meant(
    argv: list[str], message: str
) -> None:
    with pytest.raises(OptionsError, match=message):
        parse_command(argv, {})


def test_a_mistyped_key_of_the_file_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    file = tmp_path / "wan.toml"
    file.write_text("max_que = 7\n")
    with pytest.raises(OptionsError, match=r"unknown option max_que; did you mean max_queue\?"):
        parse_command(["--config", str(file)], {})


def test_variables_that_set_nothing_are_told() -> None:
    environ = {
        "WAN_MAX_QUEU": "3",
        "WAN_XYZZY": "1",
        "WAN_PORT": "tcp://10.96.12.7:80",
        "WAN_PORT_80_TCP": "tcp://10.96.12.7:80",
        "WAN_SERVICE_HOST": "10.96.12.7",
        "WAN_SERVER": "http://a",
        "WAN_NPROC": "2",
    }
    assert parse_command([], environ).notes == (
        "WAN_MAX_QUEU is set, but sets nothing: did you mean WAN_MAX_QUEUE?",
        "WAN_PORT is tcp://10.96.12.7:80, which Kubernetes sets for a service called wan; it is "
        "ignored: set --port, or enableServiceLinks: false",
        "WAN_XYZZY is set, but sets nothing: no option has this name",
    )
    assert parse_command([], {"WAN_PORT": "80", "WAN_NPROC": "2"}).notes == ()


def test_the_help_has_groups_and_allowed_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse_command(["--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    titles = ("basic:", "model:", "parallel:", "limits:", "network:", "more machines:")
    assert [shown.index(title) for title in titles] == sorted(map(shown.index, titles))
    for part in ("--device auto|npu|cuda|cpu", "(1 to 64; default: 8)", "default: 7d)"):
        assert part in shown
    assert GROUP_OF.keys() <= set(Options.__struct_fields__)


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse_command(["--help"], {})
    shown = capsys.readouterr().out
    for field in structs.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in shown
