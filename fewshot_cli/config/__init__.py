"""Recipes: schema, strict YAML, overrides, and the parts that a recipe names."""
