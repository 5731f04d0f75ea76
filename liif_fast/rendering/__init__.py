"""A whole picture through a model in bounded memory: sizes, tiles, feature maps, decoders."""
