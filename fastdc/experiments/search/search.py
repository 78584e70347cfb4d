"""Architecture search from beginning to end, resumable network by network, and shared by threads and processes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastdc.coresets.choice import check_ipc
from fastdc.data import as_pair
from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.experiments.image_sets import ImageSetOptions, check_source, with_common_numbers
from fastdc.experiments.search.parallel_trials import do_trials
from fastdc.experiments.search.proxy_sets import ProxySetRunner
from fastdc.experiments.search.report import write
from fastdc.experiments.search.result import ProxyResult, SearchResult
from fastdc.experiments.search.space import PAPER_SPACE, models_of, unsupported_reason
from fastdc.experiments.search.training_plans import early_steps, images_seen
from fastdc.experiments.search.trial import EARLY_STOPPING, WHOLE_SET, Outcome, Trial, TrialOptions, TrialRunner
from fastdc.models.network import NetworkFamily
from fastdc.options.checks import check_count, check_duration
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.jobs import do_all, raise_failures
from fastdc.runs.folder import kept_or_temporary, shared_folder
from fastdc.runtime.isolation import isolated
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed, make_generator
from fastdc.runtime.versions import versions
from fastdc.training.operations import chosen_operations
from fastdc.training.protocols import PROTOCOLS

TRUTHS = ("top", "all")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What decides the result, space and data aside."""

    proxies: tuple[str, ...] = ("random", "herding", "dc", EARLY_STOPPING)
    ipc: int = 10
    networks: int | None = None
    epochs: int = 100
    protocol: str = "dc"
    truth: str = "top"
    top: int = 10
    random_truths: int = 10
    whole_set_epochs: int = 100
    proxy_model: str = "convnet"
    iterations: int | None = None
    budget: str | None = None
    batch_real: int | None = None
    coreset_epochs: int = 20
    seed: int = 0
    engine: str = "auto"
    device: str = "auto"
    progress: bool = True

    def check(self) -> None:
        """Raise a UsageError where an option cannot be used, space and data aside."""
        if not self.proxies or len(set(self.proxies)) < len(self.proxies):
            raise UsageError(f"proxies is {self.proxies!r}; expected one or more, each once.")
        for name in self.proxies:
            if name != EARLY_STOPPING:
                check_source("proxy", name)
        if self.truth not in TRUTHS:
            raise unknown_name("truth", self.truth, TRUTHS)
        for name in ("ipc", "epochs", "top", "whole_set_epochs", "coreset_epochs"):
            check_count(name, getattr(self, name))
        for name in ("iterations", "batch_real"):
            check_count(name, getattr(self, name), optional=True)
        if self.budget is not None:
            check_duration("budget", self.budget)
        if isinstance(self.random_truths, bool) or not isinstance(self.random_truths, int) or self.random_truths < 0:
            raise UsageError(f"random_truths is {self.random_truths!r}; expected a whole number of 0 or more.")
        PROTOCOLS.options(self.protocol)
        check_seed(self.seed)
        check_engine(self.engine)
        resolve_device(self.device)


@public
def architecture_search(
    train: Any,
    test: Any,
    *,
    proxies: Sequence[str] = ("random", "herding", "dc", EARLY_STOPPING),
    ipc: int = 10,
    space: Iterable[str] = PAPER_SPACE,
    networks: int | None = None,
    epochs: int = 100,
    protocol: str = "dc",
    truth: str = "top",
    top: int = 10,
    random_truths: int = 10,
    whole_set_epochs: int = 100,
    proxy_model: str = "convnet",
    iterations: int | None = None,
    budget: str | None = None,
    batch_real: int | None = None,
    coreset_epochs: int = 20,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
) -> SearchResult:
    """Rank many networks by training them on small proxies of a dataset, and compare with training them on all of it.

    (Zhao et al., ICLR 2021, section 4.3 and table 4.) Networks are trained side by side, each by one thread, by the engine that
    serves it.

    Args:
        train: the whole training set, as `fastdc.condense` takes it.
        test: likewise, of the same classes.
        proxies: what the networks are trained on: coresets, methods such as "dc", and "early_stopping": the whole set, for as many
            steps of SGD as a training on `ipc` images per class takes by the protocol.
        ipc: images per class of the proxies.
        space: names of models; by default the paper's 720 ConvNets. `ConvNetSpace(widths=..., depths=...)` gives others.
        networks: so many of them, chosen at random; None: all.
        epochs: of training on a proxy.
        protocol: of that training, the same for all proxies that are image sets; as `fastdc.evaluate` takes it, but for "auto".
        truth: which networks are also trained on the whole set: "top", those that a proxy ranks first and some at random; or "all".
        top: how many of each proxy's first.
        random_truths: how many others at random.
        whole_set_epochs: of training on the whole set.
        proxy_model: the network that proxies are learned with, or chosen by.
        iterations: of a method that learns a proxy; None: those of its recipe.
        budget: the time for each proxy of a method, such as "15min", in the place of `iterations`.
        batch_real: real images of each class in a step of it; None: those of its recipe.
        coreset_epochs: of training the network by which a coreset chooses.
        seed: decides everything random.
        engine: as `fastdc.condense` takes it.
        device: likewise.
        out: a folder for proxies, outcomes, table.md, table.csv, ranking.json and report.html; another call with the same arguments
            continues there, and several, in any number of processes, share the work. None: nothing is kept.
        progress: say on stderr how far the work is.

    Returns:
        How well each proxy ranks the networks.

    Raises:
        UsageError: an argument that cannot be used, no network that can take the images, or `out` holds another search.
        DataError: data or a file that cannot be used.
        RunError: `out` cannot be written, or some trainings failed.

    Example:
        >>> space = ["mlp:width=8", "mlp:width=16"]
        >>> result = architecture_search("digits", "digits", proxies=["random"], ipc=1, space=space, epochs=2, whole_set_epochs=1)
        >>> sorted(result.truth), [sorted(proxy.accuracies) for proxy in result.proxies]
        (['mlp:width=16', 'mlp:width=8'], [['mlp:width=16', 'mlp:width=8']])
    """
    config = SearchConfig(
        proxies=tuple(proxies) if isinstance(proxies, list | tuple) else (proxies,),  # type: ignore[arg-type]
        ipc=ipc,
        networks=networks,
        epochs=epochs,
        protocol=protocol,
        truth=truth,
        top=top,
        random_truths=random_truths,
        whole_set_epochs=whole_set_epochs,
        proxy_model=proxy_model,
        iterations=iterations,
        budget=budget,
        batch_real=batch_real,
        coreset_epochs=coreset_epochs,
        seed=seed,
        engine=engine,
        device=device,
        progress=progress,
    )
    with kept_or_temporary(out) as folder:
        search = Search(train, test, space, config, folder)
        result = search.run()
        if out is not None:
            write(folder, result, f"{search.train.said()}, protocol {search.config.protocol}, seed {seed}, fastdc {versions()['fastdc']}.")
    return result


class Search:
    """A search in the folder `out`.

    Raises:
        UsageError: an option that cannot be used, no network that can take the images, or `out` holds another search.
        DataError: data that cannot be used.
        RunError: `out` cannot be written.
    """

    def __init__(self, train: Any, test: Any, space: Iterable[str], config: SearchConfig, out: Path) -> None:
        config.check()
        members = models_of(space, config.networks, config.seed)
        data, tested = as_pair(train, test)
        config = dataclasses.replace(
            with_common_numbers(config, config.proxies), protocol=chosen_operations(config.protocol, PROTOCOLS, tested.name)
        )
        self.config, self.out = config, out
        self.train, self.test = data, dataclasses.replace(tested, mean=data.mean, std=data.std)
        check_ipc(data, config.ipc)
        NetworkFamily(config.proxy_model, data.channels, data.num_classes, data.image_size, resolve_device(config.device))
        reasons = {model: unsupported_reason(model, data, config.engine) for model in members}
        self.skipped = {model: reason for model, reason in reasons.items() if reason is not None}
        self.models = tuple(model for model in members if model not in self.skipped)
        if not self.models:
            raise UsageError(f"none of the {len(members)} networks can take the images; the first: {next(iter(self.skipped.values()))}")
        options = ImageSetOptions(
            ipc=config.ipc,
            model=config.proxy_model,
            iterations=config.iterations,
            budget=config.budget,
            batch_real=config.batch_real,
            whole_set_epochs=config.coreset_epochs,
            engine=config.engine,
            device=config.device,
            progress=config.progress,
        )
        self.sets = ProxySetRunner(out / "proxies", data, options, config.seed)
        digest = hashlib.blake2b("\n".join(members).encode(), digest_size=6).hexdigest()
        content = {key: value for key, value in vars(config).items() if key != "progress"} | {"proxies": list(config.proxies)}
        content |= {"dataset": data.name, "space": f"{len(members)} networks, {digest}"}
        with shared_folder(out) as run:
            run.record_config(content, {"fingerprint": f"{data.fingerprint} {self.test.fingerprint}", **versions()})

    def run(self, say: Callable[[str], None] = lambda _: None) -> SearchResult:
        """Do what is still to be done, together with whoever else does it, and collect.

        Raises:
            RunError: some trainings failed.
        """
        config = self.config
        for model, reason in self.skipped.items():
            say(f"left out {model}: {reason}")
        names = [name for name in config.proxies if name != EARLY_STOPPING]
        protocol = PROTOCOLS.make(config.protocol, self.test.name)
        with isolated():
            raise_failures(do_all(names, self.sets, self.sets.do, say), len(names), "proxy sets")
            options = TrialOptions(
                epochs=config.epochs,
                protocol=config.protocol,
                whole_set_epochs=config.whole_set_epochs,
                stopped_after=early_steps(config.ipc * self.train.num_classes, protocol.phases(config.epochs)),
                seed=config.seed,
                engine=config.engine,
                device=config.device,
            )
            sets = {name: self.sets.images(name) for name in names}
            runner = TrialRunner(self.out / "networks", self.train, self.test, sets, options)
            self._do(runner, [Trial(model, config.proxies) for model in self.models], "searching")
            proxies = tuple(self._proxy_result(runner, name) for name in config.proxies)
            chosen = self._to_be_known(proxies)
            self._do(runner, [Trial(model, (WHOLE_SET,)) for model in chosen], "training on the whole set")
        known = {model: self._known(runner, model, WHOLE_SET) for model in chosen}
        truth = {model: outcome.accuracy for model, outcome in known.items()}
        seconds = sum(outcome.seconds for outcome in known.values())
        return SearchResult(proxies, truth, seconds, len(self.train), min(config.top, len(self.models)), self.skipped)

    def _do(self, runner: TrialRunner, trials: Sequence[Trial], doing: str) -> None:
        failures = do_trials(runner, trials, doing=doing, progress=self.config.progress)
        raise_failures({trial.model: reason for trial, reason in failures.items()}, len(trials), "networks")

    def _proxy_result(self, runner: TrialRunner, name: str) -> ProxyResult:
        outcomes = {model: self._known(runner, model, name) for model in self.models}
        accuracies = {model: outcome.accuracy for model, outcome in outcomes.items()}
        seconds = sum(outcome.seconds for outcome in outcomes.values())
        if name == EARLY_STOPPING:
            return ProxyResult(name, accuracies, seconds, 0.0, images_seen(len(self.train), runner.options.stopped_after))
        return ProxyResult(name, accuracies, seconds, self.sets.seconds(name), len(runner.sets[name].stored))

    def _to_be_known(self, proxies: Sequence[ProxyResult]) -> list[str]:
        """The networks to train on the whole set, in the order of the space."""
        if self.config.truth == "all":
            return list(self.models)
        tops = {model for proxy in proxies for model in proxy.ranking[: self.config.top]}
        others = [model for model in self.models if model not in tops]
        order = torch.randperm(len(others), generator=make_generator(self.config.seed, "search truths")).tolist()
        chosen = tops | {others[index] for index in order[: self.config.random_truths]}
        return [model for model in self.models if model in chosen]

    @staticmethod
    def _known(runner: TrialRunner, model: str, subject: str) -> Outcome:
        outcome = runner.outcome(Trial(model, (subject,)), subject)
        assert outcome is not None
        return outcome
