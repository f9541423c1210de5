"""Prints what makes a shell complete the command's verbs and options."""

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer imports it there itself


class Shell(StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell that runs the script.")]) -> None:
    """Print the script that makes a shell complete verbs and options.

    bash: eval "$(crossfeed completion bash)", in ~/.bashrc for every shell. zsh: the same with zsh, in ~/.zshrc behind
    compinit. fish: crossfeed completion fish > ~/.config/fish/completions/crossfeed.fish.
    """
    print(get_completion_script(prog_name="crossfeed", complete_var="_CROSSFEED_COMPLETE", shell=shell.value))
