"""The command line: nacre list | train | resume | repair | import | evaluate | report | compare | sweep | export.

Which flags `train` has depends on the algorithm of the experiment that is named among them. So arguments are read
twice: first for names that can be found without knowing any flag (`--import`, EXPERIMENT, `--config`), and then with
the types and defaults of that experiment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro
from tyro.conf import Positional, arg, subcommand

from nacre.errors import Interrupted, NacreError, printable, shown
from nacre.experiments import Experiment, make_experiment, named_experiments, options
from nacre.experiments.experiment import FamilyOptions, option_words
from nacre.extensions import command, import_modules, load_plugins
from nacre.files import cannot, in_words, parse_json, read_text
from nacre.tasks.shifts import Shift, parse_shift
from nacre.worker_options import NO_WORKERS, WorkerOptions

if TYPE_CHECKING:
    from nacre.estimate import Estimate
    from nacre.evaluation import Evaluation
    from nacre.iteration import OnIteration

# What needs JAX is imported by the commands that need it: help and `nacre list` answer at once.

Run = Annotated[Positional[Path], arg(metavar="RUN")]
SHIFT_SYNTAX = "none|TRIGGER:FIRST..."
ShiftFlag = Annotated[str | None, arg(metavar=SHIFT_SYNTAX, help_behavior_hint="(default: as the experiment says)")]


@dataclass(frozen=True)
class List:
    """Show the named experiments and the task families, all of them or those with all WORDs in their names."""

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="WORD...", help_behavior_hint="(default: all)")] = ()
    """Algorithms, task families, or parts of their names, such as: cheetah vel."""

    def __call__(self) -> None:
        from nacre.listing import listing

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(*listing(width, self.words), sep="\n")


@dataclass(frozen=True)
class Train:
    """Meta-train a named experiment, or one from a file.

    Every field of the configuration is a flag. Name EXPERIMENT beside --help to see its flags and defaults.
    """

    experiment: Experiment
    experiment_name: Annotated[Positional[str], arg(metavar="EXPERIMENT", help_behavior_hint="(see: nacre list)")] = ""
    """Which named experiment to train."""
    config: Annotated[tuple[Path, ...], arg(metavar="FILE...", help_behavior_hint="")] = ()
    """An experiment from a file: a run's experiment.json, or TOML of the same shape, whole or in part (a part of
    EXPERIMENT, or of the named experiment that it calls `name`); or a configuration of an old code base, which may be
    several FILEs if they are gin files."""
    ignore_unknown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out keys of FILE that are not known."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The run folder, new or empty. By default runs/<algorithm>/<task>/seed-<seed>-<time>."""
    seeds: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Train this many seeds at once: --seed, --seed + 1 and so on, each in a run folder of its own, DIR/seed-<seed>.
    By default DIR is then runs/<algorithm>/<task>/seeds-<first>-to-<last>-<time>."""

    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send metrics and learning curve to Weights & Biases, project $WANDB_PROJECT or nacre; needs the extra wandb."""

    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only check the configuration, and print how many steps it has and how much memory it needs."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but warnings and errors."""
    options: WorkerOptions = NO_WORKERS

    def __call__(self) -> None:
        from nacre.training import plan, train

        if self.dry_run:
            _print_plan(self.experiment, self.seeds or 1, plan(self.experiment, self.seeds, self.options))
            return
        workers = dataclasses.asdict(self.options)
        with _boards(self.wandb) as boards:
            run = train(self.experiment, self.out, seeds=self.seeds, on_iteration=boards, quiet=self.quiet, **workers)
        if not self.quiet:
            _say_how_to_go_on(run)


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped or killed, exactly where it was; or with several seeds at once."""

    run: Run
    """The run folder, or the folder in which several seeds are."""
    iterations: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: as the run says)")] = None
    """A new total number of iterations."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but warnings and errors."""
    options: WorkerOptions = NO_WORKERS
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send metrics and learning curve to Weights & Biases, project $WANDB_PROJECT or nacre; needs the extra wandb."""

    def __call__(self) -> None:
        from nacre.training import resume

        workers = dataclasses.asdict(self.options)
        with _boards(self.wandb, self.run) as boards:
            run = resume(self.run, self.iterations, on_iteration=boards, quiet=self.quiet, **workers)
        if not self.quiet:
            _say_how_to_go_on(run)


@dataclass(frozen=True)
class Repair:
    """Drop from a run's replay the episodes that nothing can be learned from, so that it can be resumed."""

    run: Run
    """The run folder, or the folder in which several seeds are."""

    def __call__(self) -> None:
        from nacre.repair import repair_run

        dropped = repair_run(self.run, say=_say)
        if dropped:
            go_on = command("resume", self.run)
            _say(f"{dropped} episode(s) dropped; its checkpoints are as they were. Go on with: {go_on}")
        else:
            _say(f"Nothing to repair in the replay of {self.run}")


@dataclass(frozen=True)
class Import:
    """Make a run of what an old code base left in a folder, so that its agent can be evaluated."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """It holds the networks and the configuration of a run."""
    config: Annotated[Path | None, arg(metavar="FILE.json", help_behavior_hint="(default: FOLDER/variant.json)")] = None
    """The original run's configuration."""
    ignore_unknown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out keys of the configuration that are not known."""
    family: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: as the configuration says)")] = None
    """The task family, of the same sizes, such as humanoid-dir-without-forces."""
    iteration: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the latest)")] = None
    """Whose networks, if the old code base kept those of many iterations."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The run folder, new or empty. By default runs/<algorithm>/<task>/seed-<seed>-<time>."""

    def __call__(self) -> None:
        from nacre.original.runs import import_old_run

        run = import_old_run(
            self.folder,
            self.config,
            self.out,
            family=self.family,
            iteration=self.iteration,
            ignore_unknown=self.ignore_unknown,
            say=_say,
        )
        _say_how_to_go_on(run)


@dataclass(frozen=True)
class Evaluate:
    """Meta-test a run: adapt to tasks, and report the return of every episode of a trial."""

    run: Run
    """The run folder."""
    tasks: Annotated[str, arg(metavar="test|train|FILE.json|VALUES")] = "test"
    """The run's test or train tasks; or tasks of your own: a JSON file with one list of parameters per task, or values
    such as "0.5,-1; 0.2,0.3" for two tasks of two parameters."""
    trials: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: as the experiment says)")] = None
    """Trials per task."""
    episodes: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: as the experiment says)")] = None
    """Episodes of a trial, exploration included."""
    stochastic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw actions from the policy instead of taking its mode."""
    checkpoint: Annotated[str, arg(metavar="latest|best|LABEL|FILE")] = "latest"
    """Which checkpoint: the latest, the best by test return, a label such as iteration_000012, or a file."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the run's)")] = None
    """Of resets, z and actions."""
    shift: ShiftFlag = None
    """How the task changes inside an episode: place:10+2 (x farther than 10 to 12), time:200 (after more than 200
    steps), with ,probability=P or ,opposite behind it; none: it does not."""
    video: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also draw the first trial of each task, all its episodes, into an MP4 file."""
    out: Annotated[Path | None, arg(metavar="FILE.json", help_behavior_hint="(default: a new file in RUN)")] = None
    """The file of the result. What was there is replaced."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but warnings and errors."""
    options: WorkerOptions = NO_WORKERS
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send returns and videos to Weights & Biases, project $WANDB_PROJECT or nacre; needs the extra wandb."""

    def __call__(self) -> None:
        from nacre.loading import read_trained
        from nacre.run_evaluation import evaluate_run

        if self.wandb:
            from nacre.weights_and_biases import ready

            ready(self.run)
        trained = read_trained(self.run, self.checkpoint)

        def show(evaluation: Evaluation) -> None:
            if self.quiet:
                return
            _print_evaluation(evaluation, trained.family.task_parameters)
            if self.tasks == "test":
                _print_gap(evaluation, dataclasses.replace(trained.experiment, shift=evaluation.shift))
            protocol = evaluation.protocol
            explored = f", the first {protocol.exploration_episodes} episode(s) of each without adaptation"
            print(
                f"\n{trained.checkpoint.stem}, protocol {protocol.name}: {protocol.trials} trial(s) per task"
                + (explored if protocol.explores else ""),
                flush=True,
            )
            if evaluation.shift is not None:
                _print_recovery(evaluation)

        evaluation, path = evaluate_run(
            trained,
            self.run,
            _parse_tasks(self.tasks),
            trials=self.trials,
            episodes=self.episodes,
            deterministic=not self.stochastic,
            seed=self.seed,
            video=self.video,
            out=self.out,
            shift=self.shift,
            options=self.options,
            show=show,
            quiet=self.quiet,
        )
        if not self.quiet:
            _say("Not written" if path is None else f"Written to {path}")
            if self.video and path is not None:
                _say(f"Videos of the first trial of each task: {path.with_suffix('')}{os.sep}")
        if self.wandb and path is not None:
            from nacre.weights_and_biases import send_evaluation

            send_evaluation(self.run, evaluation, path)


@dataclass(frozen=True)
class Report:
    """Write one HTML page about runs: learning curve, adaptation to each test task, what was inferred, configuration.

    Runs that differ only in the seed are drawn together. A folder of several seeds stands for all of them.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="")] = ()
    """The run folders."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: report.html in the first RUN)")] = (
        None
    )
    """The page. What was there is replaced."""
    checkpoint: Annotated[str, arg(metavar="latest|best|LABEL|FILE")] = "latest"
    """Which checkpoint of each run plays the trials, as in nacre evaluate."""
    shift: ShiftFlag = None
    """How the task of a trial changes inside an episode, as in nacre evaluate."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figures, and the first of the videos that there are, for TensorBoard into each RUN."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send the page to Weights & Biases, to the first RUN there; needs the extra wandb."""

    def __call__(self) -> None:
        from nacre.report import write_report

        if self.wandb:
            from nacre.run_folder import runs_in
            from nacre.weights_and_biases import ready

            ready(*runs_in(self.runs)[:1])
        page = write_report(
            self.runs, self.out, checkpoint=self.checkpoint, shift=self.shift, tensorboard=self.tensorboard, say=_say
        )
        _say(f"Written to {page}")
        if self.wandb:
            from nacre.run_folder import runs_in
            from nacre.weights_and_biases import send_report

            send_report(runs_in(self.runs)[0], page)


@dataclass(frozen=True)
class Compare:
    """Write one HTML page that compares groups of seeds, by interquartile means with bootstrap intervals.

    Runs are grouped by their configuration apart from the seed, or by you: NAME=RUN,RUN,...
    """

    groups: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN|NAME=RUN,RUN...", help_behavior_hint="")] = ()
    """Run folders, folders of several seeds, or groups of them."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("compare.html")
    """The page. What was there is replaced."""

    def __call__(self) -> None:
        from nacre.report import parse_groups, write_comparison
        from nacre.report.comparison import only_group

        groups = parse_groups(self.groups)
        page = write_comparison(groups, self.out)
        if len(groups) == 1:
            [(name, runs)] = groups.items()
            _say(only_group(name, len(runs)))
        _say(f"Written to {page}")


@dataclass(frozen=True)
class Sweep:
    """Train experiments × seeds × values, several runs at once; or go on with what is left of a sweep.

    All of it is checked before anything starts. Runs that are finished are not trained again.
    """

    specification: Annotated[Positional[Path], arg(metavar="SPEC.toml|SPEC.json")]
    """What to train: see docs/sweeps.md."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/ and the name of SPEC)")] = None
    """The folder of the sweep. Runs of the sweep may be in it already."""
    jobs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: as many as fit)")] = None
    """Runs at once."""
    part: Annotated[str, arg(metavar="K/N")] = "1/1"
    """Train every N-th run only, from the K-th on: N processes, on as many machines, share a sweep."""
    ray_address: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Train on the nodes of a Ray cluster that share DIR: HOST:PORT of its head, or auto."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send each run to Weights & Biases, project $WANDB_PROJECT or nacre; needs the extra wandb."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only check it all, and print what would be trained, and how much memory each configuration needs."""

    def __call__(self) -> None:
        from nacre.sweeps.running import WHOLE, parse_part, plan_sweep, run_sweep
        from nacre.sweeps.specification import read_specification

        part = parse_part(self.part)
        specification = read_specification(self.specification)
        if self.dry_run:
            plan = plan_sweep(specification, jobs=self.jobs, part=part, ray_address=self.ray_address)
            print(*plan, sep="\n")
            return
        out = self.out or Path("runs", self.specification.stem)
        flags = {"--jobs": self.jobs, "--part": None if part == WHOLE else part, "--ray-address": self.ray_address}
        given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
        again = command("sweep", self.specification, "--out", out, *given, *(["--wandb"] if self.wandb else []))
        run_sweep(
            specification,
            out,
            jobs=self.jobs,
            part=part,
            ray_address=self.ray_address,
            wandb=self.wandb,
            again=again,
        )


@dataclass(frozen=True)
class Export:
    """Write a trained agent into a file that JAX runs without nacre, as StableHLO."""

    run: Run
    """The run folder."""
    out: Annotated[Path, arg(metavar="FILE")]
    """The file, a zip archive. What was there is replaced."""
    checkpoint: Annotated[str, arg(metavar="latest|best|LABEL|FILE")] = "latest"
    """Which checkpoint, as in nacre evaluate."""
    slots: Annotated[int, arg(metavar="INT")] = 1
    """Trials that it plays at once."""
    capacity: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: ten episodes)")] = None
    """Transitions of a trial that the belief can come from."""

    def __call__(self) -> None:
        from nacre.exporting import export

        file = export(self.run, self.out, checkpoint=self.checkpoint, slots=self.slots, capacity=self.capacity)
        _say(f"Written to {file}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, as :func:`ending` does."""
    ending(lambda: _parse(list(sys.argv[1:] if arguments is None else arguments))())


def ending(work: Callable[[], object]) -> None:
    """Does some work, and ends the process if something goes wrong.

    Exit codes: 2 for what the user can mend (one sentence on stderr), 128 + signal if a signal ended it. Control
    characters in names and paths are shown as escapes, as others may have chosen them.
    """
    warnings.formatwarning = lambda message, *_, **__: f"nacre: warning: {printable(str(message))}\n"
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        work()
        sys.stdout.flush()
    except NacreError as error:
        _end(f"nacre: error: {error}", 2)
    except Interrupted as interrupted:
        _end(str(interrupted), 128 + interrupted.signal)
    except KeyboardInterrupt:
        _end("nacre: stopped by Ctrl-C", 128 + signal.SIGINT)
    except (MemoryError, RecursionError) as error:
        _end(f"nacre: error: what was asked for does not fit into the memory ({type(error).__name__})", 2)
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.EIO):
            # The reader has gone (`nacre list | head -1`). Python would complain when it flushes at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        _end(f"nacre: error: {cannot('use', Path(os.fsdecode(error.filename or '')), error)}", 2)


def _end(sentence: str, code: int) -> NoReturn:
    """Ends the process with a sentence on stderr, if that can be written still."""
    with contextlib.suppress(OSError):
        print(printable(sentence.replace("\n", " ")), file=sys.stderr, flush=True)
    sys.exit(code)


def _say(text: str) -> None:
    print(printable(text), flush=True)


def _parse(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to be called."""
    arguments, modules = _take_out("--import", arguments)
    load_plugins()
    import_modules(modules)
    if arguments == ["--version"]:
        return _print_version
    if arguments[:1] == ["train"]:
        return _parse_train(arguments)
    return _tyro(arguments or ["--help"], _any_experiment())


def _parse_train(arguments: list[str]) -> Train:
    """`train`, with the named experiment's types and values as the flags' types and defaults."""
    arguments, files = _take_files(arguments)
    name = _find_experiment(arguments[1:])
    named = None if name is None else make_experiment(name)
    if not files:
        train = _tyro(arguments, named or _any_experiment())
        if named is None and train.experiment_name:  # after flags that hid it
            make_experiment(train.experiment_name)
        if named is None:
            raise NacreError(f"EXPERIMENT is missing; allowed: {', '.join(named_experiments())}")
        return train
    from nacre.experiments.configuration_files import read_configurations

    read = read_configurations(files, named, "--ignore-unknown" in arguments)
    for message in read.messages:
        _say(message)
    train = _tyro(arguments, read.experiment)
    read.validate(train.experiment)
    return train


def _boards(wanted: bool, *runs: Path) -> contextlib.AbstractContextManager[OnIteration | None]:
    """Boards of Weights & Biases, if they are wanted; `runs` are those that are there already."""
    if not wanted:
        return contextlib.nullcontext()
    from nacre.weights_and_biases import boards

    return boards(*runs)


def _any_experiment() -> Experiment:
    """Whose flags are shown if none is named."""
    return next(iter(named_experiments().values())).experiment


def _take_out(flag: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without a flag that may be given several times, and its values.

    Raises:
        NacreError: the last of them has no value.
    """
    rest, values = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == flag:
            value = next(remaining, None)
            if value is None:
                raise NacreError(f"{flag} has no value; allowed: the name of a module")
            values.append(value)
        elif argument.startswith(f"{flag}="):
            values.append(argument.removeprefix(f"{flag}="))
        else:
            rest.append(argument)
    return rest, values


def _take_files(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The arguments without `--config FILE...`, and the files. More than one word after the flag is a file only if it
    ends like one, as EXPERIMENT may follow.

    Raises:
        NacreError: no file follows.
    """
    rest, files = [], []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        elif argument != "--config":
            rest.append(argument)
        elif not remaining or remaining[0].startswith("-"):
            raise NacreError("--config has no value; allowed: the names of files")
        else:
            files.append(remaining.pop(0))
            while remaining and remaining[0].endswith((".gin", ".json", ".toml")) and remaining[0][0] != "-":
                files.append(remaining.pop(0))
    return rest, [Path(file) for file in files]


def _find_experiment(arguments: Sequence[str]) -> str | None:
    """EXPERIMENT among arguments whose flags are not known yet; if it is mistyped, what stands where it should be.

    What follows a flag may be its value, so a name that follows none is preferred.
    """
    words = [
        (argument, previous.startswith("--") and "=" not in previous)
        for previous, argument in zip(["", *arguments], arguments, strict=False)
        if not argument.startswith("-")
    ]
    named = named_experiments()
    free = [word for word, after_flag in words if not after_flag]
    known = [*filter(named.__contains__, free), *(word for word, _ in words if word in named)]
    return next(iter([*known, *(word for word in free if "/" in word), *free]), None)


LONGEST_SHOWN = 200
"""Characters of an argument that tyro may repeat in a message."""


def _tyro(arguments: list[str], experiment: Experiment) -> Any:
    """The command, by tyro. Its messages repeat arguments, so that those that are unfit to be shown need our own."""
    unfit = [argument for argument in arguments if len(argument) > LONGEST_SHOWN or printable(argument) != argument]
    if not unfit:
        return _parsed(arguments, experiment)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return _parsed(arguments, experiment)
    except SystemExit as end:
        if not end.code:  # --help
            print(said.getvalue(), end="")
            raise
    raise NacreError(f"the arguments are not understood, of which one is {shown(unfit[0])}; see nacre --help")


def _parsed(arguments: list[str], experiment: Experiment) -> Any:
    commands = (
        Annotated[List, subcommand("list")]
        | Annotated[Train, subcommand("train", default=Train(experiment))]
        | Annotated[Resume, subcommand("resume")]
        | Annotated[Repair, subcommand("repair")]
        | Annotated[Import, subcommand("import")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Report, subcommand("report")]
        | Annotated[Compare, subcommand("compare")]
        | Annotated[Sweep, subcommand("sweep")]
        | Annotated[Export, subcommand("export")]
    )
    return tyro.cli(
        commands,  # pyright: ignore[reportArgumentType]
        args=arguments,
        prog="nacre",
        description="Meta-reinforcement learning by task inference. --version tells the version. --import MODULE makes "
        "task families, algorithms and experiments known that the module registers; it may be given several times.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        registry=registry(),
    )


_COMMON = (
    "seed",
    "iterations",
    "device",
    "threads",
    "precision",
    "warm_start",
    "task_list",
    "train_tasks",
    "test_tasks",
)


def registry() -> tyro.constructors.ConstructorRegistry:
    """Makes --help show the fields of an experiment that are set most often before the others, and reads options of a
    family as NAME=VALUE and a shift as TRIGGER:FIRST."""
    registry = tyro.constructors.ConstructorRegistry()
    rank = {name: position for position, name in enumerate(_COMMON)}
    asking = False

    @registry.struct_rule
    def order(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        nonlocal asking
        if asking or info.type is not Experiment:
            return None
        asking = True  # so that the rule for dataclasses answers, and not this one again
        spec = tyro.constructors.ConstructorRegistry.get_struct_spec(info)
        asking = False
        if not isinstance(spec, tyro.constructors.StructConstructorSpec):
            return None
        fields = sorted(spec.fields, key=lambda field: rank.get(field.name, len(rank)))
        return dataclasses.replace(spec, fields=tuple(fields))

    @registry.primitive_rule
    def family_options(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type is not FamilyOptions:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="NAME=VALUE...",
            instance_from_str=_parse_options,
            is_instance=lambda value: isinstance(value, FamilyOptions),
            str_from_instance=option_words,
        )

    @registry.primitive_rule
    def shift(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type != Shift | None:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=SHIFT_SYNTAX,
            instance_from_str=lambda words: parse_shift(words[0]),
            is_instance=lambda value: value is None or isinstance(value, Shift),
            str_from_instance=lambda value: ["none" if value is None else str(value)],
        )

    return registry


def _parse_options(words: Sequence[str]) -> FamilyOptions:
    """`horizon=800`, `terminates=true`, `variants=velocity,jumping` as options of a task family."""
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or name in values:
            raise NacreError(f"family_options has {shown(word)}; allowed: NAME=VALUE, each name once")
        parts = [_option_value(part) for part in text.split(",")]
        values[name] = parts[0] if len(parts) == 1 else tuple(parts)
    return options(**values)


def _option_value(text: str) -> Any:
    """A number or a truth value as JSON has them; anything else is text."""
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _print_version() -> None:
    import nacre

    print("nacre", nacre.__version__)


def _parse_tasks(text: str) -> Any:
    """--tasks as `nacre.evaluate` takes it: "test", "train", or lists of numbers."""
    if text in ("test", "train"):
        return text
    if text.endswith(".json"):
        try:
            return parse_json(read_text(Path(text)))
        except ValueError as error:
            raise NacreError(f"{text} {error}") from None
    try:
        return [[float(value) for value in task.split(",")] for task in text.split(";")]
    except ValueError:
        raise NacreError(
            f"tasks is {shown(text)}; allowed: test, train, the name of a file that ends in .json, or values such as "
            "'0.5,-1; 0.2,0.3'"
        ) from None


def _print_plan(experiment: Experiment, seeds: int, needed: Estimate) -> None:
    from nacre.estimate import memory_of_device

    each = " for each seed" if seeds > 1 else ""
    print(f"{experiment.name}: {experiment.iterations} iterations{each}")
    if experiment.shift is not None:
        print(f"tasks: {experiment.shift.in_words()}")
    print(f"steps{each}: {experiment.environment_steps:,} of environments, {experiment.gradient_steps:,} of gradients")
    print(f"memory, about: {in_words(needed.total)} of {in_words(memory_of_device())} ({needed})")


def _print_evaluation(evaluation: Evaluation, parameters: tuple[str, ...]) -> None:
    from rich.table import Table

    from nacre.video import MOST_PARAMETERS

    returns, successes = evaluation.returns_by_episode, evaluation.successes_by_episode
    table = Table(box=None, header_style="bold", pad_edge=False, title="Return of each episode, mean over trials")
    tasks = [[f"{value:.3f}" for value in task] for task in evaluation.tasks]
    if len(parameters) > MOST_PARAMETERS:
        parameters, tasks = ("task",), [[str(number)] for number in range(len(tasks))]
    for parameter in parameters:
        table.add_column(parameter, justify="right", style="dim", no_wrap=True)
    word = "episode" if returns.shape[1] <= 6 else "ep."
    for episode in range(returns.shape[1]):
        table.add_column(f"{word} {episode + 1}", justify="right", no_wrap=True)
    for task, row in zip(tasks, returns, strict=True):
        table.add_row(*task, *(f"{value:.2f}" for value in row))
    table.add_section()
    empty = [""] * (len(parameters) - 1)
    table.add_row("mean", *empty, *(f"{value:.2f}" for value in returns.mean(axis=0)), style="bold")
    if successes is not None:
        table.add_row("success", *empty, *(f"{value:.0%}" for value in successes.mean(axis=0)), style="bold")
    if evaluation.scores_by_episode is not None:
        scores = evaluation.scores_by_episode.mean(axis=0)
        table.add_row("score", *empty, *(f"{value:.3f}" for value in scores), style="bold")
    _print_table(table)


def _print_recovery(evaluation: Evaluation) -> None:
    """Prints how tasks changed, and how agents recovered from it."""
    if evaluation.recovery is None:
        print(f"With the shift '{evaluation.shift}' no task changed inside an episode.", flush=True)
    else:
        print(*evaluation.recovery.in_words(), sep="\n", flush=True)


def _print_gap(evaluation: Evaluation, experiment: Experiment) -> None:
    """Prints where the last episode is between the reference curves of the experiment's world, if both are known."""
    from nacre.report import gap_of

    gap = gap_of(experiment)
    if gap is not None:
        print(f"The last episode closes {gap.closed(float(evaluation.final_returns.mean())):.0%} {gap.words}.")


def _print_table(table: Any) -> None:
    """Prints a table in its natural width, or on a terminal as much narrower as the wrapping columns allow."""
    from rich.console import Console

    console = Console(highlight=False)
    natural = Console(width=1000).measure(table)
    if console.is_terminal:
        console.width = min(natural.maximum, max(console.width, natural.minimum))
    else:
        console.width = natural.maximum
    console.print(table, crop=False)


def _say_how_to_go_on(run: Path) -> None:
    from nacre.run_folder import find_seeds

    seeds = find_seeds(run)
    if seeds:
        _say(f"Done. Meta-test a seed with: {command('evaluate', seeds[0])}; draw all with: {command('report', run)}")
    else:
        _say(f"Done. Meta-test it with: {command('evaluate', run)}")


if __name__ == "__main__":
    main()
