"""Recipes are code: a run is a function that returns one frozen `Recipe`; `story` runs it."""
