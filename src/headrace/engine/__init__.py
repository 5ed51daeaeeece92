"""The step loop, the life of a request, events, the thread that drives it all."""
