"""The compiled C++ part: loading it, and what calls it beside the decoder."""
