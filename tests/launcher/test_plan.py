from pathlib import Path

import pytest
from msgspec import structs

from broker.wire.model_profile import ModelProfile
from launcher.model_check import CheckedModel
from launcher.options import Options
from launcher.plan import Plan
from launcher.preflight import Folders, prepare_folders
from ranks.config import DeviceKind


def make_plan(folder: Path, options: Options, machine: str = "") -> Plan:
    folders = Folders.under(str(folder))
    return Plan(
        options=options,
        folders=folders,
        addresses=prepare_folders(folders),
        machine=machine,
        models=tuple(
            CheckedModel(
                place=Path(model.path),
                profile=ModelProfile(name=model.name),
                num_heads=40,
                num_groups=model.num_groups,
            )
            for model in options.models
        ),
        device="cpu",
        pid=1,
    )


def test_each_group_of_a_machine_has_its_own_devices(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, Options(groups=3, nproc=8))
    configs = [plan.group_config(index, epoch=1) for index in range(plan.num_groups)]
    assert [config.first_device for config in configs] == [0, 8, 16]
    assert [config.group for config in configs] == ["g0", "g1", "g2"]
    assert len({config.rendezvous for config in configs}) == 3


@pytest.mark.parametrize(
    ("device", "wanted", "is_split"),
    [("npu", None, True), ("cpu", None, False), ("cuda", False, False), ("cpu", True, True)],
)
def test_the_vae_is_split_over_accelerators_unless_an_option_says_otherwise(
    tmp_path: Path, device: DeviceKind, wanted: bool | None, is_split: bool
) -> None:
    plan = make_plan(tmp_path, Options(nproc=8, vae_parallel=wanted))
    config = structs.replace(plan, device=device).group_config(0, epoch=1)
    assert config.splits_vae is is_split


def test_only_a_server_without_listen_knows_all_its_groups(tmp_path: Path) -> None:
    closed = make_plan(tmp_path, Options(groups=2))
    config = closed.broker_config(ready_fd=0, draining=False)
    assert config.groups == ("g0", "g1")
    assert not config.policy.is_open
    config = structs.replace(closed, listen=closed.addresses).broker_config(
        ready_fd=0, draining=False
    )
    assert config.groups is None
    assert config.policy.is_open


def test_a_group_that_joins_is_named_after_its_machine(tmp_path: Path) -> None:
    assert make_plan(tmp_path, Options(), "node7-3fa2").group_config(0, 1).group == "node7-3fa2-g0"


def test_a_group_on_ray_gets_all_options_that_its_node_does_not_know(tmp_path: Path) -> None:
    options = Options(
        engine="ray",
        groups=3,
        nproc=4,
        listen="tcp://127.0.0.1:5570",
        model_path=("model", "more/Wan2___2"),
        checkpoint_steps=2,
        api_keys="keys.json",
    )
    plan = structs.replace(make_plan(tmp_path, options), ray_name="here-1")
    assert plan.num_groups == 0
    config = plan.ray_groups_config(ready_fd=0)
    assert (config.server, config.peer_keys) == ("here-1", None)
    group = config.group
    assert (group.engine, group.groups, group.nproc, group.checkpoint_steps) == ("local", 1, 4, 2)
    assert (group.join, group.listen, group.api_keys) == (options.listen, None, None)
    assert group.store == str(tmp_path)
    models = [model.as_options()["model"] for model in config.models]
    paths = [Path(path).resolve() for path in options.model_path]
    assert models == [(f"model={paths[0]}@1",), (f"Wan2.2={paths[1]}@1",)]
    files = Options(engine="ray", listen=options.listen, transformer=("high", "low"))
    resolved = tuple(str(Path(name).resolve()) for name in files.transformer)
    group = structs.replace(plan, options=files).ray_groups_config(ready_fd=0).group
    assert group.transformer == resolved
    demo = structs.replace(plan, options=Options(engine="ray", listen=options.listen, demo=True))
    assert demo.ray_groups_config(ready_fd=0).models[0].as_options()["demo"]


def test_each_group_gets_the_model_that_the_options_give_it(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, Options(model=("cat=/m/a@2", "dog=/m/b"), default_model="dog"))
    configs = [plan.group_config(index, epoch=1) for index in range(plan.num_groups)]
    found = [(config.model_name, config.model_path) for config in configs]
    assert found == [("cat", "/m/a"), ("cat", "/m/a"), ("dog", "/m/b")]
    policy = plan.broker_config(ready_fd=0, draining=False).policy
    assert [shape.model.name for shape in policy.shapes] == ["cat", "dog"]
    assert policy.default_model == "dog"


def test_a_group_that_ray_places_is_told_that_its_model_is_distilled(tmp_path: Path) -> None:
    options = Options(
        engine="ray",
        listen="tcp://127.0.0.1:5570",
        model=("cat=/m/a", "dog=/m/b"),
        distilled=("dog",),
    )
    plan = structs.replace(make_plan(tmp_path, options), ray_name="here-1")
    config = plan.ray_groups_config(ready_fd=0)
    placed = [structs.replace(config.group, **model.as_options()) for model in config.models]
    assert [model.is_distilled for options in placed for model in options.models] == [False, True]


def test_a_server_without_groups_takes_the_first_model_that_joins(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, Options(groups=0, listen="tcp://127.0.0.1:5570"))
    assert plan.broker_config(ready_fd=0, draining=False).policy.default_model is None
