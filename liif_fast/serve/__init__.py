"""A page that zooms into pictures without end, and a IIIF image service behind it; needs the extra `serve`."""
