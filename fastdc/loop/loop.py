"""The loop that all methods share: network after network, step after step, images moved, checkpoints written.

With the method `dc` it is algorithm 1 of Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021. In its
symbols: S the synthetic images, T the real ones, K = iterations, T = matching_steps, D the distance, theta the weights of a network.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.coresets.kmeans import kmeans
from fastdc.coresets.random import random as random_coreset
from fastdc.data import ClassSampler, ImageData
from fastdc.data.image_data import per_channel
from fastdc.data.part import PartOfImages, part_of
from fastdc.engines import make_engine
from fastdc.engines.base import batch_norms
from fastdc.engines.gather_normalise import near
from fastdc.errors import Interrupted, RunError, UsageError
from fastdc.loop.checkpoint import Description, load_checkpoint, save_checkpoint
from fastdc.loop.config import CondenseConfig, as_plain, recipe_of
from fastdc.loop.events import Callback, CheckpointWritten, Ended, Evaluated, Event, IterationDone, Snapshot, SnapshotCallback, Started
from fastdc.loop.forecast import Forecast
from fastdc.loop.memory import BYTES, GRADIENTS, check_memory, parts_of
from fastdc.loop.statistics import Statistics
from fastdc.loop.thumbnails import fitting_set, kept_at, thumbnail
from fastdc.models.network import NetworkFamily
from fastdc.options.ipc import of_each_class
from fastdc.parallel.devices import HostCopy, memory_share, peak_memory
from fastdc.parallel.world import apart, world
from fastdc.recipe import AUGMENTATIONS, BATCHES, MATCHES, OPTIMIZERS, POOLS, SCHEDULES, ClassGroup, Problem, needs_whole_set
from fastdc.recipe.formation import fitted_formation
from fastdc.recipe.groups import class_groups
from fastdc.recipe.state import State
from fastdc.runs.folder import RunFolder
from fastdc.runs.progress import progress_bar
from fastdc.runs.signals import GRACE, StopRequest
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.runtime.versions import hardware, versions

_GROUP_MEMORY = 256  # MiB at most for the real images and the gradients of classes that are matched at once
_SURE_TO_END = GRACE / 4  # seconds of a step after which the next one ends within the time of grace, and needs no copy of the state


@dataclass(frozen=True)
class _Outcome:
    """What a matching step leaves to be looked at: on a GPU one step later, so that nobody waits for its numbers."""

    iteration: int  # from 1 on, as is the step
    step: int
    by_class: bool  # whether each class has a loss of its own
    checked: tuple[str, ...]  # what else was checked, beside the images of each class
    numbers: HostCopy  # the loss, then whether each of these is finite: the images of each class, what else was checked


class Condensation:
    """One run: the steps of a method, inside the paper's two loops, with its checkpoints."""

    def __init__(
        self,
        config: CondenseConfig,
        real: ImageData,
        family: NetworkFamily,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> None:
        self.config, self.real, self.family = config, real, family
        self.run: RunFolder | None = None
        self.world = world()
        self.callbacks, self.progress = callbacks if self.world.leads else (), progress and self.world.leads
        self.gives_snapshots = self.world.first(lambda: any(isinstance(callback, SnapshotCallback) for callback in callbacks))
        self.recipe = recipe = recipe_of(config)
        assert recipe.matching_steps is not None
        self.steps = recipe.matching_steps
        self.ipc = of_each_class(config.ipc, real.num_classes)
        self.engine = make_engine(config.engine, family.fresh(derive_seed(config.seed, "network", 0)), config.precision)
        self.formation = fitted_formation(recipe.formation, real)
        check_memory(parts_of(recipe, real, self.ipc, self.formation.images_each, self.engine.layout.size), family.device)
        self.optimizer = OPTIMIZERS.make(recipe.optimizer)
        self.augmentation = AUGMENTATIONS.make(recipe.augmentation, config.seed)
        whole = MATCHES.entry(recipe.match).needs_all_classes
        self.shared = self.world.size > 1 and not whole  # whether each process has what is stored of its own classes alone
        mine = self.world.share(real.num_classes) if self.shared else range(real.num_classes)
        start = self._initial_images(mine)
        if len(mine) < real.num_classes and not needs_whole_set(recipe) and not isinstance(real, PartOfImages):
            self.real = real = part_of(real, mine)
        self.sampler = ClassSampler(near(real, family.device), config.seed, device=family.device)
        self.batches = BATCHES.make(recipe.batches, self.sampler)
        problem = Problem(recipe, config.seed, self.engine, family, self.batches, self.augmentation, self._groups(mine), self.progress)
        self.match = MATCHES.make(recipe.match, problem)
        self.pool = POOLS.make(recipe.pool, problem)
        counts, running = real.class_counts.tolist(), self.match.running_statistics
        self.statistics = Statistics(self.engine, self.sampler, counts, running, self.pool.trained)
        self.groups = [ClassGroup.of(mine, family.device)] if whole else problem.groups
        labels = torch.arange(real.num_classes).repeat_interleave(torch.tensor(self.ipc))  # [S], of what is stored
        self.description = Description(labels, real.mean, real.std, real.class_names, recipe.formation, self.formation.fitted)
        self.image_labels = labels.repeat_interleave(self.formation.images_each).to(family.device)  # [N]
        places = torch.arange(sum(own := [self.ipc[number] for number in mine]), device=family.device).split(own)
        self.places = [torch.stack([places[number - mine.start] for number in group.numbers]) for group in self.groups]  # each [G, ipc]
        stored = self.formation.encode(start[None])[0]  # [S, ...], of the classes of this process
        moments = {name: torch.zeros_like(stored) for name in self.optimizer.moments}
        self.state = State(stored, moments, learned=self.match.learned())
        if self.shared and self.state.learned:
            raise UsageError(
                f"match {recipe.match!r} learns something beside the images, class by class, which processes cannot share; start one."
            )
        self.kept_at = kept_at(recipe.iterations)
        self.outcomes: deque[_Outcome] = deque()
        self.unread = 1 if family.device.type == "cuda" else 0  # outcomes that may wait while the next step is computed
        self.iteration_began = 0.0

    def result(self, run: RunFolder | None, protocol: str) -> CondensedDataset:
        """Run to the end, from the checkpoint where there is one; the provenance says by which protocol to evaluate the images."""
        self.run = run
        state, total = self.state, self.recipe.iterations
        self._begin()
        self._tell(Started(self.config, state.iteration, run.path if run is not None else None), self.callbacks)
        done = state.iteration * self.steps + state.step
        kept = self.world.first(lambda: run is not None)
        if kept and done == 0:
            self._keep_thumbnail()
        stop = StopRequest(ends_work=self.world.size == 1)  # of several all end after the same step
        with (
            stop.listening() if kept else contextlib.nullcontext(),
            progress_bar(total * self.steps, "condensing", "step", shown=self.progress, done=done) as bar,
        ):
            self._give_snapshot(bar, protocol)
            self.iteration_began = time.monotonic()
            seconds, forecast = math.inf, Forecast(total * self.steps - done)  # seconds of the last step
            while state.iteration < total:
                began = time.monotonic()
                with self._kept_from_interruptions(run, bar) if seconds > _SURE_TO_END else contextlib.nullcontext():
                    self.outcomes.append(self._matching_step())
                seconds = time.monotonic() - began
                keeps = kept and state.step == 0 and state.iteration in self.kept_at
                self._look_at_outcomes(bar, self.unread if state.iteration < total and not keeps else 0)
                if self.progress and (line := forecast.line(time.monotonic(), self.pool.seconds_ahead)):
                    bar.write(line, file=sys.stderr)
                if keeps:
                    self._keep_thumbnail()
                self._give_snapshot(bar, protocol)
                due, signum = self._asked(run, stop)
                if kept and (due or signum is not None or state.iteration == total):
                    self._look_at_outcomes(bar, 0)
                    self._save()
                if kept and signum is not None:
                    raise self._interrupted(signum)
        return self._finish(protocol)

    def _begin(self) -> None:
        """Take up the state of the checkpoint, where there is one."""
        whole = self.state.room_for_whole(self.ipc) if self.shared else self.state
        self.world.led(lambda: self._restore(whole))
        if self.world.size > 1:
            self.state.take_from_first(whole, self.world, self.ipc if self.shared else None)

    def _restore(self, state: State) -> None:
        """Read the checkpoint of a run that is kept into a state of all classes, and write its configuration."""
        run = self.run
        if run is not None:
            config = {"dataset": self.real.name, **as_plain(self.config)}
            origin = {"fingerprint": self.real.fingerprint, **versions(), "hardware": hardware(self.family.device)}
            grows = "iterations" if self.recipe.schedule == "constant" else None  # the other rates depend on the end
            run.check_config(config, origin, grows)
            run.restore(lambda path: load_checkpoint(path, state, self.engine.layout.size))  # before anything is written
            run.record_config(config, origin, grows)

    def _asked(self, run: RunFolder | None, stop: StopRequest) -> tuple[bool, int | None]:
        """Whether a checkpoint is due, and the signal that any process has been sent; read once, so that all have one answer."""
        asked = self.world.gathered((run is not None and run.checkpoint_due, stop.signum))
        return any(due for due, _ in asked), next((signum for _, signum in asked if signum is not None), None)

    @contextlib.contextmanager
    def _kept_from_interruptions(self, run: RunFolder | None, bar: Any) -> Iterator[None]:
        """Write a checkpoint of the steps before, where the one within this context is interrupted."""
        if run is None or self.world.size > 1:
            yield
            return
        self._look_at_outcomes(bar, 0)
        before = copy.deepcopy(self.state)
        try:
            yield
        except Interrupted as stop:
            self.state = before
            self._save()
            raise self._interrupted(stop.signum) from None

    def _interrupted(self, signum: int) -> Interrupted:
        done = f"{self.state.iteration} of {self.recipe.iterations} iterations"
        place = self.run.path if self.run is not None else "the last checkpoint"
        return Interrupted(f"stopped after {done}; the same call again continues from {place}.", signum)

    def take_step(self) -> None:
        """One step, with the wait for numbers that a run has, and no look at them."""
        self.outcomes.append(self._matching_step())
        while len(self.outcomes) > self.unread:
            self.outcomes.popleft().numbers.read()

    def _matching_step(self) -> _Outcome:
        """One step of the match, then what the pool does between two steps of one network."""
        state = self.state
        if state.theta is None:
            state.theta = self.pool.next(state)
            if self.match.asks_expert and not batch_norms(self.engine.module):  # whose statistics are those of theta
                state.keep_expert(self.pool.expert(state))
            self.match.begin(state)
        self.statistics.follow(state)
        self.batches.prepare(state, self.engine, self.recipe.batch_real)
        losses, good = self._move_all()
        iteration, step = state.iteration + 1, state.step + 1
        checked = {f"what the method learns beside the images ({name})": value for name, value in state.learned.items()}
        if step < self.steps:
            trains = self.pool.trains(self.pool.options)
            stored = self.world.joined(state.stored, self.ipc) if trains and self.shared else state.stored
            self.pool.advance(state, self.formation.decode(stored[None])[0], self.image_labels)
            state.step = step
            self.statistics.keep(state)
            if state.theta is not None:
                checked["a weight of the network, trained between two steps,"] = state.theta
        else:
            self.formation.settle(state.stored)
            state.theta, state.path, state.step, state.iteration = None, {}, 0, iteration
        finite = torch.cat([good, *(torch.isfinite(value).all()[None] for value in checked.values())])
        numbers = torch.cat([losses.sum().double()[None], finite.double()])
        return _Outcome(iteration, step, losses.dim() > 0, tuple(checked), HostCopy(numbers))

    def _move_all(self) -> tuple[Tensor, Tensor]:
        """Move what is stored of the classes of this process; the losses [C] of all, or a scalar, and whether those and what is stored of
        each class are finite [C]."""
        found = torch.zeros(self.real.num_classes, 2, dtype=torch.float64, device=self.family.device)  # loss, whether all is finite
        for group, place in zip(self.groups, self.places, strict=True):
            losses = self._move(group, place)
            whole = torch.isfinite(self.state.stored[place].flatten(1)).all(1)
            found[group.classes, 0] = losses.double()
            found[group.classes, 1] = (torch.isfinite(losses) & whole).double()
        if self.shared:
            self.world.spread(found)
        by_class = not self.groups or losses.dim() > 0
        return found[:, 0] if by_class else found[0, 0], found[:, 1]

    def _move(self, group: ClassGroup, place: Tensor) -> Tensor:
        """Move what is stored of some classes, at `place` [G, ipc]; the losses [G] that this makes small, or a scalar."""
        state, formation = self.state, self.formation
        stored, moments = state.stored[place], {name: values[place] for name, values in state.moments.items()}  # each [G, ipc, ...]
        change = self.augmentation.draw(group, *state.moment)
        images = change.apply(formation.decode(stored))  # [G, n, channels, H, W]
        losses, gradient = self.match.step(state, images, group)  # [G] or [], [G, n, channels, H, W]
        count = state.iteration * self.steps + state.step
        rate = self.recipe.lr_images * SCHEDULES[self.recipe.schedule](count / (self.recipe.iterations * self.steps))
        gradient = change.adjoint(gradient)
        if self.optimizer.of_pixels:
            gradient = gradient / self._variances
        self.optimizer.step(stored, formation.adjoint(gradient), moments, rate, count)
        for whole, part in ((state.stored, stored), *((state.moments[name], values) for name, values in moments.items())):
            whole[place] = part
        return losses

    @functools.cached_property
    def _variances(self) -> Tensor:
        """Of the pixels of each channel [channels, 1, 1], where the gradients are."""
        return per_channel(self.real.std, self.state.stored) ** 2

    def _groups(self, mine: range) -> list[ClassGroup]:
        """Some classes, as many at once as memory allows for their real images and gradients; where several processes share them, and
        their number would change the bits, one by one."""
        batch, images, size = self.recipe.batch_real, self.real.channels * math.prod(self.real.image_size), self.engine.layout.size
        most = (memory_share(self.family.device, _GROUP_MEMORY) << 20) // (BYTES * (batch * images + GRADIENTS * size))
        counts = self.real.class_counts.clamp(max=batch).tolist()
        if self.world.size > 1 and not self.engine.classes_apart:
            most = 1
        return class_groups(counts, max(1, most), self.family.device, self.ipc, mine)

    def _look_at_outcomes(self, bar: Any, unread: int) -> None:
        """Report every step but the last `unread` ones; raise where numbers are not finite."""
        while len(self.outcomes) > unread:
            outcome = self.outcomes.popleft()
            loss, *finite = outcome.numbers.read()
            self._check_finite(outcome, finite)
            self.state.losses += loss
            bar.update()
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            if outcome.step == self.steps:
                self._end_iteration(outcome.iteration)

    def _end_iteration(self, iteration: int) -> None:
        state, now = self.state, time.monotonic()
        event = IterationDone(iteration, state.losses / self.steps, now - self.iteration_began, peak_memory(self.family.device))
        state.losses, self.iteration_began = 0.0, now
        if self.run is not None:
            self.run.log({"event": "iteration", **dataclasses.asdict(event)})
        self._tell(event, self.callbacks)

    def _give_snapshot(self, bar: Any, protocol: str) -> None:
        """Show the images, between two networks, to callbacks that want them; where one is interrupted, a checkpoint is written first."""
        iteration = self.state.iteration
        if self.state.step or not self.gives_snapshots:
            return
        wanting = [callback for callback in self.callbacks if isinstance(callback, SnapshotCallback) and callback.wants_snapshot(iteration)]
        if not self.world.first(lambda: bool(wanting)):
            return
        self._look_at_outcomes(bar, 0)
        condensed = self.condensed(protocol)
        try:
            self._tell(Snapshot(iteration, condensed), wanting)
        except Interrupted as stop:
            if self.run is None:
                raise
            self._save()
            raise self._interrupted(stop.signum) from None
        self.iteration_began = time.monotonic()

    def _save(self) -> None:
        state = self.state.whole(self.world, self.ipc) if self.shared else self.state
        self.world.led(lambda: self._write(state))

    def _write(self, state: State) -> None:
        if (run := self.run) is not None:
            run.save(lambda path, length: save_checkpoint(path, state, length, self.description))
            self._tell(CheckpointWritten(run.checkpoint, state.iteration), self.callbacks)

    def _keep_thumbnail(self) -> None:
        stored = self.world.joined_at_first(self.state.stored, self.ipc) if self.shared else self.state.stored
        self.world.led(lambda: self._write_thumbnail(stored))

    def _write_thumbnail(self, stored: Tensor) -> None:
        """Write a small picture of the images as they are now; of a large set only those that it shows are decoded."""
        if self.run is not None:
            labels = self.description.labels
            places = fitting_set(labels, (self.real.channels, *self.real.image_size))[1]
            few = dataclasses.replace(self.description, labels=labels[places])
            self.run.keep_thumbnail(self.state.iteration, thumbnail(few.condensed(stored[places.to(self.family.device)], {})))

    def _finish(self, protocol: str) -> CondensedDataset:
        self.state.moments.clear()  # make room for what the processes have together
        condensed = self.condensed(protocol, copy=False)
        self.world.led(lambda: self._write_result(condensed))
        self._tell(Ended(condensed), self.callbacks)
        return condensed

    def condensed(self, protocol: str, copy: bool = True) -> CondensedDataset:
        """The set of the images as they are; `copy=False` takes them for it, so that no step may follow."""
        stored = self.world.placed(self.state.stored, self.ipc) if self.shared else self.state.stored
        if not copy:
            self.state.stored = stored  # so that nothing stands there twice
        if self.shared:
            self.world.spread(stored, self.ipc)
        provenance = {
            "dataset": self.real.name,
            "fingerprint": self.real.fingerprint,
            **({"changes": list(self.real.changes)} if self.real.changes else {}),
            "config": as_plain(self.config),
            "seed": self.config.seed,
            "protocol": protocol,
            "versions": versions(),
            **self.match.provenance(self.state),
        }
        return self.description.condensed(stored, provenance, copy and not self.shared)

    def _write_result(self, condensed: CondensedDataset) -> None:
        if self.run is not None:
            condensed.save(self.run.result)
            condensed.save_grid(self.run.picture)

    def _initial_images(self, mine: range) -> Tensor:
        """The images that some classes start from, class by class, [N, channels, H, W]."""
        counts = [ipc * self.formation.images_each for ipc in self.ipc]
        start, stop = sum(counts[: mine.start]), sum(counts[: mine.stop])
        return self._all_initial_images()[start:stop].to(self.family.device, copy=self.shared)  # a copy, which does not keep the others

    def _all_initial_images(self) -> Tensor:
        config, real, each = self.config, self.real, self.formation.images_each
        if config.init != "noise":
            classes = zip(real.class_counts.tolist(), self.ipc, real.class_names, strict=True)
            short = [(count, ipc, name) for count, ipc, name in classes if count < ipc * each]
            if short:
                fewest, ipc, smallest = min(short)
                wanted = f"ipc is {ipc}" + (f", each of {each} images," if each > 1 else ",")
                cure = f"an ipc of {fewest // each} or less" if fewest >= each else "a formation of fewer images each"
                raise UsageError(f"{wanted} but class {smallest!r} has {fewest} images to start from; use {cure}, or init='noise'.")
            counts = [ipc * each for ipc in self.ipc]
            assert config.init is not None
            choose: dict[str, Any] = {"real": random_coreset, "kmeans": functools.partial(kmeans, progress=self.progress)}
            images: Tensor = choose[config.init](real, counts, seed=config.seed).images
            return images
        shape = (sum(self.ipc) * each, real.channels, *real.image_size)
        return torch.randn(shape, generator=make_generator(config.seed, "init"))

    def _check_finite(self, outcome: _Outcome, finite: list[float]) -> None:
        """Raise where a loss, an image that its gradient has moved, or what else was checked is not finite."""
        images, others = finite[: self.real.num_classes], finite[self.real.num_classes :]
        if not all(images):
            name = self.real.class_names[images.index(0)]
            raise self._not_finite(outcome, "the distance or an image", f", class {name!r}" if outcome.by_class else "")
        for what, good in zip(outcome.checked, others, strict=True):
            if not good:
                raise self._not_finite(outcome, what)

    def _not_finite(self, outcome: _Outcome, what: str, where: str = "") -> RunError:
        kept = f" The last good checkpoint is {self.run.checkpoint}." if self.run is not None and self.run.checkpoint.exists() else ""
        return RunError(
            f"{what} is not finite at iteration {outcome.iteration}, step {outcome.step}{where}. Lower {self.match.advice()}.{kept}"
        )

    def _tell(self, event: Event, callbacks: Sequence[Callback]) -> None:
        with apart():  # the first process alone has any
            answers = [callback(event) for callback in callbacks]
            for answer in answers:
                if isinstance(answer, Evaluated):
                    for callback in self.callbacks:
                        callback(answer)
