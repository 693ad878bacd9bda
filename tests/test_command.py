"""What a user sees who mistypes: one line that says what is wrong and what to type instead, no traceback. And
commands that are printed, typed as they are."""

import html
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import DEFINE_config_file
from script_helpers import REPOSITORY, run_each

from resjax import command
from resjax import config as configs
from resjax.command import parsing
from resjax.command.meant import MEANT
from resjax.spelling import nearest, plain

# ml_collections loads files in a way that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
DIGITS = "--config=configs/digits.py:smoke"
SET = "--config."

# (arguments of resjax.train after a configuration, what the line says)
FIELDS = {
    "lr": (
        "optimizer.lr=0.1",
        "optimizer has no field 'lr'. Did you mean --config.optimizer.learning_rate=0.1?",
    ),
    "wd": ("optimizer.wd=0", "Did you mean --config.optimizer.weight_decay=0?"),
    "bs": ("train.bs=16", "Did you mean --config.train.batch_size=16?"),
    "batch": ("batch=16", "Did you mean --config.train.batch_size=16?"),
    "other section": ("eval.bs=16", "Did you mean --config.eval.batch_size=16?"),
    "epochs": ("train.epochs=20", "Did you mean '--config.train.duration=20 epochs'?"),
    "steps": ("num_steps=900", "Did you mean '--config.train.duration=900 steps'?"),
    "no section": ("lr=0.1", "there is no such field. Did you mean --config.optimizer.learning_rate=0.1?"),
    "section": ("optimiser.momentum=0", "Did you mean --config.optimizer.momentum=0?"),
    "spelling": ("optimizer.learningrate=1", "Did you mean --config.optimizer.learning_rate=1?"),
    "elsewhere": ("optimizer.label_smoothing=0", "Did you mean --config.train.label_smoothing=0?"),
    "distillation": ("train.distill_from=runs/A", "Did you mean --config.train.teacher=runs/A?"),
    "alpha of it": ("train.kd_alpha=0.5", "Did you mean --config.train.teacher_weight=0.5?"),
    "tau of it": ("distillation-tau=2", "Did you mean --config.train.temperature=2?"),
    "model": ("model.dept=20", "model has no field 'dept'. Did you mean --config.model.depth=20?"),
    "layers": ("model.num_layers=20", "Did you mean --config.model.depth=20?"),
    "dataset": ("dataset=cifar10", "Did you mean --config.data.name=cifar10?"),
    "fields": ("checkpoint.xyzzy=1", "checkpoint has: every, keep"),
    "whole section": ("data=cifar10", "data is a section with the fields background, "),
    "its name": ("data=my pictures", "Did you mean '--config.data.name=my pictures'?"),
    "part": ("model.depth.x=1", "model.depth is one value, 56, and has no parts"),
    "element": ("model.widths[0]=3", "give the whole value, as in '--config.model.widths=(16, 32, 64)'"),
}


@pytest.mark.parametrize("given, said", FIELDS.values(), ids=FIELDS)
def test_a_field_that_is_not_there(given, said):
    config = configs.load_file(REPOSITORY / "configs/digits.py")
    ((field, value),) = parsing.overrides(["train", f"{SET}{given}"])
    line = parsing.wrong_path(config, field, value)
    assert said in line and line.startswith(f"--config.{field}: ") and "\n" not in line


def test_every_meaning_is_a_field():
    known = configs.flat(configs.default().to_dict()).keys() | {"model.dropout"}
    assert set(MEANT.values()) <= known
    assert all(name == plain(name) for name in MEANT)


TYPES = {
    "word for int": ("train.batch_size=abc", "it must be a whole number, as in --config.train.batch_size=64"),
    "float for int": ("train.batch_size=0.5", "it must be a whole number"),
    "None for float": ("optimizer.learning_rate=None", "it must be a number, as in"),
    "word for bool": ("data.flip=maybe", "it must be True or False, as in --config.data.flip=False"),
    "text for tuple": (
        "optimizer.boundaries=30 epochs",
        "of texts, as in '--config.optimizer.boundaries=(\"",
    ),
    "int in texts": ("optimizer.boundaries=30", "optimizer.boundaries=(30,); it must be a tuple of texts"),
    "None in numbers": ("data.mean=None", "data.mean=(None,)"),
    "one of two": ("data.mean=0.5", "data.std=()"),
    "no choice": ("data.fit=squash", "data.fit='squash': choose one of resize, pad"),
    "word in ints": ("model.widths=(16,'a')", "model.widths=(16, 'a'); it must be a tuple of whole numbers"),
}


@pytest.mark.parametrize("given, said", TYPES.values(), ids=TYPES)
def test_a_value_of_a_wrong_type(capsys, given, said):
    argv = ["train", "--config=configs/digits.py:smoke", f"{SET}{given}"]
    flag_values = flags.FlagValues()
    DEFINE_config_file("config", flag_values=flag_values, sys_argv=argv)
    with pytest.raises(SystemExit, match="2"):
        parsing.parse(argv, flag_values)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert said in line and given.partition("=")[0] in line


def test_a_configuration_that_a_command_makes_reads_fields_at_once(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrained", f"{SET}optimizer.lr=1"])
    with pytest.raises(SystemExit, match="2"):
        command.define_config(configs.default())
    line = capsys.readouterr().err
    assert line.startswith(
        "error: --config.optimizer.lr: optimizer has no field 'lr'. Did you mean --config.opt"
    )


def test_a_configuration_that_a_command_makes(capsys, monkeypatch):
    """Its fields are listed as they are given, and a file in its place is refused."""
    known = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", known)
    monkeypatch.setattr("sys.argv", ["pretrained"])
    define = parsing.config_flags.DEFINE_config_dict
    monkeypatch.setattr(
        parsing.config_flags, "DEFINE_config_dict", lambda *given: define(*given, flag_values=known)
    )
    c = configs.default()
    c.data.mean = (0.5,)
    command.define_config(c)
    text = known.main_module_help()
    assert {f"{SET}optimizer.momentum=0.9", f"'{SET}data.mean=(0.5,)'"} <= set(
        map(str.strip, text.splitlines())
    )
    assert "!!python" not in text
    with pytest.raises(SystemExit, match="2"):
        parsing.parse(["pretrained", "--config=digits"], known)
    assert capsys.readouterr().err.startswith("error: --config takes no file here")


@pytest.mark.parametrize(
    "given, said",
    [
        ("--minutes=abc", "--minutes=abc: it must be a number"),
        ("--draws=1.5", "--draws=1.5: it must be a whole number"),
        ("--draws=", "--draws=: it must be a whole number"),
        ("--full=maybe", "--full=maybe: it must be true or false"),
        ("--port=0", "flag --port=0: 0 is not an integer in the range [1, 9]"),
    ],
)
def test_a_value_of_a_wrong_type_for_a_plain_flag(capsys, given, said):
    known = flags.FlagValues()
    flags.DEFINE_float("minutes", 5.0, "", flag_values=known)
    flags.DEFINE_integer("draws", 30, "", flag_values=known)
    flags.DEFINE_bool("full", False, "", flag_values=known)
    flags.DEFINE_integer("port", 8, "", 1, 9, flag_values=known)
    with pytest.raises(SystemExit, match="2"):
        parsing.parse(["analyze", given], known)
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_docstring_in_the_terminal_has_no_marks():
    assert command.plain_text("Runs ``x``::\n\n    y") == "Runs x:\n\n    y"


FLAGS = {
    ("resjax.train", DIGITS, "--workdirs=x"): "--workdirs: there is no such flag. Did you mean --workdir?",
    ("resjax.train", DIGITS, "--logdir=x"): "Did you mean --workdir?",
    ("resjax.train", DIGITS, "--lr=3"): "Did you mean --config.optimizer.learning_rate?",
    ("resjax.train", DIGITS): "--workdir is needed: folder of the run",
    ("resjax.train", "--workdir=x"): "--config is needed: a Python file",
    ("resjax.train", DIGITS, "--workdir", "my", "runs"): "unknown arguments: runs.",
    (
        "resjax.train",
        DIGITS,
        "--workdir=x",
        "train.batch_size=8",
    ): "Did you mean --config.train.batch_size=8?",
    ("resjax.train", DIGITS, "--workdir=x", f"{SET}optimizer.lr=1"): "optimizer has no field 'lr'",
    ("resjax.train", "--config=configs/digits.py:smok", "--workdir=x"): "allowed: none, or 'smoke'",
    ("resjax.train", "--config=configs/digit.py", "--workdir=x"): "digit.py",
    ("resjax.analyze", "--study=x"): "Did you mean --studies? This command has: --allow_code, ",
    ("resjax.analyze", "--studies=lesions", "--workdir=x"): "Did you mean lesion?",
    ("resjax.analyze", "--draws=1", "--workdir=x"): "draws=1; allowed: 2 or more",
    ("resjax.analyze", "--minutes=0", "--workdir=x"): "minutes=0; allowed: more than 0, or --full",
    ("resjax.analyze", "--minutes=3", "--full", "--workdir=x"): "either --minutes=M, or --full",
    ("resjax.analyze",): "name either --workdir=DIR",
    ("resjax.claims", "--name=edges"): "Did you mean --names?",
    ("resjax.claims", "--names=edge"): "Did you mean edges?",
    ("resjax.describe", DIGITS, "--jsn"): "Did you mean --json?",
    ("resjax.describe", DIGITS, f"{SET}model.dept=3"): "Did you mean --config.model.depth=3?",
    ("resjax.convolve", "--image_file=x"): "Did you mean --image?",
    ("resjax.demo", "--smok"): "Did you mean --smoke?",
    ("resjax.pretrained.export", "--workdir=x", "--output=y"): "Did you mean --out?",
    ("resjax.data.prepare", "cifar10", "--datadir=x"): "Did you mean --data_dir?",
    ("resjax.data.prepare", "cifar11"): "Did you mean cifar10?",
    ("resjax.data.prepare",): "required: name",
}
QUICK = [("resjax.train", DIGITS, "--lr=3"), ("resjax.data.prepare", "cifar10", "--datadir=x")]
VALUES = {
    f"{SET}model.depth=21": "model.depth=21",
    f"{SET}train.batch_size=5000": "1,400 examples of training; use --config.train.batch_size=1400",
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_mistake_is_one_line(tmp_path, every):
    run = f"--workdir={tmp_path / 'run'}"
    valued = {("resjax.train", DIGITS, run, given): said for given, said in VALUES.items()}
    cases = {**FLAGS, **valued} if every else {key: FLAGS[key] for key in QUICK}
    ended = run_each(list(cases), tmp_path, cwd=REPOSITORY)
    for (arguments, said), done in zip(cases.items(), ended, strict=True):
        assert done.returncode == (1 if arguments in valued else 2), (arguments, done)
        assert said in done.stderr, (arguments, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (arguments, done.stderr)
        assert not done.stdout
    assert not (tmp_path / "run").exists() and not (REPOSITORY / "x").exists()


@pytest.mark.slow
def test_the_help_of_a_command_lists_its_options(tmp_path):
    options = {"analyze": "--draws: ", "claims": "--seed: "}
    ended = run_each([(f"resjax.{name}", "--help") for name in options], tmp_path)
    for option, done in zip(options.values(), ended, strict=True):
        assert option in done.stdout, done


CONFIG = """
from resjax import config as configs
def get_config(arg=""):
    c = configs.default()
    {line}
    return c
"""
FILES = {  # a line of a file, and what is said
    "unknown field": (
        "c.optimizer.lr = 0.3",
        "sets optimizer.lr: optimizer has no field 'lr'. Did you mean opt",
    ),
    "wrong type": ("c.train.batch_size = 'many'", "batch_size"),
    "elements": (
        "c.model.widths = (16, '32')",
        "model.widths=(16, '32'); it must be a tuple of whole numbers",
    ),
}


def parsed(argv):
    flag_values = flags.FlagValues()
    DEFINE_config_file("config", flag_values=flag_values, sys_argv=argv)
    return parsing.parse(argv, flag_values)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.yaml", "lr: 0.1", "mine.yaml' is no Python file (*.py). Write one with a get_config(arg)"),
        ("config.json", "{}", "config.json' is no Python file"),
        ("mine.py", "lr = 0.1", "the file of --config has no get_config(arg), a function"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, capsys, monkeypatch, name, text, said):
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # a file keeps names of one before
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match="2"):
        parsed(["train", f"--config={tmp_path / name}"])
    shown = capsys.readouterr().err
    assert said in shown and shown.startswith("error: ") and shown.count("\n") == 1


@pytest.mark.parametrize("line, said", FILES.values(), ids=FILES)
def test_a_mistake_in_a_file(tmp_path, capsys, line, said):
    (tmp_path / "mine.py").write_text(CONFIG.format(line=line))
    with pytest.raises(SystemExit, match="2"):
        parsed(["train", f"--config={tmp_path / 'mine.py'}"])
    shown = capsys.readouterr().err
    assert said in shown and shown.startswith("error: ") and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "allowed", "found"),
    [
        ("lesions", ["lesion", "paths"], "lesion"),
        ("Batch-Size", ["batch_size", "base"], "batch_size"),
        ("qqq", ["lesion", "paths"], ""),
    ],
)
def test_the_nearest_name(name, allowed, found):
    assert nearest(name, allowed) == found


def test_a_suggested_flag_can_be_pasted():
    config = ConfigDict({"train": {"duration": "20 epochs", "names": ("a b", "c")}})
    for field, value in (("train.duration", "7 epochs"), ("train.names", ("a b", "c"))):
        (word,) = shlex.split(configs.as_flag(field, value))
        assert word.startswith(f"--config.{field}=") and "'" not in word
    assert configs.value_of(config, "train.names") == ("a b", "c")


TINY = """
from resjax import config as configs
def get_config(arg=""):
    c = configs.default("resnet", depth=8, widths=(4, 4, 8), placement="post", transition="projection")
    c.data.train_examples = 32
    c.train.batch_size = 16
    c.train.duration = "2 steps"
    return c
"""


@pytest.mark.slow
def test_printed_commands_can_be_pasted(tmp_path):
    """A folder whose name has a comma, blanks and a quote, beside folders with the parts of its name."""
    mine = "it's my runs, final"
    for name in ("final", "it's my runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "tiny.py").write_text(TINY)

    def say(*arguments):
        (done,) = run_each([arguments], Path(tempfile.mkdtemp(dir=tmp_path)), cwd=tmp_path)
        assert done.returncode == 0, done
        return done.stdout

    def paste(line, *more):
        python, m, *words = shlex.split(line)
        assert (python, m) == ("python", "-m")
        return say(*words, *more)

    trained = say("resjax.train", "--config=tiny.py", f"--workdir={mine}")
    report = paste(trained.partition("Analyze it: ")[2], "--studies=curves,path_counts")
    assert f"{tmp_path / mine}/analysis/report.html" in report
    page = html.unescape((tmp_path / mine / "analysis/report.html").read_text())
    paste(re.search("python -m resjax.analyze .*--studies=curves", page)[0])
    say("resjax.pretrained.export", f"--workdir={mine}", "--out=new folder/a b.safetensors")
    theirs = f"{mine} too"
    changes = (
        "data.name=digits",
        "data.mean=()",
        "data.std=()",
        "train.duration=3 steps",
        "train.batch_size=5000",
    )
    given = ("new folder/a b.safetensors", f"--workdir={theirs}", *(f"{SET}{change}" for change in changes))
    imported = say("resjax.pretrained", *given)
    both = re.search("Analyze it: (.*)", imported)[1]
    assert "report.html" in paste(both, "--studies=path_counts", f"--workdir={mine}", "--out=both")
    paste(re.search("Continue: (.*)", imported)[1], f"{SET}train.batch_size=16")
