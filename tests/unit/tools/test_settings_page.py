"""docs/settings.md tells every setting, in the words of the product."""

from services.mesh.settings import variable_of
from tests.deploy.known import SETTINGS
from tests.support.settings_page import PAGE, REMEDY, page


def test_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), REMEDY


def test_every_setting_of_every_command_is_told() -> None:
    told = page()
    variables = {variable_of(kind, name) for kind in SETTINGS.values() for name in kind.model_fields}
    assert sorted(each for each in variables if f"| `{each}` |" not in told) == []
