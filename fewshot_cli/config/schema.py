"""The schema of a recipe: every section, key, range and default."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_serializer

OWN = "own"  # weights that the backbone brings
MAX_PIXELS = 128_000_000  # an image with more to hold in memory is taken for a decompression bomb
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range whose ends are swapped."""
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]:g} lies above the upper end {pair[1]:g}; swap them")
    return pair


def name_of_folder(text: str) -> str:
    """Refuse what some systems take for a device, or for too long."""
    device = text.partition(".")[0].upper()
    if device in ("CON", "PRN", "AUX", "NUL") or (device[:3] in ("COM", "LPT") and device[3:].isdigit()):
        raise ValueError(f"{text} is the name of a device on Windows; choose another one")
    if len(text) > 200:
        raise ValueError(f"a name of {len(text)} characters is longer than file systems allow; choose a shorter one")
    return text


def colour(text: str) -> str:
    """Refuse what is no colour."""
    _rgb(text)
    return text


def _rgb(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ValueError(f"{text!r} is no colour; write a name such as white, or #rrggbb") from None
    return red, green, blue


class Section(BaseModel):
    """A mapping of a recipe: unknown keys are refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PartSpec(BaseModel):
    """A part by name with its validated options; written `name` alone or a mapping with `name` and the options."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: str
    options: Any = None

    @field_serializer("options")
    def _plain(self, options: Any) -> Any:
        return json.loads(options.model_dump_json()) if options is not None else {}


class DatasetSpec(Section):
    """Which prepared dataset, and whether images that have a bounding box are cropped to it."""

    name: str = Field(description="a dataset of `fsl list datasets`")
    store: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"), AfterValidator(name_of_folder)] | None = (
        Field(None, description="name it was prepared under (default: name)")
    )
    crop: Literal["box", "raw"] = Field("box", description="crop to the box where the dataset has boxes, or not")


class ImageSpec(Section):
    """The fixed part of preprocessing: squash to resize×resize, centre-crop size×size, normalise."""

    size: int = Field(84, ge=8, le=1024, description="side of the network's input")
    resize: int | None = Field(None, ge=8, le=1024, description="side after squashing, before the centre crop")
    mean: tuple[float, float, float] = Field(
        (125.3 / 255, 123.0 / 255, 113.9 / 255), description="of red, green and blue, subtracted from pixels in 0…1"
    )
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (63.0 / 255, 62.1 / 255, 66.7 / 255), description="of red, green and blue, by which they are then divided"
    )
    background: Annotated[str, AfterValidator(colour)] = Field(
        "white", description="colour behind transparent parts of an image: a name, or #rrggbb"
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="how images are brought to another size, always averaging what a pixel covers"
    )
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="pixels of one image of your own that may be held in memory; changes no result"
    )

    @property
    def behind(self) -> tuple[int, int, int]:
        """`background` as red, green and blue."""
        return _rgb(self.background)

    @property
    def decoded(self) -> int:
        """Side of a decoded image before the centre crop."""
        return max(self.size, self.resize or self.size)


class EpisodeSpec(Section):
    """The shape of an evaluation episode."""

    way: int = Field(5, ge=2, le=1000, description="classes per episode")
    shot: int = Field(1, ge=1, le=1000, description="support images per class")
    query: int = Field(15, ge=1, le=1000, description="queries per class")


class EvalSpec(Section):
    """Which split, by which protocol, and how many episodes."""

    protocol: Literal["episodes", "classification"] = Field(
        "episodes", description="few-shot episodes of new classes, or the classes that the classifier was trained on"
    )
    split: Literal["train", "val", "test"] = Field("test", description="the split whose classes are evaluated")
    episodes: Count = Field(600, description="number of episodes; more of them narrow the interval")
    without: str | None = Field(
        None,
        description="a prepared dataset, such as the training one; classes whose species it also has are left out",
    )


class AugmentSpec(Section):
    """Training augmentation, drawn on the device for a whole batch."""

    crop: Literal["none", "pad", "random_resized"] = Field(
        "random_resized", description="no crops, crops of a padded image, or random parts brought to size"
    )
    scale: Annotated[tuple[Share, Share], AfterValidator(ascending)] = Field(
        (0.08, 1.0), description="area share of a random resized crop"
    )
    side: int | None = Field(
        None, ge=8, le=1024, description="side of the images that crops are cut from (default: that of evaluation)"
    )
    flip: bool = Field(True, description="mirror half of the images")
    jitter: Rate = Field(0.0, description="strength of brightness, contrast and saturation changes")


class MixSpec(Section):
    """Images mixed with their neighbour in the batch; with both kinds, each image draws one."""

    mixup: float = Field(
        0.0, ge=0, le=100, description="alpha of mixup's Beta(alpha, alpha), 0 for none (Zhang et al. 2018)"
    )
    cutmix: float = Field(0.0, ge=0, le=100, description="the same for CutMix (Yun et al. 2019)")
    share: Rate = Field(1.0, description="share of images that are mixed")


class OptimizerSpec(Section):
    """The optimiser of a training verb."""

    name: Literal["sgd", "adam"] = Field("sgd", description="stochastic gradient descent, or Adam")
    lr: float = Field(0.1, gt=0, le=1000, description="learning rate at the start")
    momentum: Rate = Field(0.9, description="momentum of sgd")
    nesterov: bool = Field(True, description="Nesterov's momentum, of sgd")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="L2 penalty on the weights")


class ScheduleSpec(Section):
    """Learning rate over epochs; `step` multiplies by gamma every `every` epochs, or after each of the epochs `at`."""

    name: Literal["constant", "step", "cosine"] = Field("step", description="how the learning rate changes")
    every: Count = Field(30, description="epochs between two steps")
    at: tuple[Count, ...] = Field((), description="epochs after which there is a step, in place of every")
    gamma: Rate = Field(0.2, description="factor of a step")


class ValidateSpec(Section):
    """Few-shot episodes on the validation split, on which the best checkpoint is chosen."""

    every: Count = Field(1, description="epochs between validations")
    episodes: Count = Field(100, description="validation episodes; the same ones every time")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without improvement")
    shot: int = Field(1, ge=1, le=1000, description="support images per class of a validation episode")
    head: PartSpec | None = Field(None, description="head to validate with (default: the recipe's)")


TrainingSide = Annotated[
    int | None,
    Field(
        ge=8,
        le=1024,
        description="side of the network's input in training; networks often see more on larger images than they were "
        "trained on (default: image.size)",
    ),
]


class GrowSpec(Section):
    """Small images first, which cost less: the network's input grows to its side in training in steps of eight
    pixels.
    """

    start: int | None = Field(
        None,
        ge=8,
        le=1024,
        multiple_of=8,
        description="side of the input in the first epoch, a multiple of 8 (default: the last side throughout)",
    )
    share: Share = Field(0.7, description="share of the epochs after which size is reached")

    def side(self, size: int, epoch: int, epochs: int) -> int:
        """Side of the input in an epoch, counted from 0, that ends at `size`."""
        done = epoch / (self.share * epochs)
        if self.start is None or done >= 1:
            return size
        return min(size, 8 * round((self.start + done * (size - self.start)) / 8))


class DistilSpec(Section):
    """A finished run of the same network as a teacher, whose answers are learned beside the labels."""

    teacher: str | None = Field(
        None, description="its weights: a file of fsl pretrain, or the name of installed ones (default: no teacher)"
    )
    weight: Rate = Field(0.5, description="share of the teacher in the loss; the labels have the rest")
    temperature: float = Field(4.0, gt=0, le=1000, description="softens both distributions that are compared")


Precision = Annotated[
    Literal["32", "bf16"], Field(description="float32 throughout, or bfloat16 where PyTorch's autocast takes it")
]


class PretrainSpec(Section):
    """Cross-entropy over all base classes (DeepEMD's first stage)."""

    start: str | None = Field(
        None, description="weights to start from: a file, or the name of installed weights (default: random)"
    )
    epochs: Count = Field(120, description="passes over the training images")
    batch: int = Field(128, ge=2, le=65536, description="images per step, of all processes together")
    classifier: PartSpec = Field(PartSpec(name="linear"), description="what is trained on top of the backbone")
    solver: PartSpec | None = Field(None, description="solver of a classifier that needs one (default: the recipe's)")
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    augment: AugmentSpec = AugmentSpec()
    size: TrainingSide = None
    grow: GrowSpec = GrowSpec()
    mix: MixSpec = MixSpec()
    label_smoothing: Rate = Field(0.0, description="share of each label that is spread over all classes")
    distil: DistilSpec = DistilSpec()
    rotation: float = Field(
        0.0, ge=0, le=100, description="loss weight of predicting an image's rotation, one of four; trains on all four"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of averaged weights, which are validated and kept; 0 for none"
    )
    precision: Precision = "32"
    compile: bool = Field(False, description="torch.compile the step, which takes a minute and pays on a GPU")
    validation: ValidateSpec = ValidateSpec()


class PhaseSpec(Section):
    """A phase of meta-training: what is given here replaces the section's own values."""

    epochs: Count | None = Field(None, description="epochs of this phase")
    steps: Count | None = Field(None, description="optimiser steps per epoch")
    optimizer: OptimizerSpec | None = None
    schedule: ScheduleSpec | None = None
    options: dict[str, Any] = Field({}, description="options of the head in this phase")
    train: tuple[str, ...] | None = Field(None, description="what is trained in this phase")


class MetatrainSpec(Section):
    """Episodes, end to end through the head (DeepEMD's second stage)."""

    start: str | None = Field(
        None,
        description="pre-trained weights by name, or none for random ones (default: the recipe's own pre-training)",
    )
    train: tuple[str, ...] = Field(
        (), description="what is trained, such as backbone, head or head.offsets (default: everything)"
    )
    phases: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], PhaseSpec | None] | None = Field(
        None,
        description="phases by name, one after another, each from the best weights of the one "
        "before; null leaves one out",
    )
    epochs: Count = Field(100, description="epochs, each of so many steps")
    steps: Count = Field(50, description="optimiser steps per epoch")
    episodes_per_step: Count = Field(1, description="episodes whose mean loss is a step's; solved in one call")
    way: int = Field(5, ge=2, le=1000, description="classes per training episode")
    shot: int = Field(1, ge=1, le=1000, description="support images per class of a training episode")
    query: int = Field(15, ge=1, le=1000, description="queries per class of a training episode")
    optimizer: OptimizerSpec = OptimizerSpec(lr=5e-4)
    schedule: ScheduleSpec = ScheduleSpec(every=10, gamma=0.5)
    augment: AugmentSpec = AugmentSpec()
    size: TrainingSide = None
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of averaged weights, which are validated and kept; 0 for none"
    )
    precision: Precision = "32"
    compile: bool = Field(False, description="torch.compile the step, which takes a minute and pays on a GPU")
    validation: ValidateSpec = ValidateSpec(episodes=1000)


class ExpectSpec(Section):
    """What `eval --check` compares with: the accuracy in per cent, its tolerance, and the data it was measured on."""

    accuracy: float = Field(ge=0, le=100, description="per cent")
    tolerance: float = Field(gt=0, le=100, description="how far below, in percentage points, still passes")
    source: str = Field(description="where the accuracy comes from, such as a command or a paper's table")
    data: str | None = Field(
        None,
        pattern="^[0-9a-f]{8,64}$",
        description="the split it was measured on: its SHA-256 or the beginning of it (none: any data)",
    )

    weights: str | None = Field(
        None, pattern="^[0-9a-f]{8,64}$", description="the weights it was measured with, likewise (none: any)"
    )
    two_sided: bool = Field(False, description="whether an accuracy above the tolerance is a miss too")

    def fits(self, data: str, weights: str) -> bool:
        """Whether it was measured on this split and with these weights, given by their SHA-256, or speaks of any."""
        return data.startswith(self.data or "") and weights.startswith(self.weights or "")

    def passes(self, accuracy: float) -> bool:
        """Whether an accuracy is what is expected."""
        above = accuracy <= self.accuracy + self.tolerance or not self.two_sided
        return above and accuracy >= self.accuracy - self.tolerance


def _several(given: Any) -> Any:
    """A single mapping as a list of one; a tuple, which strict validation requires of data that is no longer JSON."""
    return (given,) if isinstance(given, dict) else tuple(given) if isinstance(given, list) else given


class Recipe(Section):
    """Everything a run depends on."""

    name: str = Field(description="that of its file, which names it")
    description: str = Field("", description="one sentence for readers")
    dataset: DatasetSpec
    image: ImageSpec = ImageSpec()
    backbone: PartSpec = Field(description="the network that turns images into maps of features")
    extractor: PartSpec = Field(PartSpec(name="fcn"), description="which local features of an image are compared")
    head: PartSpec = Field(description="what scores a query by the support images")
    solver: PartSpec = Field(PartSpec(name="network_simplex"), description="what solves the head's transport problems")
    weights: str | None = Field(
        None,
        description="shipped or trained weights by name, own (what the backbone brings), none (random), "
        "hf:OWNER/NAME[@REVISION][:FILE] or timm:MODEL",
    )
    seed: int = Field(1, ge=0, lt=2**63, description="decides the episodes, and what is random in training")
    episode: EpisodeSpec = EpisodeSpec()
    eval: EvalSpec = EvalSpec()
    pretrain: PretrainSpec = PretrainSpec()
    metatrain: MetatrainSpec = MetatrainSpec()
    expect: Annotated[tuple[ExpectSpec, ...], BeforeValidator(_several)] = Field(
        (), description="one, or a list: one for each version of the data"
    )

    @property
    def start(self) -> str:
        """Name of its pre-trained weights."""
        first = None if self.metatrain.start == "none" else self.metatrain.start
        return first or self.weights or self.name

    @property
    def phases(self) -> dict[str, PhaseSpec]:
        """The phases of meta-training that are not left out, in order."""
        return {name: phase for name, phase in (self.metatrain.phases or {}).items() if phase is not None}

    @property
    def classifier_solver(self) -> PartSpec:
        """The solver of its classifier."""
        return self.pretrain.solver or self.solver

    def expectation(self, data: str, weights: str) -> ExpectSpec | None:
        """What it expects on this split with these weights; the entry that names most of them comes first."""
        fitting = (e for e in self.expect if e.fits(data, weights))
        return min(fitting, key=lambda e: (e.data is None) + (e.weights is None), default=None)

    @property
    def store(self) -> str:
        """Name of the packed store the recipe reads."""
        return self.dataset.store or self.dataset.name

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default filled in."""
        return json.loads(self.model_dump_json())

    def identity(self) -> dict[str, Any]:
        """What decides the result: `resolved` without descriptions, expectations and options that only change speed."""
        data = {k: v for k, v in self.resolved().items() if k not in ("name", "description", "expect")}
        data["metatrain"]["order"] = list(self.phases)
        del data["pretrain"]["start"]  # runs record the hash of the weights themselves
        del data["image"]["max_pixels"]
        if self.image.behind == (255, 255, 255):  # runs from before it was there go on
            del data["image"]["background"]
        if self.image.interpolation == "bilinear":  # the same
            del data["image"]["interpolation"]
        if self.pretrain.grow == GrowSpec():  # runs from before it was there go on
            del data["pretrain"]["grow"]
        if self.pretrain.distil == DistilSpec():  # the same
            del data["pretrain"]["distil"]
        else:
            del data["pretrain"]["distil"]["teacher"]  # as for start
        for stage in ("pretrain", "metatrain"):  # the same
            if data[stage]["size"] is None:
                del data[stage]["size"]
        parts = (
            ("solver", self.solver, data),
            ("head", self.head, data),
            ("solver", self.pretrain.solver, data["pretrain"]),
        )
        for name, spec, place in parts:
            if spec is not None:
                fast = [
                    k for k, f in type(spec.options).model_fields.items() if (f.json_schema_extra or {}).get("speed")
                ]
                place[name]["options"] = {k: v for k, v in place[name]["options"].items() if k not in fast}
        return data
