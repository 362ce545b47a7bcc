import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What range-finding keeps lies in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
