"""Laboratory: pictures of recorded runs and of the live source, and pages that respond without a kernel."""

from grpo_teach.figures.diffs import show_diff, show_source, source, update_diff, update_source
from grpo_teach.figures.explorer import explorer

__all__ = ["explorer", "show_diff", "show_source", "source", "update_diff", "update_source"]
