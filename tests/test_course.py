"""The course notes as a page, and its Chinese twin: the same commands, pictures and sections."""

import re

import pytest
from script_helpers import REPOSITORY

PAIRS = [("docs/course.md", "docs/zh/course.md"), ("README.md", "README.zh.md")]


def page(name):
    return (REPOSITORY / name).read_text("utf-8")


def blocks(name):
    """The code that a page shows."""
    return re.findall(r"^```\w*\n(.*?)^```", page(name), re.S | re.M)


def test_both_languages_have_the_same_commands_sections_and_pictures():
    english, chinese = PAIRS[0]
    assert blocks(english) == blocks(chinese) and len(blocks(english)) > 10
    number = r"^## ([\d.]+) "
    assert re.findall(number, page(english), re.M) == re.findall(number, page(chinese), re.M)
    pictures = [[path.rpartition("/")[2] for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page(name))]
                for name in PAIRS[0]]  # fmt: skip
    assert pictures[0] == pictures[1] and pictures[0]
    links = [set(re.findall(r"\]\((?:\.\./)?([\w/]+\.md)", page(name))) for name in PAIRS[0]]
    assert links[0] - {"zh/course.md"} == links[1] - {"course.md"}


def test_both_languages_have_the_same_numbers():
    """Each number with a percent sign or a power of ten on one page stands on the other, too."""
    number = r"\d[\d,.]*(?: %|·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    texts = [re.sub(r"```.*?```", "", page(name), flags=re.S) for name in PAIRS[0]]
    english, chinese = (sorted(re.findall(number, text)) for text in texts)
    assert english == chinese and len(english) > 10


def test_the_chinese_readme_shows_commands_of_the_english_one():
    english, chinese = map(blocks, PAIRS[1])
    assert chinese and all(block in english for block in chinese)


@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair])
def test_nothing_is_left_to_fill_in(name):
    assert not re.search(r"@[A-Z]+@", page(name))
