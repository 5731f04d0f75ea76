"""Upscaling many pictures: finding them, knowing which results exist already, and making the rest.

`inputs` finds the pictures and `plan` defines an item of work. `boxes` splits a large zarr into several items, and
`shards` splits a plan between machines. `manifest` keeps what is done. `runner` makes the items in this process and
`cluster` in many processes, on Ray; `conversion` turns one picture file into another, and `streaming` writes results
while they are made.
"""
