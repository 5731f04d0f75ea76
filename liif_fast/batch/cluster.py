"""Making a plan on Ray: actors that hold the model, on one machine or on a cluster that shares a disk."""

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
from liif_fast.errors import LiifError, UsageError, one_line

CORES = 4  # processor cores of an actor without a GPU, where a machine has that many
AT_ONCE = 3  # pictures in one actor: one is being read, one computed, one written
ATTEMPTS = 3  # an item whose actor was killed this often is given up
# Set before Ray is imported: send no statistics, and do not warn about GPUs that no actor gets.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
OBJECTS = 100 * 2**20  # bytes of object memory of a Ray that is started here: no picture goes through it


class Orders(NamedTuple):
    """What every actor gets. folder, run, resume: those of its `Manifest`; cwd: the folder of relative names."""

    settings: Settings
    folder: Path
    run: str
    resume: bool
    overwrite: bool
    cwd: str


class Actor:
    """Makes items with a model that is loaded once and a manifest file of its own; several threads call it."""

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
        """Make the item of a row (its number, and the item pickled); return the number and the pickled outcome."""
        return {"number": row["number"], "outcome": pickle.dumps(self.outcome(pickle.loads(row["item"])))}

    def outcome(self, item: Item) -> Outcome:
        """Make the item and return its outcome."""
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
    """Make the items with one actor for each GPU of the cluster, or for every `cores` cores where it has no GPU.

    report: called with each picture's outcome as it comes; failures come last, in the plan's order. address: that of
    a cluster; "" for the variable RAY_ADDRESS, else for a Ray on this machine only. cores: those of each actor, below
    1 for several actors on a core; 4 by default.

    An item whose actor is killed goes to another actor, which consults the manifest. Raises LiifError when Ray is
    missing or cannot be reached, and for a model that cannot be read or cannot do what the settings ask for.
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
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    resources, actors = share_out(
        machines, cores, gpus=orders.settings.device is None and orders.settings.backend != "cpu"
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
    # One block for each item, so that only one item is done again after a failure.
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor,
        fn_constructor_args=(orders,),
        compute=pool,
        **resources,
    )


def share_out(
    machines: Sequence[dict[str, float]], cores: float | None, gpus: bool = True
) -> tuple[dict[str, float], int]:
    """Return (resources of an actor, number of actors) for machines with these numbers of "CPU" and "GPU"."""
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
    """Yield Ray, connected; a Ray that is started here is shut down at the end."""
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
            raise LiifError(
                f"--ray: expected a cluster at {address!r}, got no connection: {one_line(error)}"
            ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        # Ray reports killed processes on the standard output.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        if own:
            ray.shutdown()


@contextmanager
def _hushed() -> Iterator[None]:
    """Discard what Ray's libraries print on the standard error; what goes wrong there is raised as well."""
    before = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
