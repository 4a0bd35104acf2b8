"""`hf:NAME_OR_PATH`: a model of the transformers library, from a local folder or the hub.

Code that comes with a model is never run (`trust_remote_code` stays off), and which class to build is
read from the configuration: `architectures` if it names a class of the library, else the library's own
mapping from configuration to task. Weights are taken from safetensors, or unpickled with `weights_only`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchstone._errors import ConfigError, ModelError, Offline, TorchstoneError, UntrustedCode, UsageError
from torchstone._optional import require
from torchstone.adapt.config_file import aliases
from torchstone.data.hub_reach import hub_answers

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

# Tried in this order where the configuration names no class; each is a mapping of the library.
_ENCODER_DECODER = ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
_OTHERS = (
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModelForSequenceClassification",
    "AutoModel",
)


@dataclass
class HubModel:
    """A model of the library with its configuration, and what to know about its weights."""

    module: nn.Module
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def build_from_hub(name: str, overrides: Mapping[str, Any] | None = None) -> HubModel:
    """Configuration, class, weights: in this order, each refused with a clear line."""
    transformers = require("transformers", "hf")
    with quiet(transformers), _explaining(name):
        config = _read_config(transformers, name)
        for key, value in (overrides or {}).items():
            _override(config, key, value)
        model_class = _model_class(transformers, config)
        module, notes = _with_weights(model_class, config, name, resized=bool(overrides))
    notes.insert(0, f"{model_class.__name__} of transformers {transformers.__version__}")
    return HubModel(module, config.to_dict(), notes)


def _read_config(transformers: ModuleType, name: str) -> Any:
    near = local_only(name)
    said, _ = transformers.PretrainedConfig.get_config_dict(name, local_files_only=near)
    known = set(transformers.models.auto.configuration_auto.CONFIG_MAPPING.keys())
    if said.get("model_type") not in known:
        if "auto_map" in said:
            raise UntrustedCode(
                f"hf:{name} needs code of its own, and that is never run from here",
                why=f"its config.json points to {said['auto_map'].get('AutoConfig', 'its own classes')}",
                next="download its files, read them, and load the folder's model file: path/model.py:Class",
            )
        if not said:
            raise UsageError(f"there is no config.json in hf:{name}")
        raise ModelError(
            f"this transformers library knows no model_type {said.get('model_type')!r}",
            where=f"config.json of hf:{name}",
            why=f"installed is transformers {transformers.__version__}",
            next="pip install --upgrade transformers",
        )
    return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=near)


def _override(config: Any, key: str, value: Any) -> None:
    """Set a size under the word that this configuration uses for it."""
    words = [word for word in (key, *aliases(key)) if hasattr(config, word)]
    if not words:
        raise ConfigError(
            f"model.{key} has no effect on a {type(config).__name__}",
            next=f"leave model.{key} out",
        )
    setattr(config, words[0], value)


def _model_class(transformers: ModuleType, config: Any) -> Any:
    for name in config.architectures or ():
        named = getattr(transformers, name, None)
        if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
            return named
    order = _ENCODER_DECODER + _OTHERS if getattr(config, "is_encoder_decoder", False) else _OTHERS
    for auto in order:
        if auto == "AutoModelForMaskedLM" and getattr(config, "is_decoder", False):
            continue
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, list | tuple) else found
    raise ModelError(
        f"the library has no model for a {type(config).__name__}",
        next="name the class under `architectures` in its config.json",
    )


def _with_weights(model_class: Any, config: Any, name: str, *, resized: bool) -> tuple[nn.Module, list[str]]:
    folder = Path(name)
    local = folder.is_dir()
    if resized:
        return model_class(config), ["sizes were overridden, so the weights are random"]
    if local and not (any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))):
        return model_class(config), ["no weights came with it: they are random, from its configuration"]
    safe = not local or any(folder.glob("*.safetensors"))
    try:
        module, told = _pretrained(model_class, config, name, safe)
    except OSError as absent:
        if local or _is_offline(absent):
            raise
        try:
            module, told = _pretrained(model_class, config, name, False)
        except OSError:
            return model_class(config), ["no weights came with it: they are random, from its configuration"]
    notes = (
        [f"{len(told['missing_keys'])} weights were missing and are random"] if told["missing_keys"] else []
    )
    if told["unexpected_keys"]:
        notes.append(f"{len(told['unexpected_keys'])} weights of the file have no place in the model")
    return module, notes


def _pretrained(model_class: Any, config: Any, name: str, safe: bool) -> tuple[nn.Module, dict[str, Any]]:
    return model_class.from_pretrained(
        name,
        config=config,
        use_safetensors=safe,
        local_files_only=not hub_answers(),
        weights_only=True,
        dtype="float32",
        output_loading_info=True,
    )


def local_only(name: str) -> bool:
    """Whether only this machine can be asked for `name`."""
    return Path(name).is_dir() or not hub_answers()


@contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """The library's bars and warnings would mix with our output; what matters becomes a note."""
    logging_of = transformers.utils.logging
    level, bars = logging_of.get_verbosity(), logging_of.is_progress_bar_enabled()
    logging_of.set_verbosity_error()
    logging_of.disable_progress_bar()
    try:
        yield
    finally:
        logging_of.set_verbosity(level)
        if bars:
            logging_of.enable_progress_bar()


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Errors of the library and of the hub, as ours."""
    try:
        yield
    except OSError as problem:
        if _is_offline(problem):
            raise Offline(
                f"hf:{name} is not on this machine and the hub cannot be reached",
                why="HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else _first_line(problem),
                next="try again with a network, or give a local folder: hf:PATH",
            ) from None
        raise UsageError(
            f"hf:{name} cannot be loaded",
            why=_first_line(problem),
            next="check the name on huggingface.co, or give a local folder: hf:PATH",
        ) from problem
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as problem:
        if isinstance(problem, TorchstoneError):
            raise
        raise ModelError(f"hf:{name} cannot be built", why=_first_line(problem)) from problem


def _is_offline(problem: BaseException | None) -> bool:
    while problem is not None:
        if type(problem).__name__ in ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError"):
            return True
        if "couldn't connect" in str(problem) or isinstance(problem, ConnectionError | TimeoutError):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
