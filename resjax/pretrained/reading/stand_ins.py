"""The names that a checkpoint may refer to: a fixed list.

``pickles`` records the objects of a file; nothing of what is listed here is imported or
called. The few names that hold tensors or plain values are understood by ``meanings``. The
others are settings, optimizers, dates and the like, which training programs save beside the weights; they
stand for nothing. A file that refers to any other name is refused.
"""

from resjax.pretrained.reading.pickles import Name

# The classes of storages, and the dtypes of tensors.
_STORAGES = (
    "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble QInt8 QUInt8 QInt32"
)
_DTYPES = (
    "float64 float32 float16 bfloat16 double float half int64 int32 int16 int8 uint64 uint32 uint16 uint8 "
    "long int short bool complex32 complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 "
    "float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 qint8 quint8 qint32 quint4x2 quint2x4 bits8 bits16"
)
# Single names. Where a module has harmless and other members, only the former are here.
_NAMES = {
    "collections": "OrderedDict defaultdict Counter deque",
    "builtins": "dict list tuple set frozenset int float str bool bytes bytearray complex "
    "range xrange slice object unicode long",
    "copyreg": "_reconstructor",
    "_codecs": "encode",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "functools": "partial",
    "datetime": "datetime date time timedelta timezone",
    "zoneinfo": "ZoneInfo",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "random": "Random",
    "typing": "Any Dict List Optional Tuple Union",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "numpy": "ndarray dtype bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "torch": (
        f"{' '.join(f'{kind}Storage' for kind in _STORAGES.split())} {_DTYPES} Size device Generator Tensor "
        "FloatTensor DoubleTensor HalfTensor LongTensor IntTensor ByteTensor BoolTensor strided sparse_coo "
        "sparse_csr per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric "
        "per_channel_affine_float_qparams contiguous_format channels_last preserve_format"
    ),
    "torch.torch_version": "TorchVersion",
    "torch.storage": "UntypedStorage _UntypedStorage",
    "torch.serialization": "_get_layout",
    "torch.nn.parameter": "Parameter Buffer",
    "torch._tensor": "_rebuild_from_type _rebuild_from_type_v2",
    "torch._utils": (
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state _rebuild_device_tensor_from_cpu_tensor "
        "_rebuild_device_tensor_from_numpy _rebuild_xla_tensor _rebuild_qtensor _rebuild_sparse_tensor "
        "_rebuild_sparse_csr_tensor _rebuild_nested_tensor "
        "_rebuild_meta_tensor_no_storage _rebuild_wrapper_subclass"
    ),
    "packaging.version": "Version",
    "easydict": "EasyDict",
    "munch": "Munch",
    "dotmap": "DotMap",
    "box.box": "Box",
    "addict.addict": "Dict",
    "yacs.config": "CfgNode",
    "fvcore.common.config": "CfgNode",
    "detectron2.config.config": "CfgNode",
    "ml_dtypes": "bfloat16",
}
# Whole modules, whatever they contain: optimizers, schedules, losses, metrics, transforms, loggers, settings.
MODULES = (
    "torch.optim", "torch.amp", "torch.cuda.amp", "torch.nn.modules.loss", "torch.utils.data",
    "torch.distributed", "torchvision.transforms", "torchvision.datasets", "torchmetrics", "numpy.random",
    "numpy.dtypes", "timm.optim", "timm.scheduler", "timm.loss", "timm.data", "apex.optimizers", "apex.amp",
    "omegaconf", "hydra", "ml_collections", "mmengine.logging", "mmengine.config", "mmcv.utils",
    "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "transformers.training_args",
    "transformers.trainer_utils", "transformers.trainer_callback", "accelerate.state", "accelerate.utils",
    "ignite.engine", "ignite.metrics", "sparseml.optim", "sparseml.pytorch.optim", "bitsandbytes.optim",
    "madgrad", "adabelief_pytorch", "torch_optimizer", "pytorch_warmup", "warmup_scheduler",
    "jsonargparse",
)  # fmt: skip
_TWINS = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}


def plain(name: Name) -> tuple[str, str]:
    """Module and name, as Python 3 and NumPy 1 call them."""
    module = _TWINS.get(name.module, name.module)
    return module.replace("numpy._core", "numpy.core", 1), name.name


def accepted(name: Name) -> bool:
    """Whether a file may refer to ``name``."""
    module, last = plain(name)
    whole = any(module == known or module.startswith(f"{known}.") for known in MODULES)
    return whole or last in _NAMES.get(module, "").split()
