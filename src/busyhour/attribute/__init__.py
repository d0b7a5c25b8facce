"""Which lines hold the memory: calls a target that runs under memray, and reads what it held when they were over.

tracked     in the target: starts it as its command would have, and tracks its memory between two words of ours
commands    the target's command, changed to be started by `tracked`; what is not Python is refused
desk        ours: where the tracked processes report, and are told when to begin and to stop
rounds      the plan that is carried out: calls to warm up, a first half, a second half, and a word between them
reading     memray's captures into lines of code
command     the flags, the sequence, and what is printed
"""
