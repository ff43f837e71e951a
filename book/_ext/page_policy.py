"""``{page-policy}``: a policy to play with; its code and weights are a file that each build writes."""

from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from grpo_teach.figures.page_policy import panel, script
from grpo_teach.records import load_record

FILE = "page-policy.js"


def share(evaluation: dict) -> str:
    """A recorded accuracy with its interval."""
    low, high = evaluation["interval"]
    return f"{evaluation['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%})"


class PagePolicy(SphinxDirective):
    def run(self):
        self.env.note_reread()  # the record may have changed
        self.env.metadata[self.env.docname]["page-policy"] = True
        run = load_record("page_policy")["runs"][0]
        first, second = (share(run[when]) for when in ("before", "after"))
        problems = f"{run['before']['problems']:,} problems held out from training"
        note = f"Of {problems} the first gets {first} right, the second {second}. One run, seed 0."
        return [nodes.raw("", panel(), format="html"), nodes.paragraph("", note, classes=["page-policy-note"])]


def bring_script(app, pagename, templatename, context, doctree):
    """Only a page with the directive loads the file."""
    if doctree is not None and app.env.metadata[pagename].get("page-policy"):
        app.add_js_file(FILE, loading_method="defer")


def write_script(app):
    folder = Path(app.outdir) / "_static"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(script(), encoding="utf-8")


def setup(app):
    app.add_directive("page-policy", PagePolicy)
    app.connect("builder-inited", write_script)
    app.connect("html-page-context", bring_script)
    return {"parallel_read_safe": True}
