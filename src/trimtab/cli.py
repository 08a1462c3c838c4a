"""The console command: `trimtab <command> --flag value` runs the recipe of that name; knows nothing about any of them.

A command is a file in recipes/ whose one public function has the file's name; its typed keyword arguments are the
flags.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_type_hints

RECIPES = Path(__file__).parent / "recipes"


def commands() -> dict[str, str]:
    """The name of each command, and the first line of its file, read without importing it."""
    found = {}
    for path in sorted(RECIPES.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem.replace("_", "-")] = text.partition("\n")[0]
    return found


def recipe(command: str) -> Any:
    """The function behind a command."""
    name = command.replace("-", "_")
    return getattr(importlib.import_module(f"trimtab.recipes.{name}"), name)


def with_settings(function: Any, path: Path) -> Any:
    """The function with the defaults that a settings.json of an earlier run holds."""
    try:
        settings = json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no settings.json of a run: {error}") from error
    parameters = inspect.signature(function).parameters
    unknown = sorted(set(settings) - set(parameters))
    if unknown:
        raise ValueError(f"{path} has settings that this command does not know: {', '.join(unknown)}")
    hints = get_type_hints(function)
    paths = {name for name in settings if Path in (hints[name], *get_args(hints[name]))}
    return partial(function, **{n: as_paths(value) if n in paths else value for n, value in settings.items()})


def as_paths(value: Any) -> Any:
    """A path, several, or None, of what stands for it in JSON."""
    if isinstance(value, list):
        return tuple(map(Path, value))
    return None if value is None else Path(value)


def main() -> None:
    """Run the command named by the first argument. Exits with 1 and one line for an error of the user's."""
    names = commands()
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in ("--help", "-h"):
        width = max(map(len, names))
        print(f"{__import__('trimtab').__doc__}\n")
        print("usage: trimtab --version | COMMAND [--help] [--settings FILE] [--flag value ...]\n")
        for name, text in names.items():
            print(f"  {name:<{width}}  {text}")
        return
    if command == "--version":
        print(version("trimtab"))
        return
    if command not in names:
        sys.exit(f"trimtab: no command {command!r}; there are: {', '.join(names)}")
    import tyro

    from trimtab.networks.precision import keep_freed_memory

    keep_freed_memory()
    try:
        function = recipe(command)
        if "--settings" in arguments:
            place = arguments.index("--settings")
            if place + 1 == len(arguments):
                raise ValueError("--settings needs the path of a settings.json")
            function = with_settings(function, Path(arguments[place + 1]))
            arguments = arguments[:place] + arguments[place + 2 :]
        tyro.cli(function, prog=f"trimtab {command}", args=arguments)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        sys.exit(f"trimtab {command}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"trimtab {command}: stopped; what was done is kept, and the same command goes on from there")


if __name__ == "__main__":
    main()
