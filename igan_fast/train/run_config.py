"""The settings that every training run has, whatever it trains: for the command line, Python and config.json."""

from __future__ import annotations

import dataclasses
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from igan_fast.checkpoint.find import checkpoint_folders
from igan_fast.errors import InputError, option
from igan_fast.files import FileMissing
from igan_fast.json_files import read_json
from igan_fast.paths import given_path
from igan_fast.train.config_checks import check_config
from igan_fast.train.config_values import ALSO_TAKEN, converted, option_types, wrong_type

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from igan_fast.train.method import Method

__all__ = ["Config", "RunConfig"]

Config = TypeVar("Config", bound="RunConfig")

#: The default of an option that gets its value when the config is made. See ``RunConfig.NETWORK_OPTIONS``.
FILLED_IN: Any = None


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """Data, length, device and folder of a training run."""

    #: The command that trains it.
    COMMAND: ClassVar[str]
    #: The options that may differ when a run is resumed. None of them changes what an iteration computes, except for
    #: the rounding of another device, implementation, precision or number of threads. ``data`` may have moved.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({
        "data", "run", "resume", "epochs", "iterations", "device", "impl", "precision", "tune", "threads", "cache",
        "log_every", "sample_every", "checkpoint_every", "keep", "sample_attributes",
    })  # fmt: skip

    #: The options with which the networks are made. One that is not given gets its value from the networks in ``init``;
    #: without ``init`` it gets this value, where None means: as the preset has it.
    NETWORK_OPTIONS: ClassVar[Mapping[str, Any]] = {"image_size": 128, "width": 64}

    # What to learn from, and what to start from.
    data: str = "drawn"
    """'drawn' (the built-in faces), or a folder with CelebA in any of its usual forms, with photos and an attribute
    file, with a folder of photos per class, or with parquet files."""
    split: Literal["official", "paper"] = "official"
    """Which photos are held out: CelebA's own partition, or the paper's random 185,000 / 15,000 (Sec. 5.1)."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes to learn. By default all."""
    strict: bool = False
    """Refuse a dataset with broken photos or unmatched rows instead of skipping them."""
    drawn_count: int = 20_000
    """How many faces to draw, with --data drawn."""
    align: Literal["off", "auto"] = "off"
    """'auto' finds the face in each photo and aligns it as CelebA's, once; 'off' takes the centre square."""
    cache: Path | None = None
    """Folder of the prepared images. By default $IGAN_FAST_CACHE, or the user's cache folder."""
    init: Path | None = None
    """Start a new run from the weights of another one: a run folder (its best checkpoint), or a checkpoint folder.
    Attributes are matched by name; weights of new ones are drawn. The networks' sizes are those of that run."""

    # The size of the networks.
    image_size: int = FILLED_IN
    """Side of the square images in pixels: a multiple of 16 from 32 up. By default that of --init, otherwise 128."""
    width: int = FILLED_IN
    """Channels of the networks' largest feature maps; each halving of the side doubles them. By default those of
    --init, otherwise 64."""

    # How long.
    epochs: float | None = None
    """Passes over the training photos. 50 if neither --epochs nor --iterations is given."""
    iterations: int | None = None
    """Iterations in total, with --resume those before included."""

    # How to compute.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """'auto' takes the GPU if there is one."""
    impl: Literal["auto", "reference"] = "auto"
    """'auto': the fused operators, the fastest that this machine has. 'reference': plain PyTorch, equal up to rounding,
    but slower."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of the networks. Weights, statistics and losses are always float32. tf32 needs a GPU."""
    tune: Literal["off", "measure"] | None = None
    """'measure': on a GPU, time Triton's convolutions and blocks against the others, each at its first use, and take
    the faster from then on. 'off': a fixed choice, without them; they have run on a GPU only in part. By default what
    the environment variable IGAN_FAST_CONVOLUTION says, otherwise 'off'."""
    threads: int | None = None
    """CPU threads. By default PyTorch chooses; the command line takes fewer while other programs are busy."""
    seed: int = 0
    """Seed of the weights, the order of the photos, their mirroring, the noise and the flipped attributes; also of the
    drawn faces and of a random split, so another seed gives another dataset there."""

    # The run folder.
    run: Path | None = None
    """Folder of the run: config, checkpoints, samples, logs. By default runs/DATA-SIZE."""
    resume: bool = False
    """Continue the run in --run exactly from its newest undamaged checkpoint. Start the run if there is none."""
    log_every: int = 10
    """Iterations between two lines of the log."""
    sample_every: int = 500
    """Iterations between two sample grids."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints; each is scored on validation photos first."""
    keep: int = 3
    """How many of the newest checkpoints to keep, beside the best."""
    sample_attributes: tuple[str, ...] | None = None
    """The attributes reversed in the sample grids. By default Smiling, Male, Eyeglasses and Blond_Hair."""

    def __post_init__(self) -> None:
        for name in ALSO_TAKEN.keys() & {each.name for each in dataclasses.fields(self)}:
            object.__setattr__(self, name, converted(name, getattr(self, name)))
        if isinstance(self.init, Path):  # saved as it is, and read where another folder may be the current one
            object.__setattr__(self, "init", self.init.absolute())
        if missing := [name for name in self.NETWORK_OPTIONS if getattr(self, name) is None]:
            values = {**self.NETWORK_OPTIONS, **self._options_of_networks()}
            for name in missing:
                object.__setattr__(self, name, values[name])

    def _options_of_networks(self) -> Mapping[str, Any]:
        """The options of the networks that the run starts from; none without ``init``.

        Raises:
            InputError: their checkpoint cannot be used.
        """
        if not isinstance(self.init, Path):
            return {}
        if self.resume and isinstance(self.run, Path) and checkpoint_folders(self.run):
            saved = type(self).load(self.run)  # the other run may be gone
            return {name: getattr(saved, name) for name in self.NETWORK_OPTIONS}
        from igan_fast.train.warm_start import initial_options

        return initial_options(self)

    @abstractmethod
    def method_class(self) -> type[Method[Any]]:
        """The class of what is trained. It is imported here, because a config is also made where nothing is trained."""

    @abstractmethod
    def check_own(self, device: torch.device) -> None:
        """Check the options that a subclass adds.

        Raises:
            InputError: names the option, its value and what was expected.
        """

    @property
    @abstractmethod
    def photos_per_iteration(self) -> int:
        """How many photos of each domain an iteration takes."""

    def validate(self) -> None:
        """Check the options before anything starts.

        Raises:
            InputError: names the option, its value and what was expected.
        """
        check_config(self)

    def to_json(self) -> dict[str, Any]:
        """Return the options as config.json holds them: plain JSON values, without ``resume``."""
        values = dataclasses.asdict(self)
        del values["resume"]
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def with_older_values(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Complete a saved config with the options that older versions did not have."""
        return {"align": "off", "init": None, "tune": None, **saved}

    @classmethod
    def added_since(cls, saved: Mapping[str, Any]) -> list[str]:
        """The options that a saved config lacks because an older version wrote it."""
        return []

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "config.json", complete: bool = False) -> Self:
        """The inverse of ``to_json``.

        Args:
            values: options by name. The other options get their defaults; with ``complete``, those that older versions
                did not have get the value that their runs had.
            where: the file that the values come from, for messages.
            complete: raise an error if an option is missing that every version saves.

        Raises:
            InputError: a name is unknown, a value has the wrong type, or an option is missing (``complete``).
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            for field, command in (("method", "baseline"), ("preset", "train")):
                if field in unknown:
                    raise InputError(f"{where}: belongs to a run of igan-fast {command}, found by {cls.COMMAND}")
            raise InputError(f"{where}: unknown option {unknown[0]!r}; it was written by another version of igan_fast")
        if complete:
            values = cls.with_older_values(values)
        types = option_types(cls)
        for name, found in values.items():
            try:
                reason = wrong_type(converted(name, found), types[name])
            except InputError as error:  # from given_path
                raise InputError(f"{where}: {error}") from None
            if reason:
                raise InputError(f"{where}: {name} is {reprlib.repr(found)}: {reason}")
        if complete and (missing := sorted(names - {"resume"} - set(values))):
            raise InputError(f"{where}: damaged: {missing[0]} is missing")
        return cls(**values)

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """Load the config saved in a run folder. Its ``run`` is that folder, even if the run has been moved.

        ``train(dataclasses.replace(TrainConfig.load(run), resume=True))`` continues it.

        Raises:
            InputError: the config is missing, cannot be read, or is damaged.
        """
        run = given_path(run, "run")
        path = run / "config.json"
        try:
            values = read_json(path)
        except FileMissing:
            raise InputError(f"{path}: not found; {run} holds no training run") from None
        # The saved `run` is the value that was given, perhaps None, and the folder may have been moved since.
        return dataclasses.replace(cls.from_json(values, where=str(path), complete=True), run=Path(run))

    def check_resumable(self, saved: RunConfig) -> None:
        """Check that no option changes what a resumed run computes.

        Raises:
            InputError: names the first option that differs from the ``saved`` config.
        """
        for f in dataclasses.fields(self):
            mine, theirs = getattr(self, f.name), getattr(saved, f.name)
            if f.name not in self.MAY_CHANGE and mine != theirs:
                raise InputError(f"{option(f.name)} is {mine}, but this run was started with {theirs}")
