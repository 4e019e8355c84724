"""The `perdure` command."""


def main() -> None:
    """Entry point of the `perdure` command."""
