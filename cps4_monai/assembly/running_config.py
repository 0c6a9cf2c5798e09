"""The config that a component is being built from, for what no component is told: the settings as they were written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser

from cps4_monai.fingerprint import CHANGES_ON_THE_WAY, fingerprint

# Where the classes and their prompts come from: they are compared by themselves, so that their file may be moved.
_OF_CLASSES = ("anatomy#source", "anatomy#prompt_template", "anatomy_source", "prompt_template")
_PARSING = ConfigParser.get_parsed_content.__code__


def running_config() -> Mapping[str, Any] | None:
    """The merged config of the MONAI parser that is building the caller; None where none is.

    MONAI hands a component the values of its arguments and never the config they stand in. The parser is found in the
    calls under way, so that it is there in every form of a run: `cps4 train`, ``CPS4Workflow`` and the plain
    ``monai.bundle run --config_file``.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is _PARSING:
            config: Mapping[str, Any] = frame.f_locals["self"].get()
            return config
        frame = frame.f_back
    return None


def same_experiment(start: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must have in common with the checkpoint that it goes on from.

    Args:
        start: id of the trainer.
        identity: what decides the result and stands in no config; its ``classes`` are what the run has of its anatomy.
    """
    config = running_config()
    settings = {} if config is None else fingerprint(config, start, but=(*CHANGES_ON_THE_WAY, *_OF_CLASSES))
    return {**settings, **identity}
