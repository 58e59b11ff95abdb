"""README and Makefile name only commands, stages, files and params that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from source_code import iterate_strings, list_modules

from docs.make_params import build_page
from tasks.__main__ import STAGES, main
from tasks.schema import Params


@pytest.fixture
def readme(project_root: Path) -> str:
    return (project_root / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def makefile(project_root: Path) -> str:
    return (project_root / "Makefile").read_text(encoding="utf-8")


def list_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def test_make_targets_of_the_readme_exist(readme: str, makefile: str):
    named = set(
        re.findall(
            r"\bmake ([a-z][a-z-]*)\b",
            "\n".join(re.findall(r"`[^`]+`|^    .*$|^make .*$", readme, flags=re.MULTILINE)),
        )
    )
    assert {"demo", "test"} <= named
    assert named <= list_targets(makefile)


def test_every_make_target_explains_itself(makefile: str):
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split())  # type: ignore[index]
    assert phony == list_targets(makefile)


def test_dsrg_commands_of_readme_and_pages_exist(project_root: Path):
    known = list_commands()
    pages = [project_root / "README.md", *(project_root / "docs").glob("*.md")]
    assert len(pages) > 1
    for page in pages:
        for named in re.findall(r"(?:^ *|`)dsrg ([a-z]+(?: [a-z]+)?)", page.read_text(), flags=re.MULTILINE):
            assert {named, named.split()[0]} & known.keys(), f"{page.name}: dsrg {named}"


def test_every_dsrg_command_shows_examples_that_exist():
    """Every command and option named in an example of a command's help is one that there is."""
    known = list_commands()
    for name, command in known.items():
        examples = re.findall(r"^    dsrg (.*)", command.epilog or "", flags=re.MULTILINE)
        assert examples, f"dsrg {name} --help has no example"
        for example in examples:
            words = example.split("   ")[0].split()
            found = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known)
            options = {
                option for param in known[found].params for option in (*param.opts, *param.secondary_opts)
            }
            assert {word for word in words if word.startswith("-")} <= options, example


def list_commands() -> dict[str, Any]:
    """List the commands that do something, by their words after ``dsrg``."""
    from flows.cli import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(child, (*words, name))
        else:
            yield " ".join(words), command

    return dict(walk(typer.main.get_command(app), ()))


def test_stages_of_the_readme_exist(readme: str):
    stages = {stage.name for stage in STAGES}
    named = set(re.findall(r"(?:python -m tasks|dvc repro(?: -f)?) ([a-z]+)", readme))
    assert named <= stages
    assert {name for name in stages if f"`{name}" in readme} == stages


def test_set_keys_of_the_readme_exist(readme: str):
    for key in re.findall(r"--set ([\w.]+)=", readme):
        section, name = key.split(".")[:2]
        assert name in Params.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_files_of_the_readme_exist(readme: str, project_root: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", readme):
        assert (project_root / target).exists(), target
    for path in re.findall(r"`((?:dsrg|tasks|flows|tests|bench|docker|docs)/[\w/.]+)`", readme):
        assert (project_root / path).exists(), path


def test_the_command_line_lists_every_stage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(stage.name in shown for stage in STAGES)


def test_the_page_of_params_is_what_the_classes_say(project_root: Path):
    """Written anew by ``python -m docs.make_params``."""
    written = (project_root / "docs" / "params.md").read_text(encoding="utf-8")
    assert written == build_page(project_root)


def test_links_lead_to_files_and_headings_that_exist(project_root: Path):
    pages = [project_root / "README.md", *(project_root / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                file, _, heading = target.partition("#")
                place = page.parent / file if file else page
                assert place.exists(), f"{page.name}: {target}"
                if heading:
                    titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
                    slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                    assert heading in slugs, f"{page.name}: {target}"


def test_errors_of_the_troubleshooting_are_said_by_the_code(readme: str):
    quoted = re.findall(r"^### `(.*)`$", readme, flags=re.MULTILINE)
    said = "\n".join(
        text
        for floor in ("dsrg", "tasks", "flows")
        for module in list_modules(floor)
        for text in iterate_strings(module)
    )
    assert len(quoted) >= 8
    assert [text for text in quoted if text not in said] == []


def test_variables_of_the_operations_are_read_by_the_code(project_root: Path):
    named = re.findall(
        r"^\| `([A-Z_]+)", (project_root / "docs" / "operations.md").read_text(), flags=re.MULTILINE
    )
    said = {
        text
        for floor in ("dsrg", "tasks", "flows")
        for module in list_modules(floor)
        for text in iterate_strings(module)
    }
    others = {"CUDA_VISIBLE_DEVICES", "NO_COLOR"}  # read by torch and rich
    assert len(named) >= 4
    assert set(named) - others <= said


def test_the_page_on_data_names_columns_lists_and_messages_of_the_code(project_root: Path):
    from dsrg.sources.detect import TABLES
    from dsrg.sources.tables import CLASS_COLUMNS, ID_COLUMNS, SPLIT_WORDS
    from dsrg.sources.voc import LISTS, MASKS

    page = (project_root / "docs" / "data.md").read_text()
    wanted = (*TABLES, *ID_COLUMNS, *CLASS_COLUMNS, *SPLIT_WORDS, *LISTS["train"], *LISTS["val"], *MASKS)
    assert [word for word in wanted if word not in page] == []
    for key in re.findall(r"`((?:source|ingest)\.\w+)", page):
        section, name = key.split(".")
        assert name in Params.model_fields[section].annotation.model_fields, key  # type: ignore[union-attr]
    code = "".join(path.read_text() for path in (project_root / "dsrg").rglob("*.py"))
    code += "".join(path.read_text() for path in (project_root / "tasks").rglob("*.py"))
    told = re.findall(r"^\| `([^`]+)` \|", page.split("## Messages and what to do")[1], flags=re.MULTILINE)
    assert len(told) > 5
    filled_in = r"\b(?:a|id|jpg|png|file|folder|labels|may|val|38|20|500|375|RGB)\b|[^a-z ,:-]"
    for message in told:
        words = [part.strip(" :,") for part in re.split(filled_in, message)]
        assert [part for part in words if len(part) > 9 and part not in code] == [], message
