"""The leaderboard as one web page: a single file that asks the network for nothing and re-ranks in the browser."""

from ddrank.leaderboard.page.build import to_html, write

__all__ = ["to_html", "write"]
