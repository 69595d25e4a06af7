"""Options of `align`: its three modules as switches, and what the paper leaves open."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fewshot_cli.contracts import Options

Deform = Literal["v1", "v2", "plain", "none"]


class AlignOptions(Options):
    """The three modules as switches, and what the paper leaves open; defaults are its text where it has one."""

    deform: Deform = Field(
        "v1", description="block φ of FOE: deformable convolution (v2 with a mask), an ordinary one, or none"
    )
    deform_layers: int = Field(1, ge=1, le=8, description="layers of φ, each with batch norm and ReLU")
    deform_residual: bool = Field(False, description="add φ's input to its output")
    mask: bool = Field(True, description="FOE's attention mask (eq. 2, 3)")
    correspondence: Literal["softmax", "plan", "none"] = Field(
        "softmax",
        description="LSC's transport of support features: row softmax (eq. 5), the recipe's solver's plan, or no LSC",
    )
    softmax_over: Literal["support", "query"] = Field(
        "support",
        description="positions whose weights sum to one: the support's (text) or the query's (eq. 5 as printed)",
    )
    temperature: float = Field(1.0, gt=0, le=1e3, description="divides the correlations; the paper has none")
    learn_temperature: bool = Field(False, description="train the temperature, starting from that value")
    embed: bool = Field(True, description="LSC's embedding g before the correlation")
    embed_channels: int | None = Field(None, ge=1, le=65536, description="width of g (default: half the channels)")
    values: Literal["raw", "embedded"] = Field(
        "raw", description="features that are transported and compared: FOE's output, or g's"
    )
    manipulate: bool = Field(True, description="SSM: move each position by a predicted offset (eq. 7, 8)")
    offset_channels: int | None = Field(
        None, ge=1, le=65536, description="width of SSM's predictor h (default: the channels, at most 128)"
    )
    offset_scale: float = Field(1.0, gt=0, le=2, description="largest offset, in halves of the map")
    offset_pixels: float | None = Field(None, gt=0, le=1000, description="largest offset in positions instead")
    offset_zero: bool = Field(True, description="start SSM at no offset, so that adding it changes nothing at first")
    distance: Literal["squared_euclidean", "euclidean"] = "squared_euclidean"
    reduce: Literal["mean", "sum", "gap"] = Field(
        "mean",
        description="squares over positions: their mean or sum (before the root of euclidean), or "
        "pooled features first",
    )
    scale: float = Field(1.0, gt=0, le=1e6, description="initial value of the learned factor of the logits")
    shots: Literal["before", "after", "score"] = Field(
        "before", description="several shots: mean of their maps, of their aligned maps, or of their scores"
    )
    chunk: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        json_schema_extra={"speed": True},
        description="pairs in one piece (default: set by the free memory); changes rounding only, unless "
        "a solver's stop looks at its batch",
    )

    @model_validator(mode="after")
    def _one_range(self) -> "AlignOptions":
        if self.offset_pixels is not None and self.offset_scale != 1:
            raise PydanticCustomError(
                "offsets", "offset_pixels and offset_scale both say how far positions move; leave one out"
            )
        return self
