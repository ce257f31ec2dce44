"""From a command to a plan: check everything, and acquire what is exclusive, before any start."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from broker.wire.sockets import Addresses
from launcher.command_line import Command
from launcher.joining import check_files, check_store, machine_name, tcp_addresses, try_listening
from launcher.model_check import CheckedModel, check_8bit, check_attention, check_models
from launcher.options import Options
from launcher.plan import Plan
from launcher.preflight import (
    Folders,
    check_access,
    check_device,
    check_environment,
    check_realtime_front,
    listen,
    lock_state,
    prepare_folders,
    prepare_run,
)
from launcher.ray.ray_check import check_cluster, peer_keys


@contextmanager
def prepared(command: Command) -> Iterator[tuple[Plan, socket.socket | None]]:
    """Yield the plan and the front's listening socket, while holding the state directory's lock.

    Raises:
        StartError: If the command cannot be carried out on this machine.
    """
    options = command.options
    if command.has_front:
        check_access(options)
        check_realtime_front(options)
    folders = Folders.under(options.state_dir, options.store)
    with ExitStack() as held:
        addresses = _broker_addresses(options, folders)
        held.callback(os.close, lock_state(folders))
        # Files of an earlier server are of no use.
        shutil.rmtree(folders.work, ignore_errors=True)
        _try_store(options, addresses, folders)
        listen_addresses = _listen_addresses(options)
        if command.has_ray_groups:
            check_cluster(options, folders)
        listeners = listen(options) if command.has_front else []
        for listener in listeners:
            held.enter_context(listener)
        device = None
        models: tuple[CheckedModel, ...] = ()
        if command.has_groups:
            check_environment()
            device = check_device(options)
            check_attention(options)
            models = check_models(options, folders)
            check_8bit(options, models)
        plan = Plan(
            role=command.role,
            options=options,
            folders=folders,
            addresses=addresses,
            listen=listen_addresses,
            machine="" if options.join is None else options.name or machine_name(folders),
            ray_name=machine_name(folders) if command.has_ray_groups else None,
            peer_keys=peer_keys(options) if command.has_ray_groups else None,
            models=models,
            device=device,
            more_listen_fds=tuple(listener.fileno() for listener in listeners[1:]),
            pid=os.getpid(),
        )
        yield plan, listeners[0] if listeners else None


def _broker_addresses(options: Options, folders: Folders) -> Addresses:
    if options.join is None:
        return prepare_folders(folders)
    addresses = tcp_addresses("--join", options.join, options.curve_keys)
    prepare_run(folders)
    return addresses


def _try_store(options: Options, addresses: Addresses, folders: Folders) -> None:
    if options.join is None:
        check_store(folders)
    else:
        check_files(addresses, folders)


def _listen_addresses(options: Options) -> Addresses | None:
    if options.listen is None:
        return None
    addresses = tcp_addresses("--listen", options.listen, options.curve_keys)
    try_listening(addresses)
    return addresses
