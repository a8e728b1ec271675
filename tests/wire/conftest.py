"""The servers of the wire tests as fixtures."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.wire.harness import Mock, RawServer, raw, start, stop, why_not


@pytest.fixture(scope="session")
def _aimock() -> Iterator[Mock]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    mock, process = start()
    yield mock
    stop(process)
    assert process.stderr is not None
    process.stderr.close()


@pytest.fixture
def mock(_aimock: Mock) -> Mock:
    """The independent mock server, without fixtures or requests."""
    _aimock.reset()
    return _aimock


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    """A server that sends just the bytes it is given."""
    async with raw() as served:
        yield served
