"""Sizes of the kernel, measured on an H200 with rows of 128,256 logits, launch included.

256 rows: top_k=50 64 µs, top_p=0.9 113 µs on logits like a language model's, all off 10 µs; 32 rows: 37, 70 and 10 µs.
Twice the lanes keep top_k=1000 in registers as well, and make everything else a third slower.
"""

BLOCK = 2048  # lanes: values a program reads at a time
DEPTH = 4  # largest values that each lane keeps: together the largest 600 or so of a row
NUM_WARPS = 8

MANY_ROWS = 256
"""Up to so many the CUDA kernel is used: no setting makes it slow. H200, 151,936 logits, CUDA and Pallas: 256 rows with
top_k=50 195 and 76 µs, with top_p=0.9 144 and 141 µs, with all sorts mixed 191 and 367 µs; 64 rows mixed 69 and 267 µs.
"""
