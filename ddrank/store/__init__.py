"""The store: finished measurements, and networks that several of them need, kept by content.

Everything lies under a key that is a hash of what can change it. An entry is one file, written whole or not at all,
and carries a checksum; two jobs that want the same key wait for one computation. Nothing in the store is precious: a
corrupt entry is reported and computed again. `python -m ddrank.store` lists, verifies, clears and moves entries.
"""

from ddrank.store.entry import digest
from ddrank.store.lock import Lock
from ddrank.store.store import Store

__all__ = ["Lock", "Store", "digest"]
