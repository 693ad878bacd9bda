"""What a name means that is no field or flag here: other programs have other names for the same things."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from resjax import config as configs
from resjax.spelling import nearest, plain


def unknown_field(config: ConfigDict, field: str, value: str, known: Iterable[str] = ()) -> str:
    """What there is instead of ``field``; ``known`` are the fields, by default those of ``config``."""
    fields = list(known or configs.flat(config.to_dict()))
    section, _, leaf = field.rpartition(".")
    near = nearest_field(config, field, fields)
    guess = configs.as_flag(near, _value_for(config, near, leaf, value)) if near and value else near
    hint = f" Did you mean {guess}?" if near else ""
    own = sorted(f.removeprefix(f"{section}.") for f in fields if section and f.startswith(f"{section}."))
    if own:
        return f"{section} has no field {leaf!r}.{hint} {section} has: {', '.join(own)}"
    sections = sorted({f"{f.partition('.')[0]}.…" if "." in f else f for f in fields})
    return f"there is no such field.{hint} There are: {', '.join(sections)}"


def _value_for(config: ConfigDict, field: str, meant: str, value: str) -> str:
    """The value of ``field`` that ``--config.MEANT=VALUE`` means: a duration gets its unit."""
    current = configs.value_of(config, field)
    unit = re.fullmatch(r"[\d.]+ (steps|epochs)", str(current))
    if unit and re.fullmatch(r"[\d.]+", value):  # a duration
        named = re.search("epoch|step|iter", meant.lower())
        units = {"epoch": "epochs", "step": "steps", "iter": "steps"}
        return f"{value} {units[named[0]] if named else unit[1]}"
    return value


def nearest_field(config: ConfigDict, field: str, fields: Iterable[str] = ()) -> str:
    """The field of ``config`` that ``field`` most likely means: by meaning, by spelling in its section, by
    the same name elsewhere, by spelling elsewhere; '' if there is none."""
    fields = list(fields or configs.flat(config.to_dict()))
    section, _, leaf = field.rpartition(".")
    sections = {f.partition(".")[0] for f in fields if "." in f}
    if section not in sections:
        section = nearest(section, sections)
    meant = MEANT.get(plain(leaf), "")
    own = {f.removeprefix(f"{section}."): f for f in fields if section and f.startswith(f"{section}.")}
    leaves: dict[str, str] = {}
    for f in fields:
        leaves.setdefault(f.rpartition(".")[2], f)
    candidates = (
        own.get(leaf, ""),
        own.get(meant.rpartition(".")[2], ""),
        meant,
        own.get(nearest(leaf, own), ""),
        leaves.get(nearest(leaf, leaves, 0.75), ""),
    )
    return next((found for found in candidates if found in fields), "")


# What others call the fields, without upper case, hyphens and underscores.
MEANT = {
    name: field
    for field, names in {
        "seed": "randomseed manualseed rngseed rng randomstate",
        "model.name": "arch architecture network net backbone",
        "model.depth": "layers numlayers nlayers numblocks",
        "model.widths": "width channels features filters planes numfilters hiddensize",
        "model.norm": "bn batchnorm usebn usebatchnorm normalization normlayer",
        "model.shortcut": "skip skips skipconnection residual useresidual shortcuts",
        "model.dtype": "precision fp16 bf16 bfloat16 float16 amp mixedprecision halfprecision half",
        "model.dropout": "dropoutrate pdrop droprate",
        "data.name": "dataset datasetname datapath data traindir root",
        "data.data_dir": "datadir tfdsdatadir dataroot",
        "data.image_size": "imgsize imsize inputsize resolution cropsize size",
        "data.flip": "hflip horizontalflip randomflip mirror augment augmentation",
        "data.pad": "padding croppadding randomcrop",
        "data.standardize": "normalize standardise normalise",
        "data.workers": "numworkers nworkers numthreads",
        "data.randaugment": "randaug ra ranumops numops autoaugment autoaug aa",
        "data.randaugment_magnitude": "randaugm ram magnitude",
        "data.holdout": "val valsize valsplit validation validationsplit",
        "data.train_examples": "numtrain ntrain trainsize subset",
        "train.duration": "epochs epoch numepochs nepochs maxepochs trainepochs steps numsteps maxsteps "
        "trainsteps numtrainsteps iterations iters maxiter niter",
        "train.batch_size": "bs batch batchsize trainbatchsize minibatch minibatchsize globalbatchsize",
        "train.loss": "criterion objective lossfn",
        "train.label_smoothing": "smoothing labelsmooth",
        "train.mixup": "mixupalpha mixupprob",
        "train.cutmix": "cutmixalpha cutmixprob",
        "train.ema": "emadecay modelema modelemadecay useema polyak averaging",
        "train.shuffle": "layershuffle shufflelayers shuffleunits",
        "train.teacher": "distill distillation distillfrom kd teachermodel teacherpath teacherdir "
        "teacherworkdir teachercheckpoint teacherckpt",
        "train.temperature": "temp tau distillationtau distillationtemperature kdtemperature kdtemp kdt",
        "train.teacher_weight": "kdalpha kdweight kdlambda distillationalpha distillationweight distillalpha "
        "distillweight softtargetweight",
        "optimizer.name": "opt optim solver",
        "optimizer.beta2": "b2 adambeta2",
        "optimizer.epsilon": "eps adameps adamepsilon",
        "optimizer.learning_rate": "lr baselr initlr initiallr maxlr peaklr eta alpha stepsize rate",
        "optimizer.weight_decay": "wd l2 l2reg l2regularization weightpenalty",
        "optimizer.momentum": "mom beta beta1 b1 adambeta1",
        "optimizer.schedule": "scheduler lrscheduler lrschedule lrdecay decaytype",
        "optimizer.boundaries": "milestones lrsteps decayepochs decaysteps stepepochs lrmilestones",
        "optimizer.factor": "gamma lrgamma decayfactor decayrate",
        "optimizer.warmup": "warmupepochs warmupsteps warmuplength",
        "optimizer.clip_norm": "clip gradclip gradientclip clipgrad clipgradnorm maxgradnorm clipping",
        "eval.every": "evalevery evalfreq evalinterval testevery valevery validateevery",
        "eval.batch_size": "evalbatchsize testbatchsize valbatchsize",
        "log.every": "logevery logfreq loginterval printfreq logsteps",
        "log.tensorboard": "tb usetensorboard",
        "checkpoint.every": "saveevery savefreq saveinterval checkpointevery ckptevery savesteps",
        "checkpoint.keep": "keepcheckpoints maxtokeep savetotallimit keeplast",
        "parallel.cpu_devices": "devices numdevices cores numcores",
        "parallel.distributed": "multihost ddp multinode",
    }.items()
    for name in names.split()
}

# Flags of other programs, without underscores.
MEANT_FLAGS = dict.fromkeys(
    ("logdir", "outputdir", "outdir", "modeldir", "rundir", "savedir", "checkpointdir", "folder", "dir",
     "checkpoint", "ckpt", "run", "runs", "resume"), "workdir"
) | dict.fromkeys(("cfg", "configfile", "conf"), "config") | dict.fromkeys(
    ("analysis", "analyses", "analyze"), "studies"
) | dict.fromkeys(("output", "report", "o", "save"), "out")  # fmt: skip
