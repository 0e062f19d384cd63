from __future__ import annotations

from pathlib import Path

import pytest

from runbook.errors import InvalidInputError
from runbook.settings import Settings, load_settings

SHIPPED = Path(__file__).parents[2] / "deployments" / "environments"
LEAST = 'name = "staging"\nrepository = "/srv/shop"\ndatabase = "shop"\n'


def load(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "staging.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(path)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.name)
def test_what_is_shipped_can_be_loaded(path: Path) -> None:
    settings = load_settings(path)
    assert settings.name == path.stem
    assert settings.tests, "every environment runs the application's tests"


def test_the_environment_local_is_shipped() -> None:
    assert (SHIPPED / "local.toml").exists()


def test_what_is_left_out_is_the_careful_choice(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST)
    assert settings.health_paths == ("/api/health", "/api/health/database", "/api/auth/health")
    assert not settings.migrations.restore_on_failure, "no row is lost unless somebody allowed it"
    assert settings.login_paths == ("/api/auth/health",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(LEAST + "strickt = true\n", "strickt", id="unknown key"),
        pytest.param(LEAST + "[watch]\nduration = 60\n", "watch.duration", id="unknown key of a section"),
        pytest.param(LEAST + '[[tests]]\nname = "x"\nargv = ["true"]\nshell = true\n', "tests.0.shell", id="of a list"),
        pytest.param('name = "staging"\nrepository = ""\n', "database", id="missing key"),
        pytest.param(LEAST + "[watch]\nduration_s = 1801\n", "watch.duration_s", id="too long"),
        pytest.param(LEAST + "[watch]\ninterval_s = 0\n", "watch.interval_s", id="zero"),
        pytest.param(LEAST + '[[tests]]\nname = "x"\nargv = []\n', "tests.0.argv", id="no program"),
        pytest.param(LEAST + "health_paths = []\n", "health_paths", id="no health path"),
        pytest.param(LEAST.replace("staging", "../x"), "environment", id="a name that is a path"),
        pytest.param(LEAST.replace('"shop"', '"shop;"'), "database", id="a name that is no identifier"),
        pytest.param(LEAST + '[migrations]\nhistory_table = "a b"\n', "history_table", id="a table that is none"),
        pytest.param("name = ", "staging.toml", id="not TOML"),
        pytest.param(b"name = '\xff'", "staging.toml", id="not UTF-8"),
        pytest.param("a = " + "[" * 10_000, "staging.toml", id="nested too deep"),
        pytest.param(f"a = {'1' * 5000}", "staging.toml", id="a number too long to read"),
    ],
)
def test_a_file_with_a_mistake_is_refused_naming_it(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no-such\.toml"):
        load_settings(tmp_path / "no-such.toml")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a readable TOML file"):
        load_settings(tmp_path)


def test_a_header_is_compared_in_lower_case(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST + 'release_header = "X-Release-SHA"\n').release_header == "x-release-sha"


def test_settings_survive_the_way_through_json(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST + '[[tests]]\nname = "x"\nargv = ["{python}", "-V"]\n')
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
