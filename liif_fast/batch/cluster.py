"""A plan on Ray: actors that hold the model, on one machine or a cluster that shares a disk."""

from __future__ import annotations

import logging
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from liif_fast.batch.boxes import Gathering
from liif_fast.batch.conversion import Converter, Settings
from liif_fast.batch.manifest import Manifest
from liif_fast.batch.plan import Item
from liif_fast.batch.runner import Outcome, Runner
from liif_fast.errors import LiifError, UsageError

CORES = 4  # processor cores of an actor without a GPU, where a machine has so many
AT_ONCE = 3  # pictures in one actor: one is read, one computed, one written
ATTEMPTS = 3  # an item during which the actor was killed so often is given up
# Asked for before Ray is imported: no statistics sent, no warnings about GPUs that are not given to an actor.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
OBJECTS = 100 * 2**20  # bytes of memory that a Ray of our own has for objects: pictures do not go through it


class Orders(NamedTuple):
    """What every actor is told. folder, run, resume: of its `Manifest`; cwd: what relative names start from."""

    settings: Settings
    folder: Path
    run: str
    resume: bool
    overwrite: bool
    cwd: str


class Actor:
    """Makes items, with a model loaded once and a record file of its own; called from several threads."""

    def __init__(self, orders: Orders) -> None:
        self.outcomes = threading.local()
        self.error = ""
        logging.getLogger("PIL").addHandler(logging.NullHandler())
        try:
            os.chdir(orders.cwd)
            self.manifest = Manifest(orders.folder, orders.settings.identity(), orders.run, everything=orders.resume)
            self.runner = Runner(Converter(orders.settings), self._keep, self.manifest, orders.overwrite)
        except LiifError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"{error.filename}: expected on every machine of the cluster: {error.strerror}"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """row: number of an item, and the item, pickled. Returns its number and its outcome, pickled."""
        return {"number": row["number"], "outcome": pickle.dumps(self.outcome(pickle.loads(row["item"])))}

    def outcome(self, item: Item) -> Outcome:
        """What became of the item."""
        error = self.error
        if not error and self.manifest.attempts(item) >= ATTEMPTS:
            error = f"its process was killed {ATTEMPTS} times; out of memory?"
        if error:
            return Outcome(item, error=f"{item.source}: {error}")
        self.runner.run([item])
        outcome: Outcome = self.outcomes.last
        return outcome

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes.last = outcome


def run(
    items: Sequence[Item],
    orders: Orders,
    report: Callable[[Outcome], None],
    address: str = "",
    cores: float | None = None,
) -> None:
    """Make the items with one actor for each GPU of the cluster, or for every so many cores where it has none.

    report: called with each picture's outcome as it comes, with those that failed at the end, in the plan's order.
    address: of a cluster; "" for that of the variable RAY_ADDRESS, else for Ray on this machine alone.
    cores: of each actor, less than 1 for several on a core; 4 by default.

    An item whose actor is killed goes to another, which goes by the record of what is done. Raises LiifError when Ray
    is missing or cannot be reached, and for a model that cannot be read or cannot do what is asked for.
    """
    orders.settings.check()
    orders.settings.load("cpu")
    manifest = Manifest(orders.folder, orders.settings.identity(), orders.run)
    if orders.resume:
        manifest.sweep()
    gathering = Gathering(items, report, manifest)
    failed = dict(enumerate(items))
    errors: dict[int, Outcome] = {}
    lost = "Ray lost it"
    try:
        with connected(address) as ray:
            try:
                for row in _dataset(ray, items, orders, cores).iter_rows() if items else ():
                    number = row["number"]
                    outcome = replace(pickle.loads(row["outcome"]), item=items[number])
                    if outcome.error is None:
                        del failed[number]
                        gathering(outcome)
                    else:
                        errors[number] = outcome
            except ray.exceptions.RayError as error:
                lost = f"Ray has ended with {type(error).__name__}"
        for number, item in failed.items():
            gathering(errors.get(number) or Outcome(item, error=f"{item.source}: {lost}; --resume goes on"))
    except KeyboardInterrupt:
        # The actors have had no time to clean up.
        manifest.sweep()
        raise
    finally:
        manifest.close()


def _dataset(ray: Any, items: Sequence[Item], orders: Orders, cores: float | None) -> Any:
    given = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    resources, actors = share_out(
        given, cores, gpus=orders.settings.device is None and orders.settings.backend != "cpu"
    )
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    actors = max(1, min(actors, len(items)))
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=actors,
        max_size=actors,
        max_tasks_in_flight_per_actor=AT_ONCE,
        max_concurrent_calls_per_actor=AT_ONCE,
        enable_true_multi_threading=True,
    )
    # A block for each item, so that what is done again is one item.
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor,
        fn_constructor_args=(orders,),
        compute=pool,
        **resources,
    )


def share_out(
    machines: Sequence[dict[str, float]], cores: float | None, gpus: bool = True
) -> tuple[dict[str, float], int]:
    """(what an actor needs, how many there can be) on machines with so many "CPU" and "GPU"."""
    most = max((machine.get("CPU", 0.0) for machine in machines), default=0.0)
    if gpus and any(machine.get("GPU", 0) >= 1 for machine in machines):
        resources = {"num_cpus": cores or 1.0, "num_gpus": 1.0}
    else:
        resources = {"num_cpus": cores or max(1.0, min(CORES, most)), "num_gpus": 0.0}
    if resources["num_cpus"] > most:
        raise UsageError(f"--ray-cores: expected at most the {most:g} cores of the largest machine, got {cores:g}")
    fit = [
        min(
            machine.get("CPU", 0.0) // resources["num_cpus"],
            machine.get("GPU", 0.0) // resources["num_gpus"] if resources["num_gpus"] else math.inf,
        )
        for machine in machines
    ]
    return resources, int(sum(fit))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, ready for work; what is started here is ended here."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LiifError(f"--ray needs Ray: pip install 'liif_fast[ray]' ({error})") from error
    own = not ray.is_initialized()
    if own:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {}
        if address == "local":
            options = {"include_dashboard": False, "object_store_memory": OBJECTS}
        try:
            with _hushed():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise LiifError(f"--ray: expected a cluster at {address!r}, got no connection: {reason}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        # Ray tells of killed processes on the standard output.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        if own:
            ray.shutdown()


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what Ray's own libraries print on the standard error away; what goes wrong there is raised as well."""
    before = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
