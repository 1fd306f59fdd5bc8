"""The leaderboard: collects finished runs, recomputes their scores, ranks them. It reads result files, never trains."""

from ddrank.leaderboard.rank import Entry, Group, Ranking, Sweep

__all__ = ["Entry", "Group", "Ranking", "Sweep"]
