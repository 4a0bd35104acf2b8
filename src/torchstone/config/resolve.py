"""From layers to one resolved configuration in which every value knows where it came from.

    default < defconfig < file (.config, .toml, .json) < environment CONFIG_SECTION_KEY < --set key=value

All mistakes of all layers are told at once. A key that the user set and that has no effect here, because its
`depends_on` does not hold, is a mistake as well: no wish is ignored in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchstone.config.knobs import knobs_of
from torchstone.config.layers import DEFAULT, Assignment, from_environment, from_file, from_overrides
from torchstone.config.mistakes import Mistake, raise_all
from torchstone.config.resolved import Resolved, Value, differences, without_effect
from torchstone.config.schema import Section

__all__ = ["Resolved", "Value", "differences", "resolve"]


def resolve(
    sections: Mapping[str, type[Section]],
    *,
    defconfig: str | Path | None = None,
    file: str | Path | None = None,
    overrides: Sequence[tuple[str, str | None]] = (),
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Resolve all layers, or raise one ConfigError that lists every mistake in them.

    `defconfig` is a name (`./defconfigs/NAME`, else the one that comes with torchstone) or a path.
    `overrides` are pairs of key and text; `@default` (or None) as text gives a key its default back.
    Without `environ` the environment is not looked at.
    """
    knobs = knobs_of(sections)
    mistakes: list[Mistake] = []
    layers: list[Assignment] = []
    if defconfig is not None:
        from torchstone.config.defconfigs import find

        path, label = find(str(defconfig))
        layers += from_file(path, label, sections, mistakes)
    if file is not None:
        layers += from_file(Path(file), str(file), sections, mistakes)
    layers += from_environment(environ or {}, knobs, mistakes)
    layers += from_overrides(overrides, knobs, mistakes)

    values = {key: Value(knob.default, DEFAULT) for key, knob in knobs.items()}
    wishes: dict[str, Assignment] = {}
    for each in layers:
        values[each.key] = Value(each.value, each.source)
        wishes[each.key] = each
    explicit = [(each.key, each.source) for each in wishes.values() if each.explicit]
    mistakes += without_effect(explicit, knobs, values)
    raise_all(mistakes)
    return Resolved.of_values(sections, values)
