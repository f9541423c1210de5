"""The options that many verbs take, and the settings that all of them begin with."""

from typing import Annotated

import typer

from core.settings import Settings
from core.telemetry import configure_logging

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def loaded() -> Settings:
    """Read the settings, and set up logging as they say.

    Raises:
        ConfigurationError: a value does not fit.

    """
    settings = Settings.load()
    configure_logging(settings)
    return settings
