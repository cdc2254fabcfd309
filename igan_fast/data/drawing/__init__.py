"""Draws faces: `population` samples the parameters of a face, `portrait` draws it, other modules draw its parts."""
