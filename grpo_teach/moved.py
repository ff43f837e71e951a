"""Modules that stood elsewhere once: an import by the old name finds the module where it stands now.

Notebooks that readers saved say ``from grpo_teach.exact import ExactWorld``. It goes on working, with the very module,
and loads nothing until somebody asks.
"""

import importlib
import importlib.abc
import importlib.util
import sys

MOVED = """
    calculator=figures.calculator compare=studies.compare exact=studies.exact experiments=studies.run fit=clinic.fit
    flags=commands.flags memory_command=commands.memory memory_grid=memory.grid memory_measure=memory.measure
    memory_setup=memory.setup merge=large.merge plots=figures.curves preflight=clinic.preflight
    pretrain=studies.pretrain rehearsal=clinic.cost results=studies.results viz=figures
"""
MOVED = dict(pair.split("=") for pair in MOVED.split())


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        package, _, old = name.rpartition(".")
        if package == __package__ and old in MOVED:
            return importlib.util.spec_from_loader(name, self)

    def exec_module(self, module):
        old = module.__name__
        sys.modules[old] = importlib.import_module(f"{__package__}.{MOVED[old.rpartition('.')[2]]}")


sys.meta_path.append(_Moved())
