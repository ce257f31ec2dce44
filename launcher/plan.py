"""What is to run on this machine: the configs of broker, front and groups."""

from pathlib import Path

import msgspec
from msgspec import structs

from broker.config import BrokerConfig
from broker.dispatch.policy import DispatchPolicy
from broker.wire.job import GroupShape
from broker.wire.sockets import Addresses
from http_front.config import FrontConfig
from launcher.options import Options, Role
from launcher.preflight import Folders
from launcher.ray.ray_config import RayGroupsConfig
from ranks.config import DeviceKind, RankConfig


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the start has found out, and the configs that follow from it."""

    role: Role = "server"
    options: Options
    folders: Folders
    addresses: Addresses
    """Where the parts on this machine reach the broker."""
    listen: Addresses | None = None
    """Where those on other machines do, if any may."""
    machine: str = ""
    """Begins the names of groups that join a server elsewhere."""
    fleet_name: str | None = None
    """Marks the groups of this server in a Ray cluster; None where Ray starts none."""
    peer_keys: Path | None = None
    """Folder of the CURVE keys that those groups join with."""
    model: Path | None
    device: DeviceKind | None
    """What `--device` means on this machine; None where no groups run here."""
    num_heads: int | None
    """None where no groups run here."""
    pid: int
    ranks_module: str = "ranks"
    """What `python -m` runs as the ranks: a group without torch stands in where tests break it."""

    def broker(self, ready_fd: int, draining: bool) -> BrokerConfig:
        """Return the broker's config."""
        options, is_open = self.options, self.listen is not None
        return BrokerConfig(
            state_dir=str(self.folders.state),
            store=self.folders.store,
            addresses=self.addresses,
            listen=self.listen,
            groups=None if is_open else tuple(map(self.group_name, range(self.num_groups))),
            policy=DispatchPolicy(
                shape=None if is_open else self._shape(),
                max_queue=options.max_queue,
                job_ttl_s=options.job_ttl,
                step_limit_s=options.step_timeout,
                priority_step_s=options.priority_step,
            ),
            log_format=options.log_format,
            parent_pid=self.pid,
            ready_fd=ready_fd,
            draining=draining,
        )

    def front(self, ready_fd: int, listen_fd: int) -> FrontConfig:
        """Return the front's config."""
        options = self.options
        return FrontConfig(
            addresses=self.addresses,
            store=self.folders.store,
            work_dir=str(self.folders.work / "front"),
            store_downloads=options.store_downloads,
            makes_callbacks=True,
            listen_fd=listen_fd,
            host=options.host,
            port=options.port,
            allowed_hosts=options.allowed_hosts,
            cors_origins=options.cors_origins,
            api_keys=options.api_keys,
            image_hosts=options.image_hosts,
            allow_private_images=options.allow_private_images,
            realtime_front=options.realtime_front,
            log_format=options.log_format,
            parent_pid=self.pid,
            ready_fd=ready_fd,
        )

    def group(self, index: int, epoch: int) -> RankConfig:
        """Return the config of one life of a group."""
        options, ear = self.options, self.ear
        assert self.device is not None, "a server without groups has no devices"
        return RankConfig(
            group=self.group_name(index),
            epoch=epoch,
            world_size=options.nproc,
            model_path=str(self.model),
            device=self.device,
            first_device=index * options.nproc,
            addresses=self.addresses if ear is None else structs.replace(self.addresses, beats=ear),
            store=self.folders.store,
            work_dir=str(self.folders.work / f"g{index}"),
            checkpoint_steps=options.checkpoint_steps,
            rendezvous=str(self.folders.run / f"g{index}-{epoch}.rendezvous"),
            cfg_size=options.cfg_size,
            ulysses_size=options.ulysses_size,
            dit_fsdp=options.dit_fsdp,
            t5_fsdp=options.t5_fsdp,
            vae_parallel=options.vae_parallel,
            log_format=options.log_format,
            parent_pid=self.pid,
        )

    def fleet(self, ready_fd: int) -> RayGroupsConfig:
        """Return the config of the process that has Ray place the groups."""
        options, is_demo = self.options, self.options.demo
        assert self.fleet_name is not None, "Ray starts no groups of this server"
        return RayGroupsConfig(
            server=self.fleet_name,
            num_groups=options.groups,
            group=structs.replace(
                options,
                engine="local",
                groups=1,
                listen=None,
                join=options.listen,
                curve_keys=None,
                api_keys=None,
                # On every node these are where they are here.
                store=self.folders.store,
                model_path=options.model_path
                if is_demo
                else str(Path(options.model_path).resolve()),
            ),
            peer_keys=None if self.peer_keys is None else str(self.peer_keys),
            groups_address=self.addresses.groups,
            parent_pid=self.pid,
            ready_fd=ready_fd,
        )

    @property
    def ear(self) -> str | None:
        """Where the launcher takes the beats of its ranks, to pass them on to another machine."""
        return Addresses.in_folder(self.folders.run).beats if self.role == "group" else None

    def group_name(self, index: int) -> str:
        """Return the name of a group, which no other group of the server has."""
        return f"{self.machine}-g{index}" if self.machine else f"g{index}"

    @property
    def num_groups(self) -> int:
        """How many groups run here."""
        return 0 if self.role == "front" or self.fleet_name else self.options.groups

    def _shape(self) -> GroupShape:
        assert self.num_heads is not None, "a server without groups has no shape"
        return GroupShape(
            world_size=self.options.nproc,
            num_heads=self.num_heads,
            cfg_size=self.options.cfg_size,
            ulysses_size=self.options.ulysses_size,
        )
