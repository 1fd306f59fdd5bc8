"""ddrank: how much information a distilled dataset really carries."""

__version__ = "0.1.0"
