"""Chapter 05's first exercise and its widgets in a real JupyterLab, a kernel behind it, as a learner meets them."""

import os
import socket
import subprocess
import sys
import time

import nbformat
import pytest

from browser.book_pages import ROOT, quiet_browser, until

CHAPTER = ROOT / "notebooks" / "05_grpo.ipynb"
KEPT = [  # of the chapter's code cells, those that this reader runs; each holds one of these texts
    "from grpo_teach import exercises",
    "play_advantages()",
    "group_relative_advantages(rewards):",  # the stub; the solution is left out below
    'exercises.check("group_relative_advantages"',
    "training_panel()",
    "exercises.progress()",
]
WIDGETS, STUB, CHECK, PANEL, PROGRESS = range(1, 6)
WRONG = """def group_relative_advantages(rewards):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)"""
RIGHT = """def group_relative_advantages(rewards):
    centred = rewards - rewards.mean(1)[:, None]
    return centred / (rewards.std(1)[:, None] + 1e-6)"""
SECONDS = 300  # for a kernel that has much to import on a machine that does other things too
RUN = """const [cells, done] = arguments, {shell, commands} = window.jupyterapp, {content} = shell.currentWidget;
content.activeCellIndex = cells[0];
content.deselectAll();
if (cells.length > 1) content.extendContiguousSelectionTo(cells.at(-1));
commands.execute("notebook:run-cell").then(done);"""
WRITE = "window.jupyterapp.shell.currentWidget.content.widgets[arguments[0]].model.sharedModel.setSource(arguments[1])"
READY = """const panel = window.jupyterapp?.shell?.currentWidget, session = panel?.sessionContext;
return session?.isReady && session.session?.kernel?.status === "idle" && panel.content?.widgets?.length"""
PICTURE = """const found = document.querySelectorAll("img.widget-image")[arguments[0]];
fetch(found.src).then(r => r.text()).then(arguments[1]);"""


def chapter(cells):
    """The chapter with the cells of this reader alone, without outputs."""
    code = [c for c in cells if c.cell_type == "code" and "solution" not in c.metadata.get("tags", [])]
    kept = [next(c for c in code if text in c.source) for text in KEPT]
    for cell in kept:
        cell.outputs, cell.execution_count = [], None
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=kept, metadata=kernel)


@pytest.fixture
def lab(browser, tmp_path):
    """JupyterLab with the chapter open, in a browser of its own; the settings of whoever runs this stay out of it."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    nbformat.write(chapter(cells), tmp_path / "chapter.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own |= {"HOME": str(tmp_path), "GRPO_TEACH_PROGRESS": str(tmp_path / "progress.json"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.news_url="]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=log, stderr=log)
    driver = quiet_browser()
    try:
        until(driver, lambda _: server.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)) == 0, SECONDS)
        driver.set_window_size(1300, 4000)  # what is outside the window, JupyterLab does not draw
        driver.set_script_timeout(SECONDS)
        driver.get(f"http://127.0.0.1:{port}/lab/tree/chapter.ipynb")
        until(driver, READY, SECONDS)
        yield driver
    except Exception:
        print((tmp_path / "lab.log").read_text()[-2000:])
        raise
    finally:
        driver.quit()
        server.terminate()
        server.wait()


def test_a_learner_solves_an_exercise_and_works_the_widgets(lab):
    from selenium.webdriver.common.keys import Keys

    def at(cell: int, selector: str):
        return lab.find_elements("css selector", ".jp-CodeCell")[cell].find_element("css selector", selector)

    def output(cell: int) -> str:
        return at(cell, ".jp-Cell-outputWrapper").text

    def run(*cells: int) -> None:
        lab.execute_async_script(RUN, list(cells))

    # The chapter as it stands runs from top to bottom.
    run(*range(len(KEPT)))
    until(lab, lambda _: "not attempted yet" in output(CHECK), SECONDS)
    until(lab, lambda _: "not yet: group_relative_advantages" in output(PROGRESS))

    # A wrong answer is told its mistake; the right one passes and is noted.
    lab.execute_script(WRITE, STUB, WRONG)
    run(STUB, CHECK)
    until(lab, lambda _: "not right yet" in output(CHECK) and "batch" in output(CHECK))
    lab.execute_script(WRITE, STUB, RIGHT)
    run(STUB, CHECK)
    until(lab, lambda _: "passed" in output(CHECK))
    run(PROGRESS)
    until(lab, lambda _: "✓ group_relative_advantages" in output(PROGRESS))

    # A slider, moved by a key, changes the picture above it.
    before = lab.execute_async_script(PICTURE, 0)
    at(WIDGETS, ".noUi-handle").send_keys(Keys.ARROW_LEFT)
    until(lab, lambda _: lab.execute_async_script(PICTURE, 0) != before)

    # The panel trains, its curve moves, and it stays where it was stopped.
    def press(name: str) -> None:
        lab.find_element("xpath", f"//button[contains(@class, 'widget-button') and normalize-space()='{name}']").click()

    empty = lab.execute_async_script(PICTURE, 1)
    assert "not started: step 0" in output(PANEL)
    press("start")
    until(lab, lambda _: "trains: step 2" in output(PANEL), SECONDS)
    press("stop")
    until(lab, lambda _: "stopped: step" in output(PANEL))
    assert lab.execute_async_script(PICTURE, 1) != empty
    ended = output(PANEL)
    time.sleep(3)
    assert output(PANEL) == ended
