"""Tool calls: what a model wrote, as reasoning, content and calls. One file a format; `message.py` is the front door.

A parser is a generator over a `Source`: it reads like a description of its format, yields events as soon as they are
certain and None where it needs more text. Nothing it decides depends on how the text was cut into pieces, so a plain
answer is the fold of the streamed one's events. Nothing here knows HTTP.
"""
