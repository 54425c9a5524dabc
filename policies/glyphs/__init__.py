"""Glyphs: a plan drawn as one figure of ink."""
