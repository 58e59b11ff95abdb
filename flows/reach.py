"""Whether a server is there at all, asked in seconds: clients of servers would try for minutes."""

from __future__ import annotations

from urllib.error import HTTPError, URLError
from urllib.request import urlopen


def answers(url: str, *, seconds: float = 5.0) -> bool:
    """Tell whether a server answers a health check.

    Parameters
    ----------
    url : str
        Of the check, such as ``http://127.0.0.1:4200/api/health``.
    seconds : float
        How long to wait.
    """
    try:
        with urlopen(url, timeout=seconds) as response:
            return int(response.status) == 200
    except (URLError, OSError):
        return False


def is_there(api_url: str, *, seconds: float = 5.0) -> bool:
    """Tell whether anything answers at the address of a Prefect API, be it with a refusal."""
    try:
        urlopen(f"{api_url}/health", timeout=seconds).close()
    except HTTPError:
        return True
    except (URLError, OSError):
        return False
    return True


def find_api() -> str:
    """Find the address of the Prefect API that runs are told to, a temporary server's included."""
    from prefect.settings import get_current_settings

    named = get_current_settings().api.url
    if not named:  # Prefect's client starts a server, and knows where
        from prefect.client.orchestration import get_client

        named = str(get_client(sync_client=True).api_url)
    return named.rstrip("/")
