"""The durable layer: the only room that decides "do it, or it is done".

A `Program` is a pure state machine over records: `fold` takes one record in, `next` says what is to be done. `drive`
does it, appends what came of it, folds that, and asks again. A step whose record exists is never entered again, because
the fold does not ask for it again. The kernel is what a run is given to live in: log, registry, clock.
"""
