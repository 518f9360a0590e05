"""What the pages say exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers import forgetting_plugins

from dlrun.config.files import recipes
from dlrun.config.load import load_config
from dlrun.config.search import load_search
from dlrun.registry import AUGMENTATIONS, OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_readme_names_every_recipe_and_no_other() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (
        sorted(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", text.split("## Recipes")[1].split("##")[0], re.M))
        == recipes()
    )


def test_the_readme_names_every_optimizer_and_no_other() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("| optimizer | implementation |")[1].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)) == OPTIMIZERS.names()


def test_the_page_of_augmentation_names_every_one_and_how_fast_it_is() -> None:
    told, speeds = (ROOT / "docs/augmentation.md").read_text(encoding="utf-8").split("## Held against torchvision")
    rows = re.findall(r"^\| `(\w+)` \|.*\|$", told.split("An amount x")[0], re.M)
    rows += re.findall(r"^\| `(\w+)` \|.*\|$", told.split("## What mixes")[1], re.M)
    assert sorted({*rows, "torchvision"} - {"name"}) == AUGMENTATIONS.names()
    measured = {row.partition(",")[0] for row in re.findall(r"^\| ([\w ,]+?) \|", speeds, re.M)} - {"operation"}
    assert sorted({*measured, "torchvision"}) == AUGMENTATIONS.names()


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_valid_experiment_and_says_how_to_run_it(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    command = "sweep" if "\nsweep:\n" in text else "train"
    assert f"#   dlrun {command} config={name}" in text
    weights = ["model.weights=runs/x"] if "weights: ???" in text else []
    place = ["data.root=/data"] if "image_folder" in text else []
    if command == "sweep":
        assert load_search(name, place).space
    else:
        load_config(name, [*place, *weights])


def test_the_yaml_of_the_readme_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(blocks) == 3
    for block in blocks:
        tree = yaml.safe_load(block)
        if "plugins" in tree:
            (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
            Path("my_net.py").write_text(code, encoding="utf-8")
        Path("my.yaml").write_text(block, encoding="utf-8")
        with forgetting_plugins():
            config, _ = load_config("my.yaml", [])
        if "model" in tree:
            assert config.model.name == tree["model"]["name"]
