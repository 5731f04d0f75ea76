"""Many pictures: which ones, what is done of them already, and who makes the rest.

`inputs` finds the pictures, `plan` says what an item is, `boxes` makes several of a large zarr, `shards` splits a plan
over machines, `manifest` remembers what is done, `runner` makes the items in this process, `cluster` in many of them,
on Ray.
"""
