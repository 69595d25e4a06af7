"""Any model of timm (PyTorch Image Models, Wightman 2019), by name, as a backbone."""

import re
from contextlib import suppress
from functools import cache
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from fewshot_cli.contracts import Backbone, Options, OwnWeights
from fewshot_cli.errors import DataError, RecipeError

_PAIR = "pip install -c constraints.txt '.[timm]' in a checkout takes releases of torch, torchvision and timm that fit"
_COLLECTIONS = {  # in the tags that timm gives to weights
    "in1k": "imagenet-1k",
    "in12k": "imagenet-12k",
    "in21k": "imagenet-21k",
    "in22k": "imagenet-21k",
    "lvd142m": "lvd-142m",
    "lvd1689m": "lvd-1689m",
    "laion2b": "laion-2b",
    "laion400m": "laion-400m",
    "openai": "wit-400m",
    "webli": "webli",
    "jft300m": "jft-300m",
    "ig1b": "instagram-1b",
    "yfcc100m": "yfcc-100m",
    "merged2b": "merged-2b",
}


class TimmOptions(Options):
    """Which model, and which of its maps."""

    model: str = Field("resnet18", description="a model of timm, with a tag of weights if wanted (resnet18.a1_in1k)")
    pretrained: bool = Field(True, description="whether timm's weights for it are taken where a recipe names no others")
    stage: int = Field(-1, ge=-100, le=100, description="which map: a stage or block counted from 0, −1 for the last")
    image: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="side of the images that it is built for, for models that take only one (default: its own)",
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="share of residual branches left out in training")


class Timm(Backbone[TimmOptions]):
    """A model of timm: convolutional maps, or a transformer's tokens as a map without those before the patches.

    images [N,3,H,W] → [N,d,h,w] of a stage, by the model's `forward_intermediates`; d, h and w are the model's. What
    images must be like (size, mean, standard deviation, interpolation, centre crop) is as its own configuration says.
    Parameters have timm's names: `metatrain.train=[backbone.blocks.5]` trains the last blocks. `fsl list backbones
    --timm 'vit_*'` searches for models. Vision transformers take any size that their patches divide.
    """

    pretrained = True
    trial = {"model": "resnet10t", "pretrained": False}

    def __init__(self, options: TimmOptions | None = None) -> None:
        super().__init__(options)
        configuration(self.options.model)  # an unknown one is told
        network: Any = self._made(False)
        self._network: Any
        object.__setattr__(self, "_network", network)
        # this module is the network by another forward: they share what they are made of, by the same names
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        self.channels = self._channels()

    def _made(self, pretrained: bool) -> torch.nn.Module:
        options = self.options
        wanted: dict[str, Any] = {"num_classes": 0}
        if options.drop_path:
            wanted["drop_path_rate"] = options.drop_path
        if options.image:
            wanted["img_size"] = options.image
        made: torch.nn.Module
        for extra in ({"dynamic_img_size": True}, {}):
            with suppress(TypeError):  # how timm says that a model does not take this
                made = imported().create_model(options.model, pretrained=pretrained, **wanted, **extra)
                return made
        known = {"drop_path_rate": "drop_path", "img_size": "image"}
        given = [f"backbone.{known[key]}" for key in wanted if key in known]
        raise RecipeError(f"backbone timm: {options.model} does not take {' or '.join(given)}; leave it out")

    def _channels(self) -> int:
        side = self.options.image or configuration(self.options.model)["input_size"][-1]
        training = self.training
        with torch.no_grad():
            channels = int(self.eval()(torch.zeros(1, 3, side, side)).shape[1])
        self.train(training)
        return channels

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, for the network too, which has a mode of its own."""
        self._network.training = mode
        return super().train(mode)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """As `Part.unavailable_reason`."""
        try:
            imported()
        except RecipeError as error:
            return str(error)
        return None

    @classmethod
    def brings_weights(cls, options: TimmOptions) -> bool:
        """As `Backbone.brings_weights`."""
        return options.pretrained

    @classmethod
    def preprocessing(cls, options: TimmOptions) -> dict[str, Any]:
        """As `Backbone.preprocessing`, by the model's configuration; the centre crop is a share of the image there."""
        config = configuration(options.model)
        size = options.image or config["input_size"][-1]
        return {
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "size": size,
            "resize": round(size / config["crop_pct"]),
            "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        }

    def own_weights(self) -> OwnWeights:
        """As `Backbone.own_weights`: downloaded by timm, or from its cache."""
        model, config = self.options.model, configuration(self.options.model)
        tag = config.get("tag") or ""
        if not (config.get("hf_hub_id") or config.get("url") or config.get("file")):
            raise DataError(f"backbone timm: timm has no weights for {model}; give --weights, or another model")
        try:
            network = self._made(True)
        except Exception as error:  # what a download raises is up to the hub's client
            said = str(error).partition("\n")[0]
            raise DataError(
                f"backbone timm: the weights of {model} could not be had ({said}); get online, or give --weights FILE"
            ) from error
        licence = config.get("license") or "see the model's page"
        name = f"{config['architecture']}.{tag}" if tag else model
        return OwnWeights(network.state_dict(), f"timm {imported().__version__}: {name}", licence, saw(tag))

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""
        stage = self.options.stage
        try:
            maps = self._network.forward_intermediates(images, indices=[stage], intermediates_only=True)[-1]
        except (IndexError, AssertionError) as error:
            if "index" not in str(error).lower() and not isinstance(error, IndexError):
                raise RecipeError(f"backbone timm: {self.options.model} takes no such images: {error}") from error
            raise RecipeError(f"backbone timm: {self.options.model} has no stage {stage}") from error
        return maps

    @staticmethod
    def search(pattern: str) -> list[dict[str, str]]:
        """The models whose names hold a pattern such as `dinov3*`, with those tags that have weights."""
        library, pattern = imported(), f"*{pattern.lstrip('*')}"
        if "*" not in pattern[1:]:
            pattern += "*"
        with_weights = library.list_models(pattern, pretrained=True)
        tags: dict[str, list[str]] = {name: [] for name in library.list_models(pattern)}
        for name in with_weights:
            tags.setdefault(name.partition(".")[0], []).append(name.partition(".")[2])
        return [{"model": name, "weights": ", ".join(found) or "-"} for name, found in tags.items()]


@cache
def imported() -> Any:
    """timm, beside a torchvision of another build too. Raises `RecipeError` where it does not import.

    timm needs only torchvision's transforms, but a torchvision that was compiled for another torch does not register
    the operators whose shapes it declares. Two schemas without an implementation let it import.
    """
    try:
        import timm
    except ImportError as error:
        raise RecipeError(f"backbone timm: needs the package timm ({error}); {_PAIR}") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise RecipeError(f"backbone timm: timm does not import ({error}); {_PAIR}") from error
        return _with_schemas()
    return timm


def _with_schemas() -> Any:
    import sys

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # its operators go with it
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # half imported
    try:
        import timm
    except Exception as error:
        raise RecipeError(f"backbone timm: timm does not import ({error}); {_PAIR}") from error
    return timm


_KEPT: list[Any] = []


@cache
def configuration(model: str) -> dict[str, Any]:
    """timm's configuration of a model. Raises `RecipeError` for an unknown one, with the nearest names."""
    library = imported()
    plain, _, tag = model.partition(".")
    if plain not in library.list_models():
        near = library.list_models(f"*{plain[:6]}*")[:3]
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise RecipeError(f"backbone timm: timm has no model {plain!r}{hint}; search with `fsl list backbones --timm`")
    tagged = [name.partition(".")[2] for name in library.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tagged:
        raise RecipeError(f"backbone timm: {plain} has no weights {tag!r}, but {', '.join(tagged) or 'none'}")
    found = library.models.get_pretrained_cfg(model)
    config: dict[str, Any] = found.to_dict() if found is not None else {}
    plain_defaults = {
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "architecture": plain,
    }
    return {**plain_defaults, **{key: value for key, value in config.items() if value is not None}}


def saw(tag: str) -> tuple[str, ...]:
    """The collections of images in a tag of weights such as `augreg_in21k_ft_in1k`; `unknown` where it names none."""
    words = re.split(r"[_.]", tag)
    return tuple(dict.fromkeys(_COLLECTIONS[word] for word in words if word in _COLLECTIONS)) or ("unknown",)
