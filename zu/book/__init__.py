"""What chapters share: figures, tables, verdicts."""
