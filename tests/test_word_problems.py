"""Word problems: splits that never mix, prompts that the tokenizer reads as written, one clear line if it cannot be."""

import json
import re
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from chat import TEMPLATE, chat_tokenizer, tagged

from grpo_teach import InputError, Problem, evaluate, from_text
from grpo_teach.__main__ import main
from grpo_teach.policy import save_policy, tiny_policy
from grpo_teach.rewards import tagged_answer
from grpo_teach.tasks import WordProblems, word_problems

datasets = pytest.importorskip("datasets")
pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return WordProblems(chat_tokenizer(), "sample")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def folder(path, train, test=({"question": "Which?", "answer": "Three.\n#### 3"},)):
    for split, rows in (("train", train), ("test", test)):
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (path / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# The problems that ship -------------------------------------------------------------------------------------------


def test_the_shipped_solutions_calculate_rightly():
    rows = word_problems.load("sample")
    assert {split: len(part) for split, part in rows.items()} == {"train": 40, "test": 20}
    for row in rows["train"] + rows["test"]:
        steps = re.findall(r"<<(.*?)=(-?\d+)>>", row["answer"])
        assert steps and all(eval(expression) == int(result) for expression, result in steps)
        assert row["answer"].split("#### ")[1].replace(",", "") == steps[-1][1]
        inputs = {number for expression, _ in steps for number in re.findall(r"\d+", expression)}
        assert len(inputs & set(re.findall(r"\d+", row["question"]))) >= 2, "it calculates with the question's numbers"
    questions = [row["question"] for row in rows["train"] + rows["test"]]
    assert len(set(questions)) == 60


# The task ---------------------------------------------------------------------------------------------------------


def question_of(problem):
    return re.fullmatch(r".*<\|head\|>user\n\n(.*)<\|end\|><\|head\|>assistant\n\n", problem.prompt, re.DOTALL)[1]


def test_train_and_test_never_share_a_question(task):
    train, test = ({question_of(p) for p in task.sample(3000, generator(), split)} for split in ("train", "test"))
    rows = word_problems.load("sample")
    assert train == {row["question"] for row in rows["train"]} and test == {row["question"] for row in rows["test"]}
    assert train.isdisjoint(test) and test == {question_of(p) for p in task.test_set(99)}


def test_a_training_question_that_the_test_split_has_is_left_out(tmp_path):
    rows = [{"question": f" {q} ", "answer": "#### 1"} for q in ("Which?", "How?", "How?")]
    found = WordProblems(chat_tokenizer(), folder(tmp_path, rows))
    assert {question_of(p) for p in found.sample(50, generator())} == {"How?"}
    assert [question_of(p) for p in found.test_set(9)] == ["Which?"]


def test_the_test_set_is_fixed_and_a_shorter_one_starts_a_longer_one(task):
    assert task.test_set(5) == task.test_set(20)[:5]
    rows = word_problems.load("sample")["test"]
    assert [question_of(p) for p in task.test_set(20)] == [row["question"] for row in rows], "the file's own order"
    assert task.sample(9, generator(1)) == task.sample(9, generator(1)) != task.sample(9, generator(2))


def test_answers_are_those_behind_the_four_signs(tmp_path):
    worked = "He has <<2*5=10>>10 and <<9+1=10>>10 #### no\nand so\n#### 1,080 "
    found = WordProblems(chat_tokenizer(), folder(tmp_path, [{"question": "How?", "answer": worked, "id": 7}]))
    [problem] = found.sample(1, generator())
    assert problem.answer == "1080"
    assert found.demonstration(problem) == "<think>\nHe has 10 and 10 #### no\nand so\n</think>\n<answer>1080</answer>"


def test_demonstrations_earn_the_reward_under_either_grade(task):
    problems = task.sample(30, generator()) + task.test_set(20)
    texts = [task.demonstration(problem) for problem in problems]
    assert task.reward(texts, problems).min() == 1 and all(map(task.thinks, texts))
    for text, problem in zip(texts, problems, strict=True):
        assert task.figures(text, problem) == {"strict": 1, "lenient": 1, "format": 1}


def test_the_grade_decides_the_reward_and_the_figures_tell_format_from_number(task):
    lenient = WordProblems(chat_tokenizer(), "sample", "lenient")
    problems = [Problem("?", "42"), Problem("?", "7")]
    texts = ["It is 42.", tagged("42"), tagged("7"), tagged("8")]
    assert task.reward(texts, problems).tolist() == [[0, 1], [1, 0]]
    assert lenient.reward(texts, problems).tolist() == [[1, 1], [1, 0]]
    figures = [tuple(task.figures(text, problems[0]).values()) for text in texts]
    assert figures == [(0, 1, 0), (1, 1, 1), (0, 0, 1), (0, 0, 1)]


def test_thinking_is_opening_with_the_tag(task):
    assert task.thinks("\n<think>well") and not task.thinks("well <think>") and not task.thinks("")


def test_two_tasks_are_the_same_run_only_with_the_same_problems_prompts_and_grade(task):
    def same(**changed):
        return repr(WordProblems(**{"tokenizer": chat_tokenizer(), "source": "sample"} | changed)) == repr(task)

    assert same() and not same(grade="lenient")
    assert not same(tokenizer=chat_tokenizer(template=TEMPLATE.replace("trim", "upper")))


# Prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.removeprefix("{{ bos_token }}")], ids=["bos", "no bos"])
def test_the_tokenizer_reads_the_prompt_as_the_template_means_it(adds_bos, template):
    tokenizer = chat_tokenizer(adds_bos, template)
    prompt = word_problems.chat_prompt(tokenizer, "How many <eggs>?\nSay.")
    ids = from_text(tokenizer, [prompt], ["42"]).prompt_ids[0].tolist()
    messages = [{"role": "system", "content": word_problems.SYSTEM}]
    messages += [{"role": "user", "content": "How many <eggs>?\nSay."}]
    meant = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    bos = tokenizer.bos_token_id
    assert [i for i in ids if i != bos] == [i for i in meant if i != bos]
    assert ids.count(bos) == (ids[0] == bos) == (adds_bos or template is TEMPLATE), "one BOS, in front, never two"
    assert prompt.endswith("<|head|>assistant\n\n")


def test_the_prompt_does_not_change_overnight():
    llama = "{% if date_string is not defined %}{% set date_string = strftime_now('%H:%M:%S.%f') %}{% endif %}"
    tokenizer = chat_tokenizer(template=llama + "{{ date_string }}" + TEMPLATE)
    assert word_problems.chat_prompt(tokenizer, "How?") == word_problems.chat_prompt(tokenizer, "How?")


def test_the_system_prompt_asks_for_what_the_reward_wants():
    tags = re.findall(r"</?\w+>", word_problems.SYSTEM)
    assert tagged_answer("{}x{}{}5{}".format(*tags)) == "5"


def test_a_tokenizer_without_a_usable_chat_template_is_refused(tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        WordProblems(tokenizer, "sample")
    with pytest.raises(InputError, match="System role not supported"):
        WordProblems(chat_tokenizer(template="{{ raise_exception('System role not supported') }}"), "sample")


# Where the problems come from -------------------------------------------------------------------------------------

GOOD = {"question": "How?", "answer": "One.\n#### 1"}


@pytest.mark.parametrize(
    "train, words",
    [
        ([GOOD, {"question": "Many?", "answer": "two"}], "train row 2.*####"),
        ([GOOD, {"question": "Many?", "answer": "#### two"}], "train row 2.*####"),
        ([{"question": "Many?", "answer": "####"}], "train row 1.*####"),
        ([{"question": "Many?", "answer": "#### nan"}], "train row 1.*####"),
        ([{"question": "Many?", "answer": "2"}], "train row 1.*####"),
        ([GOOD, GOOD, {"question": "Many?", "answer": None}], "train row 3.*####"),
        ([GOOD, {"question": " ", "answer": "#### 2"}], "train row 2.*question"),
        ([GOOD, {"question": None, "answer": "#### 2"}], "train row 2.*question"),
        ([{"frage": "How?", "answer": "#### 2"}], "train row 1.*question"),
        ([{"question": "Which?", "answer": "#### 3"}], "no problem to train on"),
        ([{"question": "Many?", "answer": 2}], "train row 1.*####"),
        (["not json"], "cannot load.*JSON"),
        ([], "cannot load.*have rows"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, capfd, train, words):
    with pytest.raises(InputError, match=words) as refused:
        WordProblems(chat_tokenizer(), folder(tmp_path, train))
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value) and "()" not in str(refused.value)
    assert capfd.readouterr().err == ""


def test_a_folder_that_is_edited_is_read_again(tmp_path):
    for answer in "12":
        folder(tmp_path, [{"question": "How?", "answer": f"#### {answer}"}])
        assert WordProblems(chat_tokenizer(), tmp_path).sample(1, generator())[0].answer == answer


def unreachable(*_, **__):
    raise ConnectionError("no network")


def test_without_network_one_line_says_at_once_how_to_go_on(monkeypatch):
    monkeypatch.setattr("huggingface_hub.dataset_info", unreachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(InputError, match="gsm8k.*reasoning_gym.*sample.*folder") as refused:
        WordProblems(chat_tokenizer())
    assert time.monotonic() - started < 5 and "\n" not in str(refused.value)


@pytest.mark.parametrize("reachable", [True, False])
def test_gsm8k_is_asked_for_by_its_name_and_from_the_disk_if_the_hub_is_away(monkeypatch, reachable):
    asked = []

    def load_dataset(*names):
        asked.append((*names, datasets.config.HF_HUB_OFFLINE))
        return word_problems_that_ship

    word_problems_that_ship = word_problems.load("sample")
    monkeypatch.setattr("huggingface_hub.dataset_info", (lambda *_, **__: None) if reachable else unreachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", reachable)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(WordProblems(chat_tokenizer()).test_set(99)) == 20
    assert asked == [("openai/gsm8k", "main", not reachable)]


@pytest.mark.parametrize("module", ["datasets", "math_verify", "reasoning_gym"])
def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    source = {"reasoning_gym": "reasoning_gym", "datasets": "gsm8k"}.get(module, "sample")
    with pytest.raises(InputError, match=f"pip install {module.replace('_', '-')}"):
        WordProblems(chat_tokenizer(), source)


def test_an_unknown_grade_is_refused():
    with pytest.raises(InputError, match="strict, lenient"):
        WordProblems(chat_tokenizer(), "sample", "kind")


def test_generated_problems_are_many_the_same_every_time_and_never_in_both_splits():
    gym = pytest.importorskip("reasoning_gym")
    first, again = (WordProblems(chat_tokenizer(), "reasoning_gym") for _ in range(2))
    assert repr(first) == repr(again) and first.test_set(1000) == again.test_set(1000)
    train, test = ({question_of(p): p.answer for p in first.splits[split]} for split in ("train", "test"))
    assert train.keys().isdisjoint(test) and len(train) > 7500 and len(test) > 950
    # reasoning-gym gives the answer a second time, apart from the worked solution that we read it from.
    for row in gym.create_dataset("gsm_symbolic", seed=10**6, size=200):
        assert float(test[row["question"]]) == float(row["answer"])


# Evaluation and the command line ----------------------------------------------------------------------------------


def test_evaluation_reports_both_grades_and_counts_the_problems_there_are(task, monkeypatch):
    answers = [problem.answer for problem in task.test_set(20)]
    texts = [text for answer in answers for text in (tagged(answer), f"It is {answer}.")]
    texts[:2] = [tagged("0.5"), "no idea"]
    rollouts = SimpleNamespace(texts=lambda _: texts, lengths=torch.full((40,), 7))
    monkeypatch.setattr(sys.modules["grpo_teach.evaluate"], "sample", lambda *_: rollouts)
    result = evaluate(None, None, task, problems=1024, samples=2)
    assert result.problems == 20 and result.accuracy == pytest.approx(19 / 40)
    assert result.figures == pytest.approx({"strict": 19 / 40, "lenient": 38 / 40, "format": 20 / 40})
    assert result.pass_at_k == pytest.approx({1: 19 / 40, 2: 19 / 20})
    assert result.as_dict()["figures"] == result.figures


def test_training_and_evaluation_by_command(tmp_path, capsys):
    tokenizer = chat_tokenizer()
    policy = tiny_policy(tokenizer, hidden_size=16, layers=1, heads=2, intermediate_size=16)
    save_policy(policy, tokenizer, tmp_path / "model")
    ask = ["--task", "gsm8k", "--data", "sample", "--json", "--max-new-tokens", "4"]
    small = ["--prompts", "2", "--group-size", "2", "--steps", "1", "--evaluate-every", "0", "--quiet"]
    out = ["--out", str(tmp_path / "out"), "--policy", str(tmp_path / "model")]
    assert main(["train", *ask, *small, *out]) == 0
    assert main(["evaluate", *ask, "--grade", "lenient", "--policy", str(tmp_path / "out/policy")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["problems"] == 20 and set(result["figures"]) == {"strict", "lenient", "format"}
    saved = json.loads((tmp_path / "out/manifest.json").read_text())["config"]["task"]
    assert saved == repr(WordProblems(tokenizer, "sample"))


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--task", "gsm8k"], "--policy"),
        (["--task", "gsm8k", "--policy", "no/such/model"], "no/such/model"),
        (["--task", "gsm8k", "--policy", "no/such/model", "--addends", "3"], "--addends"),
        (["--data", "sample"], "--data"),
        (["--task", "addition", "--grade", "strict"], "--grade"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, arguments, word):
    assert main(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and word in captured.err and captured.err.count("\n") == 1
