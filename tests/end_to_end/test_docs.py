"""The commands in README.md and docs/*.md: each option exists, each value is one that it takes."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from commands import REPOSITORY

from i2i_export.cli import i2i_export
from i2i_runtime.cli import i2i_run
from i2i_trainer.cli import i2i_train
from i2i_trainer.config import RunConfig, flag
from i2i_trainer.eval_cli import i2i_eval
from i2i_trainer.models import config_type, model_names

COMMANDS = {"i2i-train": i2i_train, "i2i-eval": i2i_eval, "i2i-export": i2i_export, "i2i-run": i2i_run}
MODULES = {"i2i_trainer": "i2i-train", "i2i_export": "i2i-export", "i2i_runtime": "i2i-run"}
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
HAS_A_MEANING_FOR_THE_SHELL = {"|", "||", "&&", ";", ">", ">>", "2>", "&"}


def code_lines(page: Path) -> Iterator[str]:
    """Lines of fenced and indented blocks, those that end in a backslash joined with the next."""
    text = re.sub(r"[ \t]*\\\n[ \t]*", " ", page.read_text(encoding="utf-8"))
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each line that runs one of our commands, from `torchrun` or the command on."""
    for line in code_lines(page):
        # Not in a comment, nor in a comment's place beside the name of a folder.
        started = re.match(r"(?:\w+=\S+ |srun (?:-\S+ )*)*(?=(?:torchrun|i2i-\w+) )", line)
        if started is None:
            continue
        words = shlex.split(line[started.end() :], comments=True)
        end = next((i for i, word in enumerate(words) if word in HAS_A_MEANING_FOR_THE_SHELL), len(words))
        yield words[:end]


LINES = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}") for page in PAGES for words in command_lines(page)
]


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_torchrun(words: list[str]) -> list[str]:
    """The command that torchrun starts; torchrun's own options go through its own parser."""
    if words[0] != "torchrun":
        return words
    from torch.distributed.run import get_args_parser

    its = get_args_parser().parse_args(words[1:])
    assert its.module, "a module stands behind -m"
    return [MODULES[its.training_script], *its.training_script_args]


def parse(command: click.Command, name: str, arguments: list[str], parent: click.Context | None = None):
    """What a command makes of its arguments, without running it; None of `--help` and `--version`."""
    try:
        return command.make_context(name, arguments, parent=parent)
    except click.exceptions.Exit:
        return None


@pytest.mark.parametrize("words", LINES)
def test_every_command_of_the_pages_parses(words, in_a_folder):
    program, *arguments = without_torchrun(words)
    for option, value in pairwise(arguments):
        if option == "--config":
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).write_text('out = "runs/it"\ndata = "pictures"\n', encoding="utf-8")
    context = parse(COMMANDS[program], program, arguments)
    if program != "i2i-train" or context is None:
        return
    # A group keeps the rest of the line for its command.
    name, *rest = [*context._protected_args, *context.args]
    if (REPOSITORY / "docs" / "examples" / f"{name}.py").exists():
        return  # a command once the example is in its place: test_extending.py runs it
    command = i2i_train.get_command(context, name)
    assert command is not None, f"no command {name}"
    context = parse(command, name, rest, context)
    if name in model_names() and context is not None:
        for config in (RunConfig, config_type(name)):
            config(**{its.name: context.params[its.name] for its in dataclasses.fields(config)})
        assert context.params["out"], "a training needs --out"
        assert context.params["data"] or context.params["resume"], "a training needs --data"


def test_the_pages_have_commands():
    assert sum(words.values[0][0] == "torchrun" for words in LINES) >= 3
    assert {words.values[0][0] for words in LINES} >= {"i2i-train", "i2i-eval", "i2i-export", "i2i-run"}


def test_a_flag_that_does_not_exist_would_be_noticed(in_a_folder):
    with pytest.raises(click.NoSuchOption):
        test_every_command_of_the_pages_parses(["i2i-train", "pix2pix", "--out", "x", "--lambda-l3", "1"], in_a_folder)


def test_the_page_lists_exactly_the_settings_that_may_change_on_resume():
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"<!-- may change -->(.*?)<!-- end -->", page, re.DOTALL)
    settings = (RunConfig, *map(config_type, model_names()))
    changeable = {flag(its.name) for of in settings for its in dataclasses.fields(of) if its.metadata["may_change"]}

    assert set(re.findall(r"`(--\S+)`", listed)) == changeable
