"""policies/glyphs/: a plan drawn as one figure of ink."""
