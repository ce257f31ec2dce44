"""What runs on this machine: the configs of broker, front and groups."""

from itertools import islice
from pathlib import Path

import msgspec
from msgspec import structs

from broker.config import BrokerConfig
from broker.dispatch.policy import DispatchPolicy
from broker.wire.group_shape import GroupShape
from broker.wire.sockets import Addresses
from http_front.config import FrontConfig
from launcher.lora_options import absolute
from launcher.model_check import CheckedModel, transformer_files
from launcher.options import Options, Role
from launcher.preflight import Folders
from launcher.ray.ray_config import RayGroupsConfig
from launcher.served_models import ServedModel
from ranks.config import DeviceKind, RankConfig


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks before a start have found, and the configs of each process."""

    role: Role = "server"
    options: Options
    folders: Folders
    addresses: Addresses
    """Where the processes on this machine reach the broker."""
    listen: Addresses | None = None
    """Where other machines reach the broker; None if none may join."""
    machine: str = ""
    """Prefix of the group names when they join a server elsewhere; else empty."""
    ray_name: str | None = None
    """Identifies this server's groups in a Ray cluster; None unless Ray places them."""
    peer_keys: Path | None = None
    """Folder of the CURVE keys of the groups that Ray places."""
    models: tuple[CheckedModel, ...] = ()
    """Those of the groups that run here."""
    device: DeviceKind | None
    """None if no group runs here."""
    more_listen_fds: tuple[int, ...] = ()
    """The front's listening sockets besides the first, if its host has several addresses."""
    pid: int
    """The launcher's."""

    def broker_config(self, ready_fd: int, draining: bool) -> BrokerConfig:
        options, is_open = self.options, self.listen is not None
        return BrokerConfig(
            state_dir=str(self.folders.state),
            store=self.folders.store,
            min_free_bytes=round(options.min_free_space * 2**30),
            addresses=self.addresses,
            listen=self.listen,
            groups=None if is_open else tuple(map(self.group_name, range(self.num_groups))),
            policy=DispatchPolicy(
                shapes=tuple(map(self._shape, self.models)),
                is_open=is_open,
                default_model=self._default_model(),
                max_queue=options.max_queue,
                job_ttl_s=options.job_ttl,
                keep_limit=options.keep_limit,
                step_limit_s=options.step_timeout,
                priority_step_s=options.priority_step,
            ),
            log_format=options.log_format,
            parent_pid=self.pid,
            ready_fd=ready_fd,
            draining=draining,
        )

    def front_config(self, ready_fd: int, listen_fd: int) -> FrontConfig:
        options = self.options
        return FrontConfig(
            addresses=self.addresses,
            store=self.folders.store,
            work_dir=str(self.folders.work / "front"),
            store_downloads=options.store_downloads,
            makes_callbacks=True,
            listen_fd=listen_fd,
            more_listen_fds=self.more_listen_fds,
            host=options.host,
            port=options.port,
            allowed_hosts=options.allowed_hosts,
            cors_origins=options.cors_origins,
            api_keys=options.api_keys,
            min_prompt_chars=options.min_prompt_chars,
            max_prompt_chars=options.max_prompt_chars,
            image_hosts=options.image_hosts,
            allow_private_images=options.allow_private_images,
            allow_private_callbacks=options.allow_private_callbacks,
            realtime_front=options.realtime_front,
            log_format=options.log_format,
            access_log=options.access_log,
            parent_pid=self.pid,
            ready_fd=ready_fd,
        )

    def group_config(self, index: int, epoch: int) -> RankConfig:
        options, addresses = self.options, self.addresses
        assert self.device is not None, "no group runs on this machine"
        model = self._model_of(index)
        if self.relay_address is not None:
            addresses = structs.replace(addresses, beats=self.relay_address)
        return RankConfig(
            group=self.group_name(index),
            epoch=epoch,
            world_size=options.nproc,
            model_path=str(model.place),
            model_name=model.profile.name,
            transformers=tuple(map(str, model.transformers)),
            is_distilled=model.profile.is_distilled,
            quantize=options.quantize,
            quantize_skip=options.quantize_skip,
            attention=options.attention,
            vae_dtype=options.vae_dtype,
            loras=model.loras,
            merged_loras=model.merged_loras,
            device=self.device,
            first_device=index * options.nproc,
            addresses=addresses,
            store=self.folders.store,
            work_dir=str(self.folders.work / f"g{index}"),
            checkpoint_steps=options.checkpoint_steps,
            rendezvous=str(self.folders.run / f"g{index}-{epoch}.rendezvous"),
            cfg_size=options.cfg_size,
            ulysses_size=options.ulysses_size,
            dit_fsdp=options.dit_fsdp,
            t5_fsdp=options.t5_fsdp,
            vae_parallel=options.vae_parallel,
            offload=options.offload,
            log_format=options.log_format,
            parent_pid=self.pid,
        )

    def ray_groups_config(self, ready_fd: int) -> RayGroupsConfig:
        options = self.options
        assert self.ray_name is not None, "Ray places no groups of this server"
        return RayGroupsConfig(
            server=self.ray_name,
            models=tuple(map(_resolved, options.models)),
            group=structs.replace(
                options,
                engine="local",
                groups=1,
                listen=None,
                join=options.listen,
                curve_keys=None,
                api_keys=None,
                # Absolute paths: they must be the same on every node.
                store=self.folders.store,
                transformer=tuple(map(str, transformer_files(options))),
                lora=tuple(map(absolute, options.lora)),
                loras=None if options.loras is None else str(Path(options.loras).resolve()),
            ),
            peer_keys=None if self.peer_keys is None else str(self.peer_keys),
            groups_address=self.addresses.groups,
            parent_pid=self.pid,
            ready_fd=ready_fd,
        )

    @property
    def relay_address(self) -> str | None:
        """Where ranks publish heartbeats to a relay; None if they reach the broker directly."""
        return Addresses.in_folder(self.folders.run).beats if self.role == "group" else None

    def group_name(self, index: int) -> str:
        # Unique among all groups of the server.
        return f"{self.machine}-g{index}" if self.machine else f"g{index}"

    @property
    def num_groups(self) -> int:
        return 0 if self.role == "front" or self.ray_name else self.options.num_groups

    def _model_of(self, index: int) -> CheckedModel:
        groups = (model for model in self.models for _ in range(model.num_groups))
        return next(islice(groups, index, None))

    def _default_model(self) -> str | None:
        """Return the default model's name; None if it is the first one that joins."""
        first = self.options.models[0]
        return self.options.default_model or (first.name if first.num_groups else None)

    def _shape(self, model: CheckedModel) -> GroupShape:
        return GroupShape(
            world_size=self.options.nproc,
            num_heads=model.num_heads,
            model=model.profile,
            cfg_size=self.options.cfg_size,
            ulysses_size=self.options.ulysses_size,
        )


def _resolved(model: ServedModel) -> ServedModel:
    # An absolute path: it must be the same on every node.
    return structs.replace(model, path=str(Path(model.path).resolve())) if model.path else model
