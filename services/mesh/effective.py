"""The settings that a process runs with, as it shows them: where each comes from, and no secret."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, SecretStr

from services.mesh.settings import FILE_SUFFIX, MASK, MeshSettings, variable_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """One setting as `/debug/config` and the `config` command show it."""

    variable: str
    value: object
    origin: Literal["environment", "file", "argument", "default"]
    description: str


def effective(settings: MeshSettings) -> list[EffectiveSetting]:
    """All settings with where they come from, sorted by variable; secrets are masked."""
    kind = type(settings)
    shown = []
    for name, field in kind.model_fields.items():
        variable = variable_of(kind, name)
        value = getattr(settings, name)
        shown.append(
            EffectiveSetting(
                variable=variable,
                value=_mask(value),
                origin=_origin(settings, name, variable),
                description=field.description or "",
            )
        )
    return sorted(shown, key=lambda setting: setting.variable)


def _origin(
    settings: MeshSettings, field_name: str, variable: str
) -> Literal["environment", "file", "argument", "default"]:
    if field_name not in settings.model_fields_set:
        return "default"
    if variable in os.environ:
        return "environment"
    return "file" if variable + FILE_SUFFIX in os.environ else "argument"


def _mask(value: object) -> object:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, BaseModel):
        return {name: _mask(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): _mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mask(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
