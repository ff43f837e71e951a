"""``{algorithm-diff} BEFORE AFTER``: the live diff between two algorithms' updates."""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from grpo_teach.figures import update_diff


class AlgorithmDiff(SphinxDirective):
    required_arguments = 2

    def run(self):
        self.env.note_reread()  # the package may have changed
        diff = update_diff(*self.arguments)
        return [nodes.literal_block(diff, diff, language="diff")]


def setup(app):
    app.add_directive("algorithm-diff", AlgorithmDiff)
    return {"parallel_read_safe": True}
