"""The drawn faces: `parameters` says who is drawn, `portrait` paints it, the other rooms hold its parts."""
