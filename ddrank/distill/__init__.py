"""Making distilled datasets: `python -m ddrank.distill`. A distiller is one class; it never sees the evaluation."""
