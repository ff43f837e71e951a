"""Laboratory: before a run and after it: does it fit, what does a step take, will it learn?"""
