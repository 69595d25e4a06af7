"""What `--help` says of verbs beside their options: their group, what they do in a few words, and two examples.

A verb declares itself by an entry of `GUIDE` under its name (`gallery add` for a verb of a group). One without an entry
is listed under `OTHER` with the first sentence of its docstring, and has no examples.
"""

from dataclasses import dataclass

DATA, TRAINING, EVALUATION = "Data", "Training", "Evaluation"
PHOTOS, LOOKING, OTHER = "Your photos", "Looking around", "Other"
GROUPS = (DATA, TRAINING, EVALUATION, PHOTOS, LOOKING, OTHER)  # in this order


@dataclass(frozen=True)
class Example:
    """A command line that works as it stands; a test runs it unless `needs` says what it needs that is not there."""

    command: str
    says: str
    needs: str = ""


@dataclass(frozen=True)
class Entry:
    """A verb's group, what it does in a few words, its examples, and its usage where the parser's is not the whole
    truth. `again` is whether the same command continues what was interrupted, without an option; `asks` whether the
    verb asks questions at once, which nothing may be drawn over.
    """

    group: str
    says: str
    examples: tuple[Example, ...] = ()
    usage: str = ""
    again: bool = False
    asks: bool = False


FIRST = Example("fsl eval glyphs_5w1s", "a few-shot accuracy in seconds, from data and weights that come with fsl")

_A_DOWNLOAD = "a download of 170 MB"
_A_CHECKPOINT = "the authors' checkpoint"
_HOURS = "the dataset, and hours"

GUIDE: dict[str, Entry] = {
    "prepare": Entry(
        DATA,
        "pack a public archive or your folders into one store",
        (
            Example("fsl prepare cifar_fs", "downloads CIFAR-100 and packs it", _A_DOWNLOAD),
            Example("fsl prepare images --from examples/ --dry-run", "what your folders would become"),
        ),
    ),
    "init": Entry(
        DATA,
        "a recipe of your own from five answers",
        (
            Example("fsl init mine.yaml --photos examples/ --yes", "from your photos, without a question"),
            Example("fsl init glyphs.yaml --dataset glyphs --shots 5 --yes", "from a dataset"),
        ),
        asks=True,
    ),
    "features": Entry(
        DATA,
        "write what a backbone makes of a split, for other tools",
        (
            Example("fsl features glyphs_5w1s -o test.npz", "maps [N,d,h,w], labels and names"),
            Example("fsl features glyphs_5w1s --split val -o val.safetensors", "of another split"),
        ),
    ),
    "pretrain": Entry(
        TRAINING,
        "train a backbone on all base classes",
        (
            Example("fsl pretrain glyphs_5w1s --dry-run", "is everything in place?"),
            Example("fsl pretrain cifar_fs_5w1s_conv64", "on one GPU, or patiently on a CPU", _HOURS),
        ),
    ),
    "metatrain": Entry(
        TRAINING,
        "train backbone and head on episodes",
        (
            Example("fsl metatrain glyphs_5w1s --weights glyphs_conv64 --dry-run", "is everything in place?"),
            Example("fsl metatrain cifar_fs_5w1s_conv64", "from the newest pre-training in runs/", _HOURS),
        ),
    ),
    "import": Entry(
        TRAINING,
        "turn the authors' checkpoint into weights",
        (
            Example("fsl import max_acc.pth -o deepemd.safetensors", "DeepEMD's or FEAT's", _A_CHECKPOINT),
            Example("fsl import best.pth --backbone resnet12 -o mine.safetensors", "your own", _A_CHECKPOINT),
        ),
    ),
    "reproduce": Entry(
        TRAINING,
        "a dataset's published accuracies from scratch",
        (
            Example("fsl reproduce fc100_conv64", "prepares, trains and evaluates", _HOURS),
            Example("fsl reproduce cub --from CUB_200_2011.tgz", "from an archive that you have", _HOURS),
        ),
        again=True,
    ),
    "eval": Entry(
        EVALUATION,
        "accuracy of a recipe on few-shot episodes, with interval",
        (
            Example("fsl eval glyphs_5w1s", "600 episodes in seconds; needs no data"),
            Example("fsl eval glyphs_5w1s --set head=prototype --format json", "another head, for programs"),
        ),
    ),
    "open-set": Entry(
        EVALUATION,
        "how well classes without support are told",
        (
            Example("fsl open-set glyphs_5w1s --episodes 20", "five unknown classes in each episode"),
            Example("fsl open-set glyphs_5w1s --unknown 3 --set head=prototype", "three, by another head"),
        ),
    ),
    "compare": Entry(
        EVALUATION,
        "the paired difference of two evaluations",
        (
            Example("fsl compare runs/eval/glyphs_5w1s runs/eval/glyphs_5w1s-2", "first minus second"),
            Example("fsl compare runs/eval/glyphs_5w1s runs/eval/glyphs_5w1s-2 --format json", "for programs"),
        ),
    ),
    "table": Entry(
        EVALUATION,
        "a paper's table: every row, ours beside theirs",
        (
            Example("fsl table deepemd.T1 --dataset cub", "all rows on the same episodes", "the dataset, and minutes"),
            Example("fsl table deepemd.T2 --recipe glyphs_5w1s --rows equal --episodes 20", "one row, quickly"),
        ),
        again=True,
    ),
    "report": Entry(
        EVALUATION,
        "a page to look into runs: classes, queries, what matched",
        (
            Example("fsl report runs/eval/glyphs_5w1s -o report.html", "one file for a browser"),
            Example("fsl report runs/eval/glyphs_5w1s runs/eval/glyphs_5w1s-2 -o both.html", "two runs compared"),
        ),
    ),
    "sweep": Entry(
        EVALUATION,
        "every combination of recipes and settings, compared",
        (
            Example("fsl sweep -r glyphs_5w1s --grid head=emd,prototype --episodes 20", "two heads"),
            Example("fsl sweep -r glyphs_5w1s --grid episode.shot=1,5 --dry-run", "which cells would be evaluated?"),
        ),
    ),
    "profile": Entry(
        EVALUATION,
        "solvers side by side: speed, memory, exactness",
        (
            Example("fsl profile --solver network_simplex,opencv --sizes 9,25", "two solvers at two sizes"),
            Example("fsl profile --sizes 9,16,25 --solver network_simplex -o growth.png", "how time grows, drawn"),
        ),
    ),
    "classify": Entry(
        PHOTOS,
        "labels for your images from a few examples",
        (
            Example("fsl classify photos/ --support examples/", "a label and a probability for each image"),
            Example("fsl classify photos/ --support examples/ --format csv", "for a spreadsheet"),
        ),
        usage="fsl classify IMAGES... --support FOLDER [OPTIONS]",
    ),
    "calibrate": Entry(
        PHOTOS,
        "what the probabilities of classify are worth",
        (
            Example("fsl calibrate --support examples/", "leaves each example out once"),
            Example("fsl calibrate --support examples/ -o calibration.png", "and draws it"),
        ),
    ),
    "match": Entry(
        PHOTOS,
        "draw what in one image matches what in another",
        (
            Example("fsl match one.png two.png -o match.png", "two images of yours"),
            Example("fsl match --recipe glyphs_5w1s --episode 0 -o match.png", "a query against every class"),
        ),
        usage="fsl match LEFT RIGHT --out FILE [OPTIONS]",
    ),
    "align": Entry(
        PHOTOS,
        "draw how head align moves one map onto another",
        (
            Example("fsl align one.jpg two.jpg --recipe cub_5w1s_align -o maps.png", "two images", "trained weights"),
            Example("fsl align --episode 0 --recipe cub_5w1s_align -o maps.png", "a query", "trained weights"),
        ),
    ),
    "proxies": Entry(
        PHOTOS,
        "draw which proxies of a classifier an image matches",
        (
            Example("fsl proxies one.jpg -o proxies.png", "the three likeliest classes", "trained weights"),
            Example("fsl proxies one.jpg --class apple -o proxies.png", "one class", "trained weights"),
        ),
    ),
    "retrieve": Entry(
        PHOTOS,
        "Recall@k of a gallery, global and re-ranked",
        (
            Example("fsl retrieve --gallery examples/ --k 1,2", "each image among all others"),
            Example("fsl retrieve glyphs_5w1s --queries 20 --shortlist 10", "in a dataset's test split"),
        ),
    ),
    "finetune-sfc": Entry(
        PHOTOS,
        "learn a classifier from your own examples",
        (
            Example("fsl finetune-sfc --support examples/ --dry-run", "is everything in place?"),
            Example("fsl finetune-sfc images_5w5s_lite0 --support examples/ --dry-run", "by a recipe of your choice"),
        ),
    ),
    "export": Entry(
        PHOTOS,
        "a model for ONNX or torch.export",
        (
            Example("fsl export glyphs_5w1s -o backbone.pt2", "the backbone alone"),
            Example("fsl export --support examples/ -o classifier.onnx", "a whole classifier", "extra onnx"),
        ),
    ),
    "gallery": Entry(
        PHOTOS,
        "images embedded once and searched often",
        (
            Example("fsl gallery add mine/ photos/", "embeds them"),
            Example("fsl gallery search mine/ one.png", "finds those most like it"),
        ),
    ),
    "gallery add": Entry(
        PHOTOS,
        "embed images that are not in it yet",
        (
            Example("fsl gallery add mine/ photos/", "a folder of images"),
            Example("fsl gallery add mine/ photos/ --share 1/2", "half of them, for two machines at once"),
        ),
    ),
    "gallery remove": Entry(
        PHOTOS,
        "let images no longer be found",
        (
            Example("fsl gallery remove mine/ photos/0.png", "one image"),
            Example("fsl gallery remove mine/ photos/", "all that lay in a folder"),
        ),
    ),
    "gallery list": Entry(
        PHOTOS,
        "the names of its images",
        (
            Example("fsl gallery list mine/", "one a line"),
            Example("fsl gallery list mine/ --quiet", "and nothing else"),
        ),
    ),
    "gallery search": Entry(
        PHOTOS,
        "the images most like a query",
        (
            Example("fsl gallery search mine/ one.png --top 3", "the nearest three"),
            Example("fsl gallery search mine/ photos/ --format csv", "for each of many"),
        ),
    ),
    "list": Entry(
        LOOKING,
        "parts, datasets and recipes that are installed",
        (
            Example("fsl list heads", "what --set head=NAME takes"),
            Example("fsl list recipes", "what fsl eval NAME takes"),
        ),
    ),
    "show": Entry(
        LOOKING,
        "a part's options, or a recipe with every default",
        (
            Example("fsl show head emd", "its options, ranges and defaults"),
            Example("fsl show recipe glyphs_5w1s", "every key"),
        ),
    ),
    "doctor": Entry(
        LOOKING,
        "what works on this machine",
        (
            Example("fsl doctor", "versions, devices, data, solvers"),
            Example("fsl doctor --check head:prototype", "does a part meet its contract?"),
        ),
    ),
    "recipe": Entry(
        LOOKING,
        "print, copy or check recipes",
        (
            Example("fsl recipe cat glyphs_5w1s", "its file"),
            Example("fsl recipe cp glyphs_5w1s mine.yaml", "a start for your own"),
        ),
    ),
    "recipe ls": Entry(
        LOOKING,
        "recipes, and whether weights are at hand",
        (
            Example("fsl recipe ls", "all that are installed"),
            Example("fsl recipe ls --dataset cub", "those of a dataset"),
        ),
    ),
    "recipe set": Entry(
        LOOKING,
        "change a recipe file and keep its comments",
        (
            Example("fsl recipe set episode.shot=5 mine.yaml", "one key"),
            Example("fsl recipe set head=prototype eval.episodes=100 mine.yaml", "several"),
        ),
    ),
    "runs": Entry(
        LOOKING,
        "what is in the runs folder",
        (
            Example("fsl runs ls", "every run with its result"),
            Example("fsl runs show runs/eval/glyphs_5w1s", "one of them, whole"),
        ),
    ),
    "runs ls": Entry(
        LOOKING,
        "every run with its result",
        (
            Example("fsl runs ls", "all"),
            Example("fsl runs ls --kind eval", "of one verb"),
        ),
    ),
    "runs show": Entry(
        LOOKING,
        "what a run was, and what it gave",
        (
            Example("fsl runs show runs/eval/glyphs_5w1s", "by its folder"),
            Example("fsl runs show glyphs_5w1s --format json", "the newest of a recipe, for programs"),
        ),
    ),
    "runs rm": Entry(
        LOOKING,
        "remove runs",
        (
            Example("fsl runs rm runs/eval/glyphs_5w1s --yes", "one"),
            Example("fsl runs rm runs/eval/glyphs_5w1s runs/eval/glyphs_5w1s-2 --yes", "several"),
        ),
        asks=True,
    ),
    "runs path": Entry(
        LOOKING,
        "the folder of a recipe's newest run",
        (
            Example("fsl runs path glyphs_5w1s", "for scripts"),
            Example("fsl runs path glyphs_5w1s --kind eval", "of one verb"),
        ),
    ),
    "recipe cat": Entry(
        LOOKING,
        "print a recipe's file",
        (
            Example("fsl recipe cat glyphs_5w1s", "as it was written"),
            Example("fsl recipe cat cub_5w5s", "of another"),
        ),
    ),
    "recipe cp": Entry(
        LOOKING,
        "copy a recipe as a start for your own",
        (
            Example("fsl recipe cp glyphs_5w1s mine.yaml", "then change what you like"),
            Example("fsl recipe cp cub_5w1s .", "under its own name"),
        ),
    ),
    "recipe check": Entry(
        LOOKING,
        "check keys, types and ranges",
        (
            Example("fsl recipe check glyphs_5w1s", "an installed one"),
            Example("fsl recipe check glyphs_5w1s cub_5w1s", "several"),
        ),
    ),
    "weights": Entry(
        LOOKING,
        "list, show, verify or pack weights",
        (
            Example("fsl weights list", "what --weights NAME takes"),
            Example("fsl weights show glyphs_conv64", "how they were made"),
        ),
    ),
    "weights list": Entry(
        LOOKING,
        "all installed weights by name",
        (
            Example("fsl weights list", "what --weights NAME takes"),
            Example("fsl weights list --format json", "for programs"),
        ),
    ),
    "weights show": Entry(
        LOOKING,
        "what weights are, and the recipe that made them",
        (
            Example("fsl weights show glyphs_conv64", "file, size, data, licence, accuracies"),
            Example("fsl weights show glyphs_conv64 --format json", "for programs"),
        ),
    ),
    "weights verify": Entry(
        LOOKING,
        "are weights whole, and do they fit?",
        (
            Example("fsl weights verify", "all that are installed"),
            Example("fsl weights verify glyphs_conv64", "one"),
        ),
    ),
    "weights pack": Entry(
        LOOKING,
        "a run's weights in half precision, to give to others",
        (
            Example("fsl weights pack runs/metatrain/mine -o mine.safetensors", "of a training run", "a training run"),
            Example("fsl weights pack runs/pretrain/mine -o new.safetensors --force", "again", "a training run"),
        ),
    ),
}


def entry(words: str) -> Entry:
    """The entry of a verb by its words after `fsl`; an empty one for a verb that has none."""
    return GUIDE.get(words) or Entry(OTHER, "")
