"""Object-aware long-short-range spatial alignment: FOE, LSC and SSM."""
