"""`perdure completion`."""

from __future__ import annotations

import click

from perdure.cli.completing import script, use_own_scripts

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL is to read, so that it completes commands, options, canisters, structures and methods.

    Into ~/.bashrc goes the first line, into ~/.zshrc, behind compinit, the second; the third is said once.

    \b
    Example:
        eval "$(perdure completion bash)"
        eval "$(perdure completion zsh)"
        perdure completion fish > ~/.config/fish/completions/perdure.fish
    """  # noqa: D301
    use_own_scripts()
    click.echo(script(shell, click.get_current_context().find_root().command), nl=False)
