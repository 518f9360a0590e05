"""The wheel holds exactly the tree, under ``dlrun`` alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    out = tmp_path_factory.mktemp("wheel")
    # A copy, because setuptools leaves build folders in the tree; tracked files as a fresh clone has them.
    source = out / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the tree to compare with is unknown")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_symlink() and not path.is_file():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        else:
            target.write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_puts_only_dlrun_into_site_packages(wheel_files: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dlrun"}


def test_wheel_holds_every_file_of_the_packages(wheel_files: set[str]) -> None:
    expected = set()
    for folder, target in (
        ("dlrun", "dlrun"),
        ("models", "dlrun/models"),
        ("configs", "dlrun/configs"),
        ("recipes", "dlrun/recipes"),
    ):
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            if path.is_symlink() or any((ROOT / folder / part).is_symlink() for part in relative.parents):
                continue
            if path.suffix in (".py", ".yaml", ".md", ".css", ".html", ".js") or path.name == "py.typed":
                expected.add(f"{target}/{relative.as_posix()}")
    packaged = {name for name in wheel_files if name.startswith("dlrun/")}
    assert packaged == expected


def test_symlinks_give_the_tools_a_real_path() -> None:
    for name in ("models", "configs", "recipes"):
        assert (ROOT / "dlrun" / name).resolve() == ROOT / name
