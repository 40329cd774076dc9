"""Training, evaluation and the comparison of losses. Import from the modules; nothing loads here."""
