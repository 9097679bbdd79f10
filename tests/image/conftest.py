"""The image, built once for all tests here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import DevnetOptions
from tests.image.building import build
from tests.image.container import mounted


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    """Builds the image; its configuration."""
    return build()


@pytest.fixture(scope="session")
def files(config: dict[str, Any]) -> Iterator[Path]:
    """The root of the image's files, which nothing has run on."""
    with mounted() as root:
        yield root


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=2)
