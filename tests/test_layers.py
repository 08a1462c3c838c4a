"""The floors of the architecture: who may import whom, read from the source of every file."""

import ast
from pathlib import Path

import pytest

import trimtab

SOURCE = Path(trimtab.__file__).parent

FLOORS: dict[str, set[str]] = {
    "core": set(),
    "diffusion": {"core"},
    "networks": {"core"},
    "models": {"core", "diffusion", "networks"},
    "data": {"core"},
    "environments": {"core"},
    "priors": {"core", "diffusion", "networks", "models"},
    "adapters": {"core", "diffusion", "networks", "models"},
    "world_model": {"core", "diffusion", "networks"},
    "training": {"core", "diffusion", "networks"},
    "forecast": {"core", "training"},
    "checkpoints": {"core", "diffusion", "networks"},
    "report": {"core", "diffusion", "networks"},
    "control": {"core", "diffusion", "networks"},
    "metrics": {"core", "diffusion", "networks"},
}
"""What each part may import besides itself; recipes and cli may import everything, and only they import recipes."""

INTERCHANGEABLE = {"models", "priors", "adapters", "environments"}
"""Parts whose files are alternatives, so that none imports its sibling, but what they share, whose name begins with _."""

FILES = sorted(SOURCE.rglob("*.py"))


def imported(tree: ast.AST, names: frozenset[str]) -> list[str]:
    """The modules that a file imports, dotted; `from package import module` counts as the module where there is one."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append(full if full in names else str(node.module))
    return found


def problems(module: str, source: str, names: frozenset[str]) -> list[str]:
    """What one file, of this dotted name, imports against the rules; `names` are all modules of the package."""
    tree = ast.parse(source)
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 0]
    found = [f"{module} line {node.lineno}: relative import; imports are absolute" for node in relative]
    part, *rest = module.split(".")[1:] or [""]
    for target in imported(tree, names):
        if target.split(".")[0] != "trimtab":
            continue
        other, *inside = target.split(".")[1:] or [""]
        if other == part:
            if part in INTERCHANGEABLE and inside[:1] != rest[:1] and not "".join(inside[:1]).startswith("_"):
                found.append(f"{module} imports its sibling {target}")
        elif other in ("recipes", "cli"):
            if (part, other) not in (("cli", "recipes"), ("recipes", "recipes")):
                found.append(f"{module} imports {target}, which nobody imports")
        elif part not in ("recipes", "cli") and other not in FLOORS.get(part, set()):
            found.append(f"{module} imports {target}; {part or 'trimtab'} may import {sorted(FLOORS.get(part, set()))}")
    return found


def name_of(file: Path) -> str:
    parts = ("trimtab", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = frozenset(name_of(file) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_keeps_to_its_floor(file: Path) -> None:
    assert problems(name_of(file), file.read_text(), NAMES) == []


def test_every_part_has_a_floor() -> None:
    parts = {name.split(".")[1] for name in NAMES if name != "trimtab"}
    assert parts - set(FLOORS) <= {"recipes", "cli"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_opens_by_saying_what_it_is(file: Path) -> None:
    source = file.read_text()
    assert ast.get_docstring(ast.parse(source)) or not source.strip()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


MADE_UP = frozenset({"trimtab.priors.one", "trimtab.priors.two", "trimtab.adapters.avid", "trimtab.core.values"})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trimtab.core.values", "import trimtab.diffusion"),
        ("trimtab.diffusion.losses", "from trimtab.networks import blocks"),
        ("trimtab.networks.blocks", "from trimtab.diffusion.noise import gaussian_noise"),
        ("trimtab.priors.one", "from trimtab.priors import two"),
        ("trimtab.priors.one", "from trimtab.priors.two import Two"),
        ("trimtab.priors.one", "from trimtab.adapters.avid import AVID"),
        ("trimtab.adapters.avid", "def late():\n    import trimtab.priors.one"),
        ("trimtab.environments.procgen", "from trimtab.data.episodes import Episode"),
        ("trimtab.data.clips", "from trimtab.diffusion.noise import gaussian_noise"),
        ("trimtab.training", "from trimtab.adapters import avid"),
        ("trimtab.forecast", "from trimtab.control.video_planner import plan"),
        ("trimtab.core.values", "from .contracts import Codec"),
        ("trimtab.priors.one", "from . import two"),
        ("trimtab.training", "from trimtab.recipes import avid_coinrun"),
        ("trimtab.recipes.one", "from trimtab.cli import main"),
        ("trimtab.serve", "from trimtab.cli import main"),
        ("trimtab", "from trimtab.core.values import Video"),
    ],
)
def test_the_reader_of_imports_finds_a_breach(module: str, source: str) -> None:
    assert len(problems(module, source, MADE_UP)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trimtab.core.contracts", "from trimtab.core.values import Video"),
        ("trimtab.diffusion.losses", "from trimtab.diffusion.noise import gaussian_noise"),
        ("trimtab.priors.one", "from trimtab.core.values import Video\nfrom trimtab.networks.blocks import Block"),
        ("trimtab.priors.one.weights", "from trimtab.priors.one.blocks import Block"),
        ("trimtab.data.recording", "from trimtab.data.episodes import Episode"),
        ("trimtab.environments.dmc", "from trimtab.environments._mujoco import View"),
        ("trimtab.forecast", "from trimtab.training import fit"),
        ("trimtab.recipes.one", "from trimtab.adapters.avid import AVID\nfrom trimtab.priors import one"),
        ("trimtab.recipes.one", "from trimtab.recipes.two import run"),
        ("trimtab.cli", "import trimtab.recipes"),
        ("trimtab.training", "import torch\nfrom pathlib import Path"),
    ],
)
def test_the_reader_of_imports_accepts_what_is_allowed(module: str, source: str) -> None:
    assert problems(module, source, MADE_UP) == []
