"""Write the word problems that ship with the package, in GSM8K's format, from six patterns of our own.

    python tests/make_word_problems.py

The same seed writes the same files.
"""

import json
import random
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "grpo_teach" / "data" / "word_problems"
NAMES = ["Amina", "Bram", "Chiara", "Dilip", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jun", "Leila", "Mateo"]


def work(expression: str) -> str:
    """``3*4 = <<3*4=12>>12``: GSM8K marks each calculation for a calculator."""
    result = eval(expression)
    return f"{expression} = <<{expression}={result}>>{result:,}"


def honey(name, a, b, c):
    question = f"{name} sells {a} jars of honey on Saturday and {b} on Sunday, each for {c} euros. How much is that?"
    steps = [f"{name} sells {work(f'{a}+{b}')} jars.", f"They bring in {work(f'{a + b}*{c}')} euros."]
    return question, steps, (a + b) * c


def shelf(name, a, b, c):
    question = f"A shelf has {a} rows of {b} books. {name} takes {c} of them home. How many books stay on the shelf?"
    steps = [f"The shelf holds {work(f'{a}*{b}')} books.", f"{work(f'{a * b}-{c}')} of them stay."]
    return question, steps, a * b - c


def bicycle(name, a, b, c):
    question = f"{name} cycles {a} km on each of five days and {b} km on the sixth. How many km is that in {c} weeks?"
    steps = [f"Five days make {work(f'{a}*5')} km.", f"A week has {work(f'{a * 5}+{b}')} km."]
    steps += [f"{c} weeks have {work(f'{a * 5 + b}*{c}')} km."]
    return question, steps, (a * 5 + b) * c


def coins(name, a, b, c):
    question = f"Kofi has {b} coins. {name} has {a} more than {c} times as many. How many do they have together?"
    steps = [f"{c} times as many is {work(f'{b}*{c}')}.", f"{name} has {work(f'{b * c}+{a}')} coins."]
    steps += [f"Together they have {work(f'{b * c + a}+{b}')} coins."]
    return question, steps, b * c + a + b


def temperature(name, a, b, c):
    question = (
        f"At noon {name} reads {a} degrees. It falls {c} degrees an hour for {b} hours. What does {name} read then?"
    )
    steps = [f"It falls {work(f'{b}*{c}')} degrees.", f"{name} reads {work(f'{a}-{b * c}')} degrees."]
    return question, steps, a - b * c


def savings(name, a, b, c):
    question = f"{name} saves {a * 100} euros a year for {b} years and then spends {c * 10}. How many euros are left?"
    steps = [f"{name} saves {work(f'{a * 100}*{b}')} euros.", f"{work(f'{a * 100 * b}-{c * 10}')} euros are left."]
    return question, steps, a * 100 * b - c * 10


def problems(n: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    rows = {}
    while len(rows) < n:
        pattern = draw.choice([honey, shelf, bicycle, coins, temperature, savings])
        numbers = draw.randint(6, 20), draw.randint(4, 12), draw.randint(3, 9)
        question, steps, answer = pattern(draw.choice(NAMES), *numbers)
        rows[question] = {"question": question, "answer": "\n".join([*steps, f"#### {answer:,}"])}
    return list(rows.values())


if __name__ == "__main__":
    rows = problems(60, seed=8)
    FOLDER.mkdir(exist_ok=True)
    for split, part in (("train", rows[:40]), ("test", rows[40:])):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (FOLDER / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
