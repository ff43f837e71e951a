"""``{algorithm-diff} BEFORE AFTER``: the live diff between two algorithms' updates."""

from docutils import nodes
from docutils.parsers.rst import Directive

from grpo_teach.figures import update_diff


class AlgorithmDiff(Directive):
    required_arguments = 2

    def run(self):
        diff = update_diff(*self.arguments)
        return [nodes.literal_block(diff, diff, language="diff")]


def setup(app):
    app.add_directive("algorithm-diff", AlgorithmDiff)
    return {"parallel_read_safe": True}
