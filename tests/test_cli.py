"""The console command: what it lists, how it runs a recipe again, and how it fails."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from trimtab import cli

COMMANDS = cli.commands()
SOURCES = sorted(path.stem for path in cli.RECIPES.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    """Runs `trimtab` with some arguments: what it exits with, None for success, and what it prints."""

    def call(*arguments: str | Path) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return end.code, "".join(capsys.readouterr())
        return None, "".join(capsys.readouterr())

    return call


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A made-up recipe `sail` takes the place of the real ones; the list is what it was run with."""
    calls: list[dict[str, Any]] = []

    def sail(
        *,
        knots: float = 5.0,
        crew: int = 2,
        flag: bool = False,
        chart: Path = Path("chart"),
        log: Path | None = None,
        ports: tuple[Path, ...] = (),
    ) -> None:
        """Sail somewhere.

        Args:
            knots: how fast.
        """
        if knots < 0:
            raise ValueError("a ship sails forward; give knots of at least 0")
        if crew == 0:
            raise KeyboardInterrupt
        if crew == 13:
            raise ModuleNotFoundError("the ship is not installed; pip install ship")
        calls.append({"knots": knots, "crew": crew, "flag": flag, "chart": chart, "log": log, "ports": ports})

    monkeypatch.setattr(cli, "commands", lambda: {"sail": "Sails."})
    monkeypatch.setattr(cli, "recipe", lambda command: {"sail": sail}[command])
    return calls


DEFAULTS = {"knots": 5.0, "crew": 2, "flag": False, "chart": Path("chart"), "log": None, "ports": ()}


def settings_file(folder: Path, **settings: Any) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps({"command": "sail", "settings": settings}))
    return path


# The recipes


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_recipe_with_a_line_each(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    code, text = run(*arguments)
    assert code is None
    lines = [line.strip() for line in text.splitlines()]
    assert "demo" in COMMANDS
    assert len(COMMANDS) == len(SOURCES)
    for source in SOURCES:
        name = source.replace("_", "-")
        sentence = inspect.getdoc(importlib.import_module(f"trimtab.recipes.{source}"))
        assert sentence
        (found,) = [line for line in lines if line.startswith(name + " ")]
        assert found.removeprefix(name).strip() == sentence.splitlines()[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_recipe_is_a_function_of_its_own_name_whose_options_are_keywords(command: str) -> None:
    function = cli.recipe(command)
    assert inspect.isfunction(function)
    assert function.__name__ == command.replace("-", "_")
    assert inspect.getdoc(function)
    hints = get_type_hints(function)
    assert hints.pop("return") is type(None)
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert required == (parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD), name  # such as REAL and FAKE
        assert required or parameter.kind == inspect.Parameter.KEYWORD_ONLY, name
        assert name in hints
        assert f"{name}:" in function.__doc__ or f"{name}," in function.__doc__, f"{name} is not documented"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_recipe_explains_its_flags(run: Callable[..., Any], command: str) -> None:
    code, text = run(command, "--help")
    assert code == 0
    for name, parameter in inspect.signature(cli.recipe(command)).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert (name.upper() if required else "--" + name.replace("_", "-")) in text


def test_listing_the_commands_imports_none_of_them() -> None:
    script = "import sys; from trimtab import cli; cli.commands(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


# Running one


def test_flags_become_typed_arguments(run: Callable[..., Any], ran: list[dict[str, Any]]) -> None:
    code, _ = run("sail", "--knots", "7.5", "--flag", "--chart", "a/b", "--log", "c")
    assert code is None
    assert ran == [{**DEFAULTS, "knots": 7.5, "flag": True, "chart": Path("a/b"), "log": Path("c")}]


def test_settings_run_it_again_and_flags_go_before_them(
    run: Callable[..., Any], ran: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = settings_file(tmp_path, knots=9.0, flag=True, chart="far/away", log="book", ports=["a", "b/c"])
    told = {"chart": Path("far/away"), "log": Path("book"), "ports": (Path("a"), Path("b/c"))}
    expected = {**DEFAULTS, "knots": 9.0, "flag": True, **told}
    assert run("sail", "--settings", path)[0] is None
    assert run("sail", "--crew", "4", "--settings", path, "--knots", "1")[0] is None
    assert ran == [expected, {**expected, "knots": 1.0, "crew": 4}]
    assert isinstance(ran[0]["chart"], Path)
    assert isinstance(ran[0]["log"], Path)
    assert run("sail", "--settings", settings_file(tmp_path, chart="x", log=None))[0] is None
    assert ran[2] == {**DEFAULTS, "chart": Path("x")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no settings.json of a run"),
        ("{", "is no settings.json of a run"),
        ("[]", "is no settings.json of a run"),
        ("{}", "is no settings.json of a run"),
        ('{"settings": {"knots": 1.0, "masts": 3, "anchors": 1}}', "does not know: anchors, masts"),
    ],
)
def test_settings_that_are_none_or_unknown_are_refused(
    run: Callable[..., Any], ran: list[dict[str, Any]], tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_text(content)
    code, _ = run("sail", "--settings", path)
    assert code.startswith("trimtab sail: ")
    assert str(path) in code
    assert message in code
    assert ran == []
    assert run("sail", "--settings")[0] == "trimtab sail: --settings needs the path of a settings.json"


def test_a_wrong_flag_or_value_is_refused(run: Callable[..., Any], ran: list[dict[str, Any]]) -> None:
    for wrong in (("--masts", "3"), ("--knots", "fast"), ("5",)):
        code, text = run("sail", *wrong)
        assert code == 2
        assert wrong[-1] in text or wrong[0] in text
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--knots", "-1"), "trimtab sail: a ship sails forward; give knots of at least 0"),
        (("--crew", "13"), "trimtab sail: the ship is not installed; pip install ship"),
        (("--crew", "0"), "trimtab sail: stopped; what was done is kept, and the same command goes on from there"),
    ],
)
def test_an_error_of_the_users_is_one_line(
    run: Callable[..., Any], ran: list[dict[str, Any]], arguments: tuple[str, str], message: str
) -> None:
    assert run("sail", *arguments) == (message, "")  # sys.exit with a text prints it and exits with 1
    assert ran == []


def test_a_mistake_in_the_library_keeps_its_traceback(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ran: list[dict[str, Any]]
) -> None:
    def sail(*, knots: float = 5.0) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(cli, "recipe", lambda command: sail)
    with pytest.raises(AttributeError, match="a bug"):
        run("sail")
    assert ran == []


def test_it_says_its_version(run: Callable[..., Any]) -> None:
    assert run("--version") == (None, f"{version('trimtab')}\n")


def test_an_unknown_command_exits_with_one_and_the_names() -> None:
    found = subprocess.run([sys.executable, "-m", "trimtab.cli", "demos"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr == f"trimtab: no command 'demos'; there are: {', '.join(COMMANDS)}\n"


def test_the_demo_fails_in_one_line_and_repeats_its_settings(run: Callable[..., Any], tmp_path: Path) -> None:
    output = tmp_path / "run"
    code, _ = run("demo", "--prior", "nowhere", "--num-clips", "3", "--datasets", tmp_path, "--output", output)
    assert code.startswith("trimtab demo: no prior 'nowhere'")
    assert "\n" not in code
    assert run("demo", "--settings", output / "settings.json")[0] == code
    changed, _ = run("demo", "--settings", output / "settings.json", "--num-clips", "4")
    assert "holds a run with other settings (num_clips 3, not 4)" in changed


@pytest.mark.parametrize("name", SOURCES)
def test_what_trains_can_say_beforehand_what_it_will_need(name: str) -> None:
    source = (cli.RECIPES / f"{name}.py").read_text()
    assert not re.search(r"\bfit\(", source), "by fit_or_forecast, so that there is a forecast"
    trains = re.search(r"\bfit_or_forecast\(|\.train\(|\btrain\(", source)
    assert not trains or "dry_run" in inspect.signature(cli.recipe(name)).parameters
