"""What MkDocs adds to the pages of docs/: the start page, the studies, the notebooks and the API reference.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages without a second copy in the repository. Each
notebook becomes a page, and each subpackage a page of its docstrings.
"""

import json
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOME = Path(__file__).parent.parent
# Page of the site → file of the repository.
FROM_HOME = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
API = {
    "analysis": "resjax.analysis",
    "network": "resjax.network",
    "discovery": "resjax.discovery",
    "models": "resjax.models",
    "training": "resjax.training",
    "workdir": "resjax.workdir",
    "cpu": "resjax.cpu",
    "data": "resjax.data",
    "pretrained": "resjax.pretrained",
    "pretrained_reading": "resjax.pretrained.reading",
    "pretrained_finding": "resjax.pretrained.finding",
    "pretrained_layouts": "resjax.pretrained.layouts",
    "studies": "resjax.studies",
    "studies_lesions": "resjax.studies.lesions",
    "studies_paths": "resjax.studies.paths",
    "studies_signals": "resjax.studies.signals",
    "studies_units": "resjax.studies.units",
    "studies_convolution": "resjax.studies.convolution",
    "studies_cutting": "resjax.studies.cutting",
    "report": "resjax.report",
    "cut": "resjax.cut",
}
# The text of a link may be a picture.
LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^)\s]+\)|[^\]])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The studies in the order of their index, each page in its first chapter."""
    chapters: dict[str, list[str]] = {}
    seen = set()
    index = Path(config.docs_dir) / "analyses/README.md"
    for title, rows in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", index.read_text("utf-8"), re.M):
        for page in re.findall(r"\]\((\w+\.md)\)", rows):
            if page not in seen:
                seen.add(page)
                chapters.setdefault(title, []).append(f"analyses/{page}")
    (studies,) = (entry["Studies"] for entry in config.nav or () if "Studies" in entry)
    studies += [{title: pages} for title, pages in chapters.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, path in FROM_HOME.items():
        files.append(File.generated(config, page, content=(HOME / path).read_text("utf-8")))
    for notebook in [f for f in files if f.src_uri.endswith(".ipynb")]:
        page = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content=_of_notebook(notebook.abs_src_path)))
        files.remove(notebook)
    for name, package in API.items():
        files.append(File.generated(config, f"api/{name}.md", content=_reference(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = FROM_HOME.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {path: target for target, path in FROM_HOME.items()}

    def replaced(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        text = LINK.sub(replaced, text)
        path, mark, anchor = target.partition("#")
        if not path or "://" in path:
            return f"{picture}[{text}]({target})"
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        uri = pages.get(there, there.removeprefix("docs/").replace(".ipynb", ".md"))
        if files.get_file_from_path(uri) is None:
            # A file of the repository that the site does not have.
            return text if (HOME / there).exists() else f"{picture}[{text}]({target})"
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{picture}[{text}]({posixpath.relpath(uri, start)}{mark}{anchor})"

    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    return LINK.sub(replaced, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """No line break between a number and its percent sign."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    return "".join(p if p.startswith("<pre") else re.sub(r"(?<=\d) %", "\u00a0%", p) for p in parts)


def _of_notebook(path: str) -> str:
    """The cells of a notebook as Markdown; its outputs are not in the repository."""
    texts = []
    for cell in json.loads(Path(path).read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        texts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(texts) + "\n"


def _reference(package: str) -> str:
    folder = HOME / package.replace(".", "/")
    text = f"# {package}\n\n::: {package}\n"
    if folder.is_dir():
        modules = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("__"))
        for module in modules:
            text += f"\n## {module}\n\n::: {package}.{module}\n"
    return text


JOINT = re.compile(r"^( +)(\w+(?:, \w+)+)(?=: )", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Brings two habits of the docstrings into the form that Markdown and the parser expect.

    "text::" before an indented block is "text:" in Markdown. A line "width, size: …" documents two
    parameters, where the parser would take what follows the space for a type.
    """

    def on_function(self, *, func: griffe.Function, **kwargs: object) -> None:
        _prepare(func, {})

    def on_module(self, *, mod: griffe.Module, **kwargs: object) -> None:
        _prepare(mod, {})

    def on_class_members(self, *, cls: griffe.Class, **kwargs: object) -> None:
        _prepare(cls, {n: f" ({m.annotation})" for n, m in cls.attributes.items() if m.annotation})


def _prepare(obj: griffe.Object, types: dict[str, str]) -> None:
    def joined(match: re.Match[str]) -> str:
        names = match[2].split(", ")
        return match[1] + ",\u00a0".join(names) + types.get(names[0], "")

    if obj.docstring:
        text = re.sub(r"::(?=\n\s*\n)", ":", obj.docstring.value)
        obj.docstring.value = JOINT.sub(joined, text)
