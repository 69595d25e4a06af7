"""Episodes become records, records a result with its interval."""
