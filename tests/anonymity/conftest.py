from collections.abc import Iterator

import pytest

from pipeline.anonymity.faces.recognise import loaded


@pytest.fixture(autouse=True)
def _fresh_recognisers() -> Iterator[None]:
    """What one test has loaded, with weights or fakes of its own, is none of the next one's."""
    yield
    loaded.cache_clear()
