"""The ladder of a set-up: who sent what when, from the captures of every node.

`lab.ladder.frames` reads frames, `journeys` finds one packet again in all captures, `model` says what belongs to a
set-up, `page` where everything goes, `svg` and `figure` draw it.
"""
