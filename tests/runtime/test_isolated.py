"""Processes of our own, started where a user keeps files that have the names of modules."""

from __future__ import annotations

import subprocess

import pytest

from i2i_runtime.isolated import isolated_python


def run(code: str, *arguments: str) -> str:
    return subprocess.run(isolated_python(code, *arguments), capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize("name", ["av", "json", "i2i_runtime"])
def test_a_module_in_the_current_folder_is_not_run(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text("open('run', 'w').close()")
    monkeypatch.chdir(tmp_path)

    run(f"import {name}")

    assert not (tmp_path / "run").exists()


def test_modules_are_found_where_this_process_finds_its_own(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("word = 'found'")
    monkeypatch.syspath_prepend(tmp_path)

    assert run("import beside; print(beside.word)") == "found\n"


def test_arguments_arrive_as_they_are():
    assert run("print(sys.argv[1:])", "-c", "a b", "'") == "['-c', 'a b', \"'\"]\n"
