"""The leaderboard as one web page: a single file that asks the network for nothing and re-ranks in the browser."""

from ddrank.leaderboard.page.build import FILE, to_html, write

__all__ = ["FILE", "to_html", "write"]
