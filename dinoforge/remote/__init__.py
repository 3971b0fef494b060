"""Object stores: URLs of sources and of published output, read and written through fsspec.

Paths stay texts everywhere; what opens one asks `is_url`. Local paths never come here.
"""

from dinoforge.remote.urls import is_url

__all__ = ["is_url"]
