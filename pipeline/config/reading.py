"""From YAML to a checked description, or one error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from pipeline.config.features import described_by
from pipeline.config.pipeline import Pipeline
from pipeline.config.splits import METHODS
from pipeline.errors import ConfigError, one_line
from pipeline.settings import Settings
from pipeline.training.networks import FAMILIES

# A contract of 20,000 columns; OmegaConf's own limit is at 2,500. It also refuses, whatever this
# says, a file whose aliases make more than a hundred nodes of one.
_MOST_NODES = 100_000


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads and checks one pipeline.

    Args:
        path: The YAML file.
        overrides: Settings such as `train.epochs=3`, applied over the file.

    Raises:
        ConfigError: The file is missing or not YAML, or a setting is unknown, of the wrong type,
            or impossible beside another; it names the setting's path, the value, what is allowed.
    """
    raw = _read(Path(path), overrides)
    try:
        return Pipeline.model_validate(raw)
    except ValidationError as error:
        raise _translated(error, str(path), raw) from error


def _read(path: Path, overrides: Sequence[str]) -> Any:
    malformed = [item for item in overrides if "=" not in item]
    if malformed:
        raise ConfigError(
            "--set", f"{malformed[0]!r} has no `=`", "Write it as --set train.epochs=3."
        )
    try:
        described = OmegaConf.load(path, max_yaml_expanded_nodes=_MOST_NODES)
        if not isinstance(described, DictConfig):
            raise ConfigError(
                str(path), "holds no settings", "Start from conf/pipelines/flights.yaml."
            )
        tree = OmegaConf.merge(described, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_container(tree, resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(str(path), "there is no such file", "Name a pipeline's YAML.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}", "Name a text file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {one_line(error)}", "Mend it.") from error
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or str(path)
        raise ConfigError(
            str(where), one_line(error), "Mend the interpolation or the --set that names it."
        ) from error


def _translated(error: ValidationError, path: str, raw: Any) -> ConfigError:
    first, *others = error.errors(include_url=False)
    location = [part for part in first["loc"] if part != "[key]"]
    where = _shown(location) or path
    if first["type"] == "extra_forbidden":
        return ConfigError(where, "unknown setting", _allowed_here(location, raw) + _more(others))
    if first["type"] == "missing":
        return ConfigError(where, "is missing", f"Add it to {path}.{_more(others)}")
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" (value: {first['input']!r})"
    return ConfigError(where, f"{message}{shown}", f"Correct it in {path}.{_more(others)}")


def _shown(location: Sequence[int | str]) -> str:
    """The setting's path, without what Pydantic puts behind a union: a family or a method."""
    parts = [str(part) for part in location]
    if parts[:2] == ["features", "splits"]:
        del parts[2:3]
    if parts[:2] == ["train", "model"] and parts[2:3] != ["family"]:
        del parts[2:3]
    return ".".join(parts)


def _more(others: Sequence[Any]) -> str:
    if not others:
        return ""
    places = ", ".join(_shown(other["loc"]) for other in others[:5])
    return f" Also at fault: {places}."


def _allowed_here(location: Sequence[int | str], raw: Any) -> str:
    *parents, unknown = location
    annotation: Any = Pipeline
    if parents[:1] == ["features"]:
        annotation = described_by(raw["features"])
        del parents[0]
    for part in parents:
        annotation = _annotation_below(annotation, str(part))
    fields = _settings_class(annotation).model_fields
    names = sorted(field.alias or name for name, field in fields.items())
    close = difflib.get_close_matches(str(unknown), names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed here: {', '.join(names)}."


def _annotation_below(annotation: Any, part: str) -> Any:
    """What is declared at `part`: a dict declares one type for all its keys, a union by name."""
    if get_origin(annotation) is Union:
        return {**FAMILIES, **METHODS}[part]
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return _settings_class(annotation).model_fields[part].annotation


def _settings_class(annotation: Any) -> type[Settings]:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    raise TypeError(f"{annotation} declares no settings")
