"""Rules on the repository's files: what a stranger may clone."""

import re
import tomllib

from tests.rules.sources import PACKAGES, ROOT, files, text

WORKPLACE = ("../sha" + "red", "/wo" + "rk/")
"""Put together here, so that this file does not name them."""
HOSTS = re.compile(r"https?://|pythonhosted|pypi\.org|repo1?\.maven|index-url|find-links", re.IGNORECASE)


def test_nothing_names_where_it_was_made() -> None:
    """No file speaks of a folder outside of the repository on somebody's machine."""
    named = [path.relative_to(ROOT).as_posix() for path in files() if any(word in text(path) for word in WORKPLACE)]
    assert not named


def test_no_lock_file_names_a_host() -> None:
    """Packages come from whatever registry a machine is set up with: lock files have versions and hashes, never an address."""
    locks = [path for path in files() if path.name.endswith((".lock", "-lock.json", "-lock.yaml")) or path.name.startswith("requirements")]
    assert locks
    named = {path.relative_to(ROOT).as_posix(): HOSTS.findall(text(path))[:3] for path in locks if HOSTS.search(text(path))}
    assert not named


def test_the_build_lists_every_package() -> None:
    """Generic names as ours must be listed: what is not is missing in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)
    assert set(project["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)


def test_no_file_is_larger_than_it_must_be() -> None:
    """A repository of text: no file over two megabytes."""
    assert not [path.relative_to(ROOT).as_posix() for path in files() if path.stat().st_size > 2_000_000]
