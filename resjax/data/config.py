"""The `data` section of a configuration: which images, and what happens to them before the network."""

import ml_collections

# What `config.name` may be besides a path: the embedded set and those that TFDS describes.
SMALL = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")
STREAMED = ("imagenet2012", "imagenette", "imagenette/320px-v2", "imagenette/160px-v2")

CHOICES = {
    "fit": ("resize", "pad"),
    "standardize": ("channel", "pixel", "unit", "lenet"),
    "crop": ("resize", "inception"),
}


def defaults() -> ml_collections.ConfigDict:
    """Every field of `config.data`, with its default."""
    c = ml_collections.ConfigDict()
    # A known name (SMALL, STREAMED), a path that ends in .npz, or a folder of class folders.
    c.name = "digits"
    # Where prepared TFDS sets lie; '' = $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    c.data_dir = ""

    # Side of the square images in pixels; 0 = their own size (224 for streamed sets).
    c.image_size = 0
    # How a small image reaches image_size: 'resize' (bilinear; pictures of a folder by the shorter
    # side, the middle kept) or 'pad' (centred on zeros, as LeCun 1998 puts 28 x 28 digits on a
    # 32 x 32 field).
    c.fit = "resize"

    # Random crop in training: zero pixels added on each side first (He 2015 §4.2: 4); 0 = none.
    c.pad = 0
    # Mirror training images left to right with probability 1/2 (not for digits and letters).
    c.flip = False
    # 'channel': mean and deviation of each channel of the training set; 'pixel': the mean image
    # subtracted, divided by the one deviation of what is left; 'unit': x/255;
    # 'lenet': 0 -> -0.1 and 255 -> 1.175 (LeCun 1998 §II-B).
    c.standardize = "channel"
    # 'channel' with these instead of the training set's own, for pixels in 0 .. 1: what a network that was
    # trained elsewhere expects; () = measured.
    c.mean = ()
    c.std = ()
    # Streamed training images: 'resize' (shorter side random in 256..480 for a crop of 224, in
    # proportion for others, then a random crop: He 2015 §3.4) or 'inception' (a crop of 8-100 % of
    # the area with aspect ratio 3/4..4/3, resized: Szegedy 2015).
    c.crop = "resize"
    # Processes that decode streamed images on each host; 0 = threads of this process.
    c.workers = 2

    # Train on the first n of a seeded permutation, for sample-size studies; 0 = all.
    c.train_examples = 0
    # Evaluate on the last n of that permutation, which training then never sees, so that nothing
    # need be selected on the test set; 0 = evaluate on the test set.
    c.holdout = 0
    # Seed of that permutation: it belongs to the data, not to the run.
    c.split_seed = 0
    return c


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a value that no data set can satisfy, naming the allowed ones."""
    for field, allowed in CHOICES.items():
        if config[field] not in allowed:
            raise ValueError(f"data.{field}={config[field]!r}: choose one of {', '.join(allowed)}")
    for field in ("image_size", "pad", "workers", "train_examples", "holdout", "split_seed"):
        if config[field] < 0:
            raise ValueError(f"data.{field}={config[field]}: must be 0 or more")
    mean, std = constants(config)
    if len(mean) != len(std) or min(std, default=1.0) <= 0:
        raise ValueError(
            f"data.mean={mean}, data.std={std}: give both one number for each channel, deviations "
            "above 0, or leave both ()"
        )
    if mean and config.standardize != "channel":
        raise ValueError(
            f"data.mean={mean} goes with data.standardize='channel', not {config.standardize!r}"
        )


def constants(config: ml_collections.ConfigDict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation that `config` fixes, or () and ()."""
    # Workdirs that are older than these fields lack them.
    return tuple(config.get("mean", ())), tuple(config.get("std", ()))
