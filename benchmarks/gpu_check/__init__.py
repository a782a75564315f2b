"""`make gpu-check`: what lmarch does on an accelerator, in at most six minutes and one JSON file."""
