"""The models of the configuration, and how a name that somebody typed finds one."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from mgmt.core.supervision import UnitSpec
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings, Settings


class Registry:
    """Models by every name they answer to: name, full name, alias; exact and case-sensitive."""

    def __init__(self, settings: Settings, tasks: Mapping[str, UnitSpec] | None = None) -> None:
        # Declared by others than the configuration: periodic tasks that are processes, workers of a suite.
        self._sources: dict[str, dict[str, UnitSpec]] = {"tasks": dict(tasks or {})}
        self.tasks = dict(tasks or {})
        self.reset(settings)

    def reset(self, settings: Settings) -> None:
        """Another configuration is in force."""
        self.settings = settings
        self.models = {model.name: model for model in settings.supported_models}
        # A plain unit is asked for by name like a model; it has one process and nothing to lease.
        self.plain = {name: ModelSettings(name=name, type="unit") for name in settings.units}
        self._names: dict[str, ModelSettings] = {}
        for model in settings.supported_models:
            self._names.setdefault(model.fullname, model)
        for model in settings.supported_models:
            # Names and aliases are unique (the configuration checks); they outrank full names, which are not.
            self._names.update(dict.fromkeys((model.name, *model.aliases), model))
        self._names.update(self.plain)
        for name, spec in self.tasks.items():
            self._names.setdefault(name, spec.model)

    def set_tasks(self, specs: Mapping[str, UnitSpec], source: str = "tasks") -> set[str]:
        """Other tasks are in force, or other workers; the names that are gone."""
        former = self._sources.get(source, {})
        self._sources[source] = dict(specs)
        self.tasks = {name: spec for declared in self._sources.values() for name, spec in declared.items()}
        self.reset(self.settings)
        return former.keys() - self.tasks.keys()

    def configured(self) -> frozenset[str]:
        """The names that the configuration has taken: of units, and of whatever is asked for by name."""
        units = {spec.name for spec in self._configured_specs()}
        return frozenset(units.union(name for name in self._names if name not in self.tasks))

    @property
    def default(self) -> ModelSettings | None:
        name = self.settings.default_model
        return self._names.get(name) if name is not None else None

    def all_specs(self) -> list[UnitSpec]:
        """Every unit the configuration or a workload declares, in name order; the configuration outranks."""
        specs = {**self.tasks, **{spec.name: spec for spec in self._configured_specs()}}
        return [specs[name] for name in sorted(specs)]

    def _configured_specs(self) -> list[UnitSpec]:
        models = [m for m in self.models.values() if m.type in self.settings.model_backends]
        return [spec for model in (*models, *self.plain.values()) for spec in self.specs(model)]

    def resolve(self, name: str) -> ModelSettings:
        """The model of that name; MgmtError `unknown-model` with the names that differ only in case."""
        model = self._names.get(name)
        if model is not None:
            return model
        folded = {known.lower(): model.name for known, model in self._names.items()}
        near = sorted({folded[known] for known in get_close_matches(name.lower(), folded, cutoff=0.75)})
        # The ancestor names those that differ only in case, and its clients read this.
        similar = sorted({m.name for known, m in self._names.items() if known.lower() == name.lower()})
        hint = (
            f"did you mean {' or '.join(similar or near)}?"
            if near
            else "`mgmt status --all` lists what there is"
        )
        text = f"no model or unit {name!r} is configured; {hint}"
        raise MgmtError("unknown-model", text, model=name, similar=similar)

    def specs(self, model: ModelSettings) -> list[UnitSpec]:
        """One unit for each replica; MgmtError `no-backend` when nothing runs the model's type."""
        if model.name in self.plain:
            return [UnitSpec(model.name, model, self.settings.units[model.name])]
        if model.name in self.tasks:
            return [self.tasks[model.name]]
        backend = self.settings.model_backends.get(model.type)
        if backend is None:
            raise MgmtError(
                "no-backend",
                f"model {model.name!r} is of type {model.type!r}, for which model_backends has no entry",
                model=model.name,
                type=model.type,
            )
        if model.replicas == 1:
            return [UnitSpec(model.name, model, backend)]
        return [UnitSpec(f"{model.name}.{n}", model, backend) for n in range(model.replicas)]
